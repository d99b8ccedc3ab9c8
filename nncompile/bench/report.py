"""A benchmark of one model as a table, as data for JSON, and as Markdown."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from typing import TYPE_CHECKING, Any

from nncompile.bench.figures import NOTHING, estimate, markdown_table, microseconds, percent
from nncompile.bench.results import BenchReport, Row
from nncompile.bench.sections import sections
from nncompile.bench.sentences import environment, method, remarks

if TYPE_CHECKING:
    from rich.table import Table

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


def _bullets(lines: list[str]) -> list[str]:
    return [f"- {line}" for line in lines]
