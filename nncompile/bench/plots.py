"""The plots of a benchmark as SVG for a page: no fonts, no scripts, the colours of the text around them.

Engines are told apart by colour (Okabe and Ito's palette, safe for the colour-blind) and by marker.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Iterator
from typing import Any

import matplotlib as mpl
import numpy as np
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

from nncompile.bench.figures import microseconds
from nncompile.bench.results import BenchReport, Row
from nncompile.bench.roofline import Roofline

_COLOURS = ("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#8c8c8c", "#9467bd")
_MARKERS = ("o", "s", "D", "^", "v", "P", "X", "*")
_INK = "#010203"  # becomes the colour of the text around the plot, in light and dark
_STYLE: Any = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.size": 10.5,
    "axes.labelsize": 10.5,
    "legend.fontsize": 9.5,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _INK,
    "grid.alpha": 0.15,
    "lines.linewidth": 1.8,
    "lines.markersize": 6,
}
_WIDTH, _HEIGHT, _LEGEND_ROW = 4.1, 3.0, 0.2  # inches: on a phone nearly as large as drawn


def latency(report: BenchReport) -> Markup:
    """Median time of a call by batch; a thin line reaches up to the 99th percentile."""

    def draw(axes: Axes) -> None:
        for rows, x, style in _series(report):
            p50 = [row.latency.p50 for row in rows]
            above = [max(0.0, row.latency.p99 - row.latency.p50) for row in rows]
            axes.errorbar(
                x,
                p50,
                yerr=([0.0] * len(rows), above),
                elinewidth=1,
                capsize=2,
                label=rows[0].engine,
                **style,
            )
        _batch_axis(axes, report)
        _log_axis(axes, "y", "µs a call, p50 to p99")

    return _svg(
        "latency", "Latency by batch", _told(report, lambda r: f"{microseconds(r.latency.p50)} µs"), draw
    )


def throughput(report: BenchReport) -> Markup:
    """Samples a second by batch."""

    def draw(axes: Axes) -> None:
        for rows, x, style in _series(report):
            axes.plot(x, [row.samples_per_second for row in rows], label=rows[0].engine, **style)
        _batch_axis(axes, report)
        _log_axis(axes, "y", "samples a second")

    told = _told(report, lambda row: f"{row.samples_per_second:,.0f} a second")
    return _svg("throughput", "Throughput by batch", told, draw)


def roofline(report: BenchReport, found: Roofline) -> Markup:
    """Speed over arithmetic intensity (Williams et al. 2009) below the roofs of cache and memory."""
    limits = {limit.batch: limit for limit in found.limits if limit.flops and limit.bytes}
    best = found.ceilings

    def draw(axes: Axes) -> None:
        intensities = [limit.flops / limit.bytes for limit in limits.values()]
        ridge = best.flops / best.memory
        x = np.geomspace(min(*intensities, ridge) / 3, max(*intensities, ridge) * 3, 200)
        fastest = max(rung.rate for rung in best.rungs)
        for rate, name, dashes in (
            (fastest, "roof, data in cache", "--"),
            (best.memory, "roof, data in memory", "-"),
        ):
            roof = np.minimum(best.flops, rate * x) / 1e9
            axes.plot(x, roof, dashes, color=_INK, linewidth=1.2, label=name)
        lowest: dict[int, float] = {}
        for rows, _, style in _series(report):
            known = [row for row in rows if row.batch in limits]
            xs = [limits[row.batch].flops / limits[row.batch].bytes for row in known]
            ys = [limits[row.batch].flops / row.latency.p50 / 1e3 for row in known]
            axes.plot(xs, ys, label=rows[0].engine, **(style | {"linestyle": "none"}))
            for row, y in zip(known, ys, strict=True):
                lowest[row.batch] = min(y, lowest.get(row.batch, y))
        for number, (batch, y) in enumerate(sorted(lowest.items())):
            place = (limits[batch].flops / limits[batch].bytes, y)
            below = (0, -8 - 11 * (number % 2))
            axes.annotate(
                f"batch {batch}", place, below, textcoords="offset points", ha="center", va="top", fontsize=9
            )
        _log_axis(axes, "x", "operations a byte that must be moved")
        _log_axis(axes, "y", "GFLOP/s")
        low, high = axes.get_ylim()
        axes.set_ylim(low * (low / high) ** 0.15, high)  # room for the labels

    told = _told(
        report, lambda row: "unknown" if row.share is None else f"{100 * row.share:.0f} % of the limit"
    )
    return _svg("roofline", "Roofline", told, draw)


def _series(report: BenchReport) -> Iterator[tuple[list[Row], list[float], dict[str, Any]]]:
    """For each engine its rows by batch, where they stand, and how they look."""
    for number, engine in enumerate(report.engines):
        found = [report.row(engine.name, batch) for batch in sorted(report.batches)]
        rows = [row for row in found if row is not None]
        aside = 2 ** (
            0.09 * (number - (len(report.engines) - 1) / 2)
        )  # so that engines do not hide one another
        colour, marker = _COLOURS[number % len(_COLOURS)], _MARKERS[number % len(_MARKERS)]
        if rows:
            yield rows, [row.batch * aside for row in rows], {"color": colour, "marker": marker}


def _batch_axis(axes: Axes, report: BenchReport) -> None:
    batches = sorted(report.batches)
    axes.set_xscale("log", base=2)
    axes.set_xlim(batches[0] / 2, batches[-1] * 2)
    axes.xaxis.set_major_locator(FixedLocator(batches))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f}"))
    axes.set_xlabel("batch")


def _log_axis(axes: Axes, which: str, label: str) -> None:
    axis = getattr(axes, f"{which}axis")
    getattr(axes, f"set_{which}scale")("log")
    low, high = getattr(axes, f"get_{which}lim")()
    narrow = high / low < 30
    axis.set_major_locator(LogLocator(10, (1, 2, 5) if narrow else (1,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
    axis.set_minor_formatter(NullFormatter())
    getattr(axes, f"set_{which}label")(label)


def _short(value: float) -> str:
    """`0.5`, `20`, `3k`, `10M`."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"


def _told(report: BenchReport, what: Callable[[Row], str]) -> str:
    """The plot in words."""
    batches = []
    for batch in sorted(report.batches):
        rows = [row for engine in report.engines if (row := report.row(engine.name, batch))]
        batches.append(f"Batch {batch}: {', '.join(f'{row.engine} {what(row)}' for row in rows)}.")
    return " ".join(batches)


def _svg(name: str, title: str, told: str, draw: Callable[[Axes], None]) -> Markup:
    """A plot as an element of a page, with its title and itself in words for those who cannot see it."""
    with mpl.rc_context({**_STYLE, "svg.hashsalt": name}):
        figure = Figure(layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        draw(axes)
        labels = axes.get_legend_handles_labels()[1]
        figure.set_size_inches(_WIDTH, _HEIGHT + _LEGEND_ROW * math.ceil(len(labels) / 2))
        if labels:
            figure.legend(loc="outside lower center", ncols=2, frameon=False)
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    drawn = file.getvalue()
    start = re.search(r"<svg [^>]*viewBox=\"([^\"]*)\"[^>]*>", drawn)
    assert start is not None  # noqa: S101
    inside = re.sub(r"<metadata>.*?</metadata>", "", drawn[start.end() :], flags=re.DOTALL)
    # Several plots in one page: what refers to an element by its id must find its own.
    inside = re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{name}-", inside).replace(_INK, "currentColor")
    return Markup(  # noqa: S704  drawn by matplotlib, which escapes text; the rest is escaped here
        f'<svg class="plot" id="{name}" viewBox="{start[1]}" role="img" '
        f'aria-labelledby="{name}-title {name}-told" xmlns:xlink="http://www.w3.org/1999/xlink">'
        f'<title id="{name}-title">{escape(title)}</title>'
        f'<desc id="{name}-told">{escape(told)}</desc>{inside}'
    )
