"""A benchmark as one HTML page that needs nothing else: plots, graphs, table, machine and method.

Names in it come from files: the template escapes everything, and the page forbids scripts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jinja2 import Environment, PackageLoader, StrictUndefined

from nncompile.bench import figures, plots, report, sentences
from nncompile.bench.results import BenchReport
from nncompile.bench.sections import sections

if TYPE_CHECKING:
    from nncompile.bench.drawing import Drawing

_OPEN_UP_TO = 40  # lines of a graph: longer ones are folded up


def page(found: BenchReport, graphs: dict[str, Drawing] | None = None) -> str:
    """The page.

    Args:
        found: The benchmark.
        graphs: Drawings by title, in order: the exporter's graph and the compiled one.
    """
    environment = Environment(
        loader=PackageLoader("nncompile.bench"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    drawn = [
        ("Latency: lower is better", plots.latency(found)),
        ("Throughput: higher is better", plots.throughput(found)),
    ]
    if found.roofline is not None and any(limit.flops and limit.bytes for limit in found.roofline.limits):
        drawn.append(("Roofline: the nearer to the roof the better", plots.roofline(found, found.roofline)))
    columns, rows = report.as_rows(found)
    ours = [row for batch in found.batches if (row := found.row("nncompile", batch))]
    return environment.get_template("report.html.j2").render(
        report=found,
        ours=ours,
        plots=drawn,
        graphs=graphs or {},
        open_up_to=_OPEN_UP_TO,
        columns=columns,
        rows=rows,
        sections=sections(found),
        warnings=sentences.warnings(found),
        remarks=sentences.remarks(found),
        method=sentences.method(found),
        estimate=figures.estimate,
        microseconds=figures.microseconds,
        percent=figures.percent,
    )
