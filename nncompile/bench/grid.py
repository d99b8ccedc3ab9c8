"""Benchmarks of several networks side by side, as Markdown: networks down, batches across."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from nncompile.bench.figures import NOTHING, estimate, markdown_table, microseconds, percent
from nncompile.bench.results import BenchReport, Row
from nncompile.bench.sections import Section, cold_section, distance_section, layers_section
from nncompile.bench.sentences import not_measured
from nncompile.bench.statistics import ratio_of_rounds
from nncompile_runtime.bootstrap import Estimate

Reports = Mapping[str, BenchReport]

# (network, batch, peer) -> why that peer is not behind there
Reasons = Mapping[tuple[str, int, str], str]


def ratios(reports: Reports, engine: str, base: str) -> str:
    """How many times faster than another engine one is; a dash where either was not measured."""

    def cell(report: BenchReport, batch: int) -> str:
        ours, theirs = report.row(engine, batch), report.row(base, batch)
        return NOTHING if ours is None or theirs is None else estimate(_ratio(report, theirs, ours))

    return _grid(reports, cell)


def against_the_best(reports: Reports, engine: str) -> str:
    """How many times faster than the best peer an engine is, by the rounds' medians, and which that is."""

    def cell(report: BenchReport, batch: int) -> str:
        ours = report.row(engine, batch)
        found = best_peer(report, batch)
        if ours is None or found is None:
            return NOTHING
        return f"{estimate(_ratio(report, found, ours))} {found.engine}"

    return _grid(reports, cell)


def losses(reports: Reports, engine: str, reasons: Reasons | None = None) -> list[str]:
    """A line for each cell in which an engine is not ahead of the best peer by the whole interval.

    Args:
        reports: By network.
        engine: The engine's name.
        reasons: Why a peer is as fast or faster, where that was measured; else the line says that it was not.
    """
    lines = []
    for name, report in reports.items():
        for batch in report.batches:
            ours, peer = report.row(engine, batch), best_peer(report, batch)
            cell = f"{name}, batch {batch}"
            if ours is None:
                lines.append(f"{cell}: {engine} has no time (see what was not measured)")
            elif peer is None:
                lines.append(f"{cell}: no peer has a time (see what was not measured)")
            elif (ratio := _ratio(report, peer, ours)).low <= 1:
                verdict = "is ahead" if ratio.high < 1 else "is level"
                why = (reasons or {}).get((name, batch, peer.engine), "not explained")
                lines.append(f"{cell}: {peer.engine} {verdict} ({estimate(ratio)}): {why}")
    return lines


def best_peer(report: BenchReport, batch: int) -> Row | None:
    """The row with the least median over sessions of the engines that are not nncompile's own."""
    peers = [row for row in report.rows if row.batch == batch and not row.engine.startswith("nncompile")]
    return min(peers, key=lambda row: row.by_session.p50, default=None)


def medians(reports: Reports, engines: tuple[str, ...]) -> str:
    """Median microseconds of one call, the engines' in the given order between slashes."""

    def cell(report: BenchReport, batch: int) -> str:
        rows = [report.row(engine, batch) for engine in engines]
        times = [microseconds(row.latency.p50) if row else NOTHING for row in rows]
        return NOTHING if set(times) == {NOTHING} else " / ".join(times)

    return _grid(reports, cell)


def spreads(reports: Reports, engines: tuple[str, ...]) -> str:
    """The slowest session's median over the fastest's, the engines' in the given order between slashes."""

    def cell(report: BenchReport, batch: int) -> str:
        rows = [report.row(engine, batch) for engine in engines]
        apart = [f"{row.by_session.apart:.2f}" if row else NOTHING for row in rows]
        return NOTHING if set(apart) == {NOTHING} else " / ".join(apart)

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


def distances(reports: Reports) -> str:
    """Where nncompile's time goes, a row for each network and batch; empty where that was not measured."""
    return _sections({name: distance_section(r) for name, r in reports.items() if r.distances})


def layers(reports: Reports) -> str:
    """Which layers take it, likewise."""
    return _sections({name: layers_section(r) for name, r in reports.items() if r.distances})


def cold(reports: Reports) -> str:
    """What each engine costs before it is warm, a row for each network and engine; empty without any."""
    return _sections({name: cold_section(r) for name, r in reports.items() if r.cold or r.not_cold})


def gaps(reports: Reports) -> list[str]:
    """A sentence for everything that was not measured."""
    return [f"{name}: {line}" for name, report in reports.items() for line in not_measured(report)]


def _ratio(report: BenchReport, yardstick: Row, row: Row) -> Estimate:
    return ratio_of_rounds(yardstick.medians, row.medians, report.method.schedule.sessions)


def _sections(found: Mapping[str, Section]) -> str:
    """Tables of the same columns as one, with a column for the network."""
    if not found:
        return ""
    columns = ["network", *next(iter(found.values())).columns]
    rows = [[name, *cells] for name, section in found.items() for cells in section.rows]
    return markdown_table(columns, rows, [False, False] + [True] * (len(columns) - 2))


def _grid(reports: Reports, cell: Callable[[BenchReport, int], str]) -> str:
    batches = sorted({batch for report in reports.values() for batch in report.batches})
    rows = [[name, *(cell(report, batch) for batch in batches)] for name, report in reports.items()]
    return markdown_table(
        ["network", *(f"batch {b}" for b in batches)], rows, [False] + [True] * len(batches)
    )
