"""What a report may hold besides its latencies, as tables: a scenario, and engines in fresh processes."""

from __future__ import annotations

from dataclasses import dataclass

from nncompile.bench.distance import Distance
from nncompile.bench.figures import NOTHING, estimate, microseconds, percent
from nncompile.bench.results import BenchReport, Cold
from nncompile.bench.scenarios import ScenarioReport, ScenarioRow


@dataclass(frozen=True)
class Section:
    """A table of texts.

    Attributes:
        title: What it shows and how it was measured, in one line.
        columns: Their names; the first is aligned to the left, the others to the right.
        rows: Their cells.
    """

    title: str
    columns: list[str]
    rows: list[list[str]]


def sections(report: BenchReport) -> list[Section]:
    """The tables that the report has."""
    found = []
    if report.scenario is not None:
        found.append(_scenario(report.scenario, report.method.yardstick))
    if any(row.shares for row in report.rows):
        found.append(shares_section(report))
    if report.cold or report.not_cold:
        found.append(cold_section(report))
    if report.distances:
        found += [distance_section(report), layers_section(report)]
    return found


def _scenario(report: ScenarioReport, yardstick: str) -> Section:
    scenario = report.scenario
    says = {
        "single-stream": "single-stream: the next query when the last is answered; ratio of p90",
        "offline": "offline: all samples at once, in each engine's best batch; ratio of samples/s",
        "server": f"server: Poisson arrivals, {scenario.rate or 0:,g} queries/s; ratio of p99",
    }
    columns = [
        "engine",
        "batch",
        "queries",
        "p50 µs",
        "p90 µs",
        "p99 µs",
        "samples/s",
        f"x {yardstick} [95 %]",
    ]
    if scenario.name == "server":
        columns.append(f"p99 within {scenario.bound:g} ms")
    return Section(says[scenario.name], columns, [_scenario_cells(row, yardstick) for row in report.rows])


def _scenario_cells(row: ScenarioRow, yardstick: str) -> list[str]:
    times = (row.latency.p50, row.latency.p90, row.latency.p99)
    ratio = "1" if row.engine == yardstick else estimate(row.ratio) if row.ratio else NOTHING
    cells = [row.engine, str(row.batch), str(row.queries), *map(microseconds, times)]
    cells += [f"{row.samples_per_second:,.0f}", ratio]
    return cells if row.held is None else [*cells, "yes" if row.held else "no"]


def shares_section(report: BenchReport) -> Section:
    """What each line of the roofline takes of the time of each engine."""
    columns = ["engine", "batch", "launches", "by FLOPs", "by bytes", "by launches"]
    rows = [
        [
            row.engine,
            str(row.batch),
            NOTHING if row.launches is None else str(row.launches),
            *map(percent, (row.shares.compute, row.shares.bandwidth, row.shares.launch)),
        ]
        for row in report.rows
        if row.shares is not None
    ]
    title = "share of the roofline: what each line takes at least, of the median call; launches of one call"
    return Section(title, columns, rows)


def cold_section(report: BenchReport) -> Section:
    """What each engine costs in a fresh process."""
    columns = ["engine", "compile s", "load s", "first call ms", "peak MiB"]
    rows = [_cold_cells(cold) for cold in report.cold]
    if report.device != "cpu":
        columns.append("GPU MiB")
        for cells, cold in zip(rows, report.cold, strict=True):
            cells.append(NOTHING if cold.gpu_mib is None else f"{cold.gpu_mib:,.0f}")
    empty = [NOTHING] * (len(columns) - 2)
    rows += [[absent.engine, absent.reason, *empty] for absent in report.not_cold]
    batch = report.cold[0].batch if report.cold else min(report.batches)
    return Section(f"a fresh process each, batch {batch}", columns, rows)


def _cold_cells(cold: Cold) -> list[str]:
    compiling = NOTHING if cold.compile_seconds is None else f"{cold.compile_seconds:.2f}"
    first = f"{cold.first_call_seconds * 1e3:,.2f}"
    return [cold.engine, compiling, f"{cold.load_seconds:.2f}", first, f"{cold.peak_mib:,.0f}"]


def distance_section(report: BenchReport) -> Section:
    """Where the time of nncompile's calls goes."""
    title = "where the time of nncompile goes: limit, an empty call, slower kernels, sharing among threads"
    columns = ["batch", "µs", "1 thread µs", "limit", "by", "call", "kernels", "sharing"]
    return Section(title, columns, [_distance_cells(distance) for distance in report.distances])


def layers_section(report: BenchReport) -> Section:
    """Which layers take the time of the smallest and of the largest batch."""
    rows = [
        [str(d.batch), s.name, microseconds(s.time), microseconds(s.limit), percent(s.share)]
        for d in report.distances
        for s in d.stages
    ]
    return Section(
        "the time of its layers, from networks that end a few layers later each",
        ["batch", "layers", "µs", "limit µs", "of limit"],
        rows,
    )


def _distance_cells(found: Distance) -> list[str]:
    parts = (found.limit, found.call, found.kernels, found.sharing)
    limit, *others = (f"{100 * part / found.time:.0f} %" for part in parts)
    times = microseconds(found.time), microseconds(found.alone)
    return [str(found.batch), *times, limit, found.bound, *others]
