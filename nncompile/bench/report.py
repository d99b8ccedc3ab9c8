"""A benchmark of one model as a table, as data for JSON, and as Markdown."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from typing import TYPE_CHECKING, Any

from nncompile.bench.ceilings import Ceilings
from nncompile.bench.correctness import TOLERANCES
from nncompile.bench.results import BenchReport, Row
from nncompile.bench.roofline import Roofline
from nncompile.bench.sections import NOTHING, estimate, microseconds, sections
from nncompile.bench.timing import Schedule, dealt

if TYPE_CHECKING:
    from rich.table import Table

__all__ = [
    "NOTHING",
    "OVER_SESSIONS",
    "as_csv",
    "as_json",
    "as_markdown",
    "as_rows",
    "as_table",
    "ceilings_line",
    "environment",
    "estimate",
    "limits_line",
    "markdown_table",
    "method",
    "microseconds",
    "not_measured",
    "percent",
    "remarks",
    "schedule_line",
    "section_tables",
    "threads",
    "warnings",
]

# How the ratios of rounds become one, in words.
OVER_SESSIONS = (
    "the median over the sessions of each one's median over its rounds; in brackets its 95 % interval, from "
    "a bootstrap of sessions and of the rounds within them"
)

_TRANSFERS = ["transfers"]
_CSV = ["model", "network", "engine", "threads", "batch", "calls", "p50_us", "p90_us", "p95_us", "p99_us"]
_CSV += ["samples_per_second", "yardstick", "ratio", "ratio_low", "ratio_high", "device", "transfers"]


def as_json(report: BenchReport) -> dict[str, Any]:
    """The whole report in what JSON has: the same after `json.dumps` and `json.loads`."""
    plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(report)))
    return plain


def as_table(report: BenchReport) -> Table:
    """The latencies for a terminal, one section a batch, with what was not measured below."""
    from rich.table import Table
    from rich.text import Text

    below = Text("\n".join(remarks(report)))
    table = Table(title=Text(_title(report)), caption=below, title_justify="left", caption_justify="left")
    for name in _columns(report):
        table.add_column(name, justify="left" if name == "engine" else "right")
    for batch in report.batches:
        for cells in _cells(report, batch):
            table.add_row(*map(Text, cells))
        table.add_section()
    return table


def section_tables(report: BenchReport) -> list[Table]:
    """What the report holds besides its latencies, for a terminal."""
    from rich.table import Table
    from rich.text import Text

    tables = []
    for section in sections(report):
        table = Table(title=Text(section.title), title_justify="left")
        for number, name in enumerate(section.columns):
            table.add_column(name, justify="right" if number else "left")
        for cells in section.rows:
            table.add_row(*map(Text, cells))
        tables.append(table)
    return tables


def as_markdown(report: BenchReport) -> str:
    """The table in Markdown, with machine, versions and method."""
    columns, rows = as_rows(report)
    right = [name != "engine" for name in columns]
    lines = [
        f"## {_title(report)}",
        "",
        markdown_table(columns, rows, right),
        "",
        *_bullets(remarks(report)),
    ]
    for section in sections(report):
        right = [False] + [True] * (len(section.columns) - 1)
        lines += ["", f"### {section.title}", "", markdown_table(section.columns, section.rows, right)]
    return "\n".join([*lines, "", environment(report), "", method(report), ""])


def as_csv(report: BenchReport) -> str:
    """One line for each engine and batch; times in microseconds, no ratio where there is none."""
    threads_of = {engine.name: engine.threads for engine in report.engines}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_CSV)
    for row in report.rows:
        ratio = dataclasses.astuple(row.ratio) if row.ratio else (None, None, None)
        times = dataclasses.astuple(row.latency)
        named = (report.model, report.network, row.engine, threads_of[row.engine], row.batch, row.calls)
        compared = (row.samples_per_second, report.method.yardstick, *ratio)
        writer.writerow([*named, *times, *compared, report.device, report.transfers])
    return text.getvalue()


def as_rows(report: BenchReport) -> tuple[list[str], list[list[str]]]:
    """The table as text: the names of its columns, and its cells row by row."""
    return _columns(report), [cells for batch in report.batches for cells in _cells(report, batch)]


def markdown_table(columns: list[str], rows: list[list[str]], right: list[bool]) -> str:
    """A Markdown table; `right` says which columns are aligned to the right."""
    lines = [columns, ["---:" if aligned else ":---" for aligned in right], *rows]
    escaped = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in escaped)


def environment(report: BenchReport) -> str:
    """Machine and versions in one sentence."""
    machine = report.machine
    versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    flags = ", ".join(machine.vector_flags) or "no vector extensions"
    return f"Machine: {machine.cpu} ({flags}), {machine.processors} processors. Versions: {versions}."


def method(report: BenchReport) -> str:
    """How it was measured, in a few sentences."""
    (rtol, atol), own = TOLERANCES["float32"], report.method
    return (
        f"Method: {schedule_line(own.schedule, 'every engine')}; {_handed_over(report)}. "
        f"{_sessions_line(report)}A ratio is {own.yardstick}'s median time over the engine's in the same "
        f"round, {OVER_SESSIONS}. Above 1 is faster than {own.yardstick}. Before it is timed in a session, "
        f"an engine must answer like {own.reference} (float32: rtol {rtol:g}, atol {atol:g})."
    )


def schedule_line(schedule: Schedule, whom: str) -> str:
    """Rounds, sessions and blocks of a schedule, up to what is timed."""
    sessions = len(dealt(range(schedule.rounds), schedule.sessions))
    block = f"{schedule.seconds / schedule.rounds:g} s (at least {schedule.minimum_calls} calls)"
    return (
        f"{schedule.rounds} rounds in one process, in {sessions} session{'s' * (sessions > 1)}. Each round "
        f"gives {whom}, in rotating order, a pause of {schedule.pause:g} s, {schedule.warmup:g} s of calls "
        f"that are not counted, and {block} that are"
    )


def _sessions_line(report: BenchReport) -> str:
    anew = [e.name for e in report.engines if e.sessions > 1]
    kept = [e.name for e in report.engines if e.sessions == 1]
    if not anew:
        return ""
    line = f"Each session opens {', '.join(anew)} anew"
    if kept:
        line += f"; {', '.join(kept)} {'stays' if len(kept) == 1 else 'stay'} open throughout"
    return f"{line}. "


def warnings(report: BenchReport) -> list[str]:
    """What makes the numbers doubtful: a busy machine, engines with different numbers of threads."""
    found = []
    if report.disturbance is not None and report.disturbance.warning:
        found.append(report.disturbance.warning)
    if len({engine.threads for engine in report.engines}) > 1:
        found.append("These engines do not compute with the same number of threads.")
    return found


def not_measured(report: BenchReport) -> list[str]:
    """One sentence for each engine that has no time, on some batch or at all."""
    absent = [f"{a.engine} was not measured: {a.reason}" for a in report.absent]
    return absent + [f"{r.engine} has no time at batch {r.batch}: it {r.reason}." for r in report.rejected]


def _handed_over(report: BenchReport) -> str:
    """What goes into a call and comes out of it, and what of that counts."""
    if report.device == "cpu":
        return "numpy in, numpy out"
    if report.transfers == "none":
        return (
            f"inputs and outputs stay on {report.device}, no transfer is counted, and a call ends when its "
            "outputs are there"
        )
    return f"numpy in, numpy out, so transfers to and from {report.device} are counted"


def _title(report: BenchReport) -> str:
    network = f"{report.network}, " if report.network else ""
    return f"{network}{report.model} ({', '.join(report.inputs)})"


def _columns(report: BenchReport) -> list[str]:
    yardstick = report.method.yardstick
    columns = [
        "batch",
        "engine",
        *_TRANSFERS * bool(report.transfers),
        "p50 µs",
        "p90 µs",
        "p95 µs",
        "p99 µs",
        "samples/s",
        f"x {yardstick} [95 %]",
    ]
    return [*columns, "of limit"] if report.roofline else columns


def _cells(report: BenchReport, batch: int) -> list[list[str]]:
    cells = []
    for engine in report.engines:
        row = report.row(engine.name, batch)
        empty = len(_columns(report)) - 3 - bool(report.transfers)
        numbers = _numbers(row, report) if row else ["rejected", *[NOTHING] * empty]
        transfers = [report.transfers] * bool(report.transfers)
        cells.append([str(batch), engine.name, *transfers, *numbers])
    return cells


def _numbers(row: Row, report: BenchReport) -> list[str]:
    times = (row.latency.p50, row.latency.p90, row.latency.p95, row.latency.p99)
    ratio = estimate(row.ratio) if row.ratio else NOTHING
    if row.engine == report.method.yardstick:
        ratio = "1"
    numbers = [*(microseconds(time) for time in times), f"{row.samples_per_second:,.0f}", ratio]
    return [*numbers, percent(row.share)] if report.roofline else numbers


def percent(share: float | None) -> str:
    """A share of the attainable speed: `43 %`, `0.52 %`."""
    return (
        NOTHING if share is None else f"{100 * share:.{0 if share >= 0.1 else 1 if share >= 0.01 else 2}f} %"
    )


def remarks(report: BenchReport) -> list[str]:
    """Sentences about the engines, what was not measured, and the limit."""
    on_cpu = report.device == "cpu"
    engines = [f"{e.name}: {e.description}{f', {threads(e.threads)}' * on_cpu}" for e in report.engines]
    o = report.overhead
    overhead = (
        f"predict over the bare session call, batch {o.batch}: {estimate(o.difference, 1)} µs "
        f"({o.predict:.1f} against {o.bare:.1f}, {o.pairs} pairs)"
    )
    limits = [limits_line(report.roofline)] if report.roofline else []
    return [*warnings(report), *engines, *not_measured(report), overhead, *limits]


def limits_line(roofline: Roofline) -> str:
    """What the machine allows, and what a share of it is, in three sentences."""
    complete = all(limit.complete for limit in roofline.limits)
    return (
        f"{ceilings_line(roofline.ceilings)} Of limit: the least time for the network's operations, or for "
        f"its weights, inputs and outputs, over the median time{'' if complete else '; at least, because '}"
        f"{'' if complete else 'not every node can be counted'}."
    )


def ceilings_line(ceilings: Ceilings) -> str:
    """What the machine allows, in one sentence."""
    fastest = max(rung.rate for rung in ceilings.rungs)
    where = f"; a call of {ceilings.device} takes {ceilings.launch * 1e6:.1f} µs at least"
    return (
        f"Limit: {ceilings.flops / 1e9:,.0f} GFLOP/s ({ceilings.product}); {ceilings.memory / 1e9:,.1f} GB/s "
        f"from memory, up to {fastest / 1e9:,.0f} GB/s from caches"
        f"{where if ceilings.device else f'; {threads(ceilings.threads)}'}."
    )


def threads(count: int | None) -> str:
    """A number of threads in words."""
    return "threads unknown" if count is None else f"{count} thread{'' if count == 1 else 's'}"


def _bullets(lines: list[str]) -> list[str]:
    return [f"- {line}" for line in lines]
