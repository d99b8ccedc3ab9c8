"""Graphs and passes as tables for a terminal and as data for JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from nncompile.cli import console

if TYPE_CHECKING:
    from nncompile.cli._graphs import Explained
    from nncompile.costs import GraphCost, NodeCost
    from nncompile.flops import Shape

UNKNOWN = "?"


def nodes_as_dict(cost: GraphCost) -> dict[str, Any]:
    """The nodes of a graph with their totals."""
    return {
        "batch": cost.batch,
        "nodes": [asdict(node) for node in cost.nodes],
        "totals": asdict(cost.totals),
    }


def summary_as_dict(cost: GraphCost) -> dict[str, Any]:
    """The totals of a graph and how often each operator occurs."""
    return {"batch": cost.batch, "totals": asdict(cost.totals), "operators": cost.operators()}


def passes_as_list(passes: Sequence[Explained]) -> list[dict[str, Any]]:
    """What each pass did, and what it is for."""
    return [{"summary": step.summary, **asdict(step.report)} for step in passes]


def nodes_table(cost: GraphCost, *, native: bool) -> Table:
    """One node a row, the totals last; of a region what it contains, and whether kernels run it."""
    table = console.table("node", "operator", ">output", ">FLOPs", ">bytes", ">parameters")
    for node in cost.nodes:
        table.add_row(
            *map(
                Text,
                (node.name, _what(node, native), _shape(node.shape), count(node.flops), count(node.bytes)),
            ),
            Text(count(node.parameters)),
        )
    totals = cost.totals
    numbers = (
        _sum(totals.flops, totals.unknown),
        _sum(totals.bytes, totals.unknown),
        count(totals.parameters),
    )
    table.add_row(f"{totals.nodes} nodes, batch {cost.batch}", "", "", *numbers, style="bold")
    return table


def comparison_table(before: GraphCost, after: GraphCost) -> Table:
    """Totals and operators of two graphs side by side."""
    table = console.table("", ">before", ">after")
    for name, of in (
        ("nodes", "nodes"),
        ("FLOPs", "flops"),
        ("bytes", "bytes"),
        ("parameters", "parameters"),
    ):
        cells = []
        for totals in (before.totals, after.totals):
            unknown = totals.unknown if of in ("flops", "bytes") else 0
            cells.append(_sum(getattr(totals, of), unknown))
        table.add_row(name, *cells)
    counts = before.operators(), after.operators()
    for operator in sorted(counts[0].keys() | counts[1].keys()):
        table.add_row(Text(f"  {operator}"), *(count(found.get(operator, 0)) for found in counts))
    return table


def pass_lines(passes: Sequence[Explained]) -> Iterator[str]:
    """For each pass what it is for, where each of its rules fired, and where it nearly did."""
    for step in passes:
        report = step.report
        did = f"{report.changes} changes, {report.nodes_before} -> {report.nodes_after} nodes"
        yield f"{report.name}: {step.summary}"
        yield f"  {did if report.changes else 'no change'}"
        fired: dict[tuple[str, str], list[str]] = {}
        for firing in report.firings:
            fired.setdefault((firing.rule, firing.gain), []).append(firing.node)
        for (rule, gain), nodes in fired.items():
            yield f"  fired: {rule} at {', '.join(nodes)}" + (f": {gain}" if gain else "")
        for refusal in report.refusals:
            yield f"  near miss: {refusal.rule} at {refusal.node}: {refusal.reason}"


def _what(node: NodeCost, native: bool) -> str:
    """Its operator; of a region what it contains, and what runs it."""
    return f"{'native' if native else 'plain'} {node.label}" if node.contains else node.operator


def _shape(shape: Shape | None) -> str:
    if shape is None:
        return UNKNOWN
    return "x".join(count(size).replace(",", "") for size in shape) or "scalar"


def count(number: int | None) -> str:
    """A number for people: `1,234`, or `?`."""
    return UNKNOWN if number is None else f"{number:,}"


def _sum(number: int, unknown: int) -> str:
    """A total; with an unknown part, `1,234 + ?`."""
    return f"{number:,} + {UNKNOWN}" if unknown else f"{number:,}"
