"""Benchmarks of several networks side by side, as Markdown: networks down, batches across."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from nncompile.bench.report import NOTHING, estimate, markdown_table, microseconds, not_measured, percent
from nncompile.bench.results import BenchReport

Reports = Mapping[str, BenchReport]


def ratios(reports: Reports, engine: str, yardstick: str) -> str:
    """How many times faster than the yardstick an engine is; a dash where it was not measured."""

    def cell(report: BenchReport, batch: int) -> str:
        row = report.row(engine, batch)
        if row is None or row.ratio is None or report.method.yardstick != yardstick:
            return NOTHING
        return estimate(row.ratio)

    return _grid(reports, cell)


def medians(reports: Reports, engines: tuple[str, ...]) -> str:
    """Median microseconds of one call, the engines' in the given order between slashes."""

    def cell(report: BenchReport, batch: int) -> str:
        rows = [report.row(engine, batch) for engine in engines]
        times = [microseconds(row.latency.p50) if row else NOTHING for row in rows]
        return NOTHING if set(times) == {NOTHING} else " / ".join(times)

    return _grid(reports, cell)


def shares(reports: Reports, engine: str) -> str:
    """Which part of the attainable speed an engine reaches; a dash where it is not known."""

    def cell(report: BenchReport, batch: int) -> str:
        row = report.row(engine, batch)
        return NOTHING if row is None else percent(row.share)

    return _grid(reports, cell)


def overheads(reports: Reports) -> str:
    """What `predict` costs over the bare session call, one network a row."""
    rows = []
    for name, report in reports.items():
        o = report.overhead
        rows.append(
            [
                name,
                str(o.batch),
                microseconds(o.predict),
                microseconds(o.bare),
                estimate(o.difference, 1),
            ]
        )
    columns = ["network", "batch", "predict µs", "session.run µs", "difference µs [95 %]"]
    return markdown_table(columns, rows, [False, True, True, True, True])


def gaps(reports: Reports) -> list[str]:
    """A sentence for everything that was not measured."""
    return [f"{name}: {line}" for name, report in reports.items() for line in not_measured(report)]


def _grid(reports: Reports, cell: Callable[[BenchReport, int], str]) -> str:
    batches = sorted({batch for report in reports.values() for batch in report.batches})
    rows = [[name, *(cell(report, batch) for batch in batches)] for name, report in reports.items()]
    return markdown_table(
        ["network", *(f"batch {b}" for b in batches)], rows, [False] + [True] * len(batches)
    )
