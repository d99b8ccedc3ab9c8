"""What a report may hold besides its latencies, as tables: a scenario, and engines in fresh processes."""

from __future__ import annotations

from dataclasses import dataclass

from nncompile.bench.results import BenchReport, Cold
from nncompile.bench.scenarios import ScenarioReport, ScenarioRow
from nncompile_runtime.bootstrap import Estimate

NOTHING = "-"


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
    if report.cold or report.not_cold:
        found.append(cold_section(report))
    return found


def estimate(value: Estimate, digits: int = 2) -> str:
    """For example `1.83 [1.75, 1.90]`."""
    return f"{value.value:.{digits}f} [{value.low:.{digits}f}, {value.high:.{digits}f}]"


def microseconds(time: float) -> str:
    """Four figures or so: `9.31`, `52.8`, `1,204`."""
    return f"{time:,.{2 if time < 10 else 1 if time < 100 else 0}f}"


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
