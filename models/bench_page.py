"""The page that `models.bench` writes: several networks against every engine, in Markdown."""

from collections.abc import Mapping

from nncompile.bench import BenchReport, grid, report

TUNED, OURS = "nncompile-tuned", "nncompile"


def page(reports: Mapping[str, BenchReport], skipped: Mapping[str, str], yardstick: str) -> str:
    """Ratios, times, what engines cost before they are warm, and how it was measured.

    Args:
        reports: By network.
        skipped: Networks without a report, and why.
        yardstick: The engine that ratios are relative to.
    """
    any_report = next(iter(reports.values()))
    described = {e.name: e for found in reports.values() for e in found.engines}
    engines = tuple(described)
    ours = [name for name in (TUNED, OURS) if name in described]
    sections = ["# Benchmarks", "Written by `python -m models.bench`; random weights, float32, CPU."]
    sections += ["\n".join(f"- {e.name}: {e.description}, {e.threads} threads" for e in described.values())]
    for engine in ours:
        sections += [f"## Times as fast as the best peer: {engine}", grid.against_the_best(reports, engine)]
    behind = grid.losses(reports, ours[0])
    if behind:
        sections += [f"## Where {ours[0]} is not ahead", "\n".join(f"- {line}" for line in behind)]
    for engine in engines:
        if engine != yardstick:
            title = f"## Times as fast as {yardstick}: {engine}"
            sections += [title, grid.ratios(reports, engine, yardstick)]
    sections += [f"## Median microseconds of one call: {' / '.join(engines)}", grid.medians(reports, engines)]
    if any_report.roofline is not None:
        said = (
            f"{report.ceilings_line(any_report.roofline.ceilings)} The share is of the least time that the "
            "network's operations take there, or its weights, inputs and outputs. Winograd's algorithm does "
            "with fewer operations than are counted."
        )
        for engine in ours:
            sections += [f"## Share of what the machine allows: {engine}", said, grid.shares(reports, engine)]
    sections += [
        "## `predict` over the bare call of its session",
        "Alternating calls on one session; the aim is at most 5 µs.",
        grid.overheads(reports),
    ]
    if cold := grid.cold(reports):
        said = "A process each, at batch 1. Compiling is done once a model; loading includes the imports."
        sections += ["## Before it is warm", said, cold]
    gaps = [f"{name}: not measured: {reason}" for name, reason in skipped.items()] + grid.gaps(reports)
    if gaps:
        sections += ["## Not measured", "\n".join(f"- {gap}" for gap in gaps)]
    sections += ["## How", report.environment(any_report), report.method(any_report)]
    return "\n\n".join(sections) + "\n"
