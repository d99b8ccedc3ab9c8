"""Profiles against the roofline, as tables for a terminal and as data for JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from rich.text import Text

from nncompile.cli import _graph_tables as graphs
from nncompile.cli import console
from nncompile.cli._graphs import compiler_needed

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from nncompile.bench.ceilings import Ceilings
    from nncompile.bench.profile import NodeTime, Profile
    from nncompile_runtime.container import ModelFile
    from nncompile_runtime.manifest import Signature
    from nncompile_runtime.plan import Plan

_INLINED = "_inlfunc_FusedRegion_"  # what ONNX Runtime puts before the names of a region's nodes


@dataclass(frozen=True)
class Measured:
    """Profiles of one model, and what the machine allows."""

    ceilings: Ceilings
    profiles: tuple[Profile, ...]


def measured(model: ModelFile, plans: Sequence[Plan], signature: Signature, batch: int) -> Measured:
    """Profile a model under each plan; all plans have as many threads.

    Raises:
        NncompileError: A package is missing, or a free dimension other than the batch has no size.
    """
    with compiler_needed():
        from nncompile.bench.ceilings import measure_ceilings
        from nncompile.bench.profile import profile
    profiles = tuple(profile(model, plan, signature, batch) for plan in plans)
    return Measured(measure_ceilings(plans[0].threads), profiles)


def as_dict(found: Measured) -> dict[str, Any]:
    """Everything, times in microseconds and shares of 1."""
    return {
        "ceilings": asdict(found.ceilings),
        "runs": [
            {
                "batch": profile.batch,
                "threads": profile.threads,
                "kernels": profile.kernels,
                "runs": profile.runs,
                "microseconds": profile.microseconds,
                "between_nodes": profile.between,
                "nodes": [
                    {
                        **asdict(node.cost),
                        "microseconds": node.microseconds,
                        "share": node.microseconds / profile.microseconds,
                        "of_limit": attained(node, found.ceilings),
                    }
                    for node in profile.nodes
                ],
            }
            for profile in found.profiles
        ],
    }


def tables(found: Measured) -> list[RenderableType]:
    """A table for each profile, and what the limit is."""
    from nncompile.bench.sentences import ceilings_line

    note = (
        f"{ceilings_line(found.ceilings)} Of limit: the least time for a node's operations, or for what it "
        "reads and writes, over its time. ONNX Runtime counts whole microseconds and drops the rest."
    )
    return [*(_table(profile, found.ceilings) for profile in found.profiles), Text(note)]


def attained(node: NodeTime, ceilings: Ceilings) -> float | None:
    """The share of the attainable speed; None where it is not known, or the clock saw no time."""
    from nncompile.bench.roofline import least_seconds

    cost = node.cost
    if cost.flops is None or cost.bytes is None or not node.microseconds:
        return None
    return least_seconds(cost.flops, cost.bytes, ceilings)[0] * 1e6 / node.microseconds


def _table(profile: Profile, ceilings: Ceilings) -> Table:
    from nncompile.bench.figures import microseconds, percent

    title = f"batch {profile.batch}, {profile.runs} runs, {profile.threads} threads, {profile.kernels}"
    table = console.table("node", "operator", ">µs", ">time", ">FLOPs", ">bytes", ">of limit", title=title)
    for node in profile.nodes:
        cost = node.cost
        table.add_row(
            Text(cost.name.replace(_INLINED, "")),
            Text(cost.label),
            microseconds(node.microseconds),
            percent(node.microseconds / profile.microseconds),
            graphs.count(cost.flops),
            graphs.count(cost.bytes),
            percent(attained(node, ceilings)),
        )
    between = microseconds(profile.between), percent(profile.between / profile.microseconds)
    table.add_row("between the nodes", "", *between, "", "", "")
    table.add_row("one run", "", microseconds(profile.microseconds), style="bold")
    return table
