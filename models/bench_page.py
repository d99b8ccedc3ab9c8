"""The page that `models.bench` writes: several networks against every engine, in Markdown."""

from collections.abc import Mapping

from nncompile.bench import BenchReport, grid, sentences

TUNED, OURS = "nncompile-tuned", "nncompile"

# Why a peer is not behind, by network, batch and peer: only what a command of this repository has shown.
_ONE_PRODUCT = "one product of 784 x 100 is nearly all there is to do, as fast in either (see *By layers*)"
_PEAK = (
    "products are all there is to do, and run at the machine's peak (see *Where the rest of the time goes*)"
)
_WEIGHTS = (
    "four fifths of the time go to the last seven convolutions, which read 38 MB of weights for planes of "
    "4 x 4 and 2 x 2 pixels (see *By layers*)"
)
REASONS: grid.Reasons = {
    (network, batch, peer): reason
    for network, batches, reason in (
        ("lazy-mlp", (1, 8, 64, 256), _ONE_PRODUCT),
        ("mynet", (1,), _WEIGHTS),
        ("mlp", (64, 256), _PEAK),
        ("mlp-probabilities", (64, 256), _PEAK),
    )
    for batch in batches
    for peer in ("onnxruntime", "openvino")
}

_SESSIONS = (
    "The median call in the slowest session over that in the fastest: so much, noise included, a comparison "
    "of one session with one session can be wrong by. Besides noise it is which physical pages a session's "
    "memory got: they decide which of its lines share a set of the larger caches, for as long as it lives. "
    "Most concerned are values of some megabytes that pass through memory from layer to layer; with huge "
    "pages (`GLIBC_TUNABLES=glibc.malloc.hugetlb=1`) sessions of ONNX Runtime come close to one another. A "
    "region of the native kernels keeps such values in a scratch that fits into a core's own cache."
)

_DISTANCES = (
    "The time of a call (the median in the fastest of five rounds, with all threads and with one), in four "
    "parts. *limit*: the least "
    "time, by operations (compute) or by weights, inputs and outputs (bandwidth); unlike above, a "
    "convolution that runs by Winograd's algorithm counts with its products, and its transforms count "
    "nothing. *call*: the call of a network of one node on one number, which is Python and ONNX Runtime's "
    "session. *kernels*: the work of one thread alone, shared evenly, beyond the limit: instructions other "
    "than products, caches, the edges of tiles. *sharing*: what is left: threads that wait for one another, "
    "or have nothing to do."
)

_LAYERS = (
    "At the smallest and at the largest batch, in up to six parts: what a network that ends with these "
    "layers takes longer than one that ends before them; it writes out what the whole keeps, so that a part "
    "may come out too long and the next one too short. The first part is without the empty call. The limit "
    "is that of the operations, as above, or of the weights."
)


def page(reports: Mapping[str, BenchReport], skipped: Mapping[str, str], yardstick: str) -> str:
    """Ratios, times, what engines cost before they are warm, and how it was measured.

    Args:
        reports: By network.
        skipped: Networks without a report, and why.
        yardstick: The engine that ratios are relative to.
    """
    any_report = next(iter(reports.values()))
    engines = tuple(dict.fromkeys(e.name for found in reports.values() for e in found.engines))
    ours = [name for name in (TUNED, OURS) if name in engines]
    sections = ["# Benchmarks", "Written by `python -m models.bench`; random weights, float32, CPU."]
    doubts = [f"{name}: {said}" for name, found in reports.items() for said in sentences.warnings(found)]
    if doubts:
        sections += ["**Warning**", "\n".join(f"- {doubt}" for doubt in doubts)]
    sections += ["\n".join(f"- {_described(name, reports)}" for name in engines)]
    for engine in ours:
        sections += [f"## Times as fast as the best peer: {engine}", grid.against_the_best(reports, engine)]
    for engine in ours:
        behind = grid.losses(reports, engine, REASONS) or ["nowhere"]
        sections += [f"## Where {engine} is not ahead", "\n".join(f"- {line}" for line in behind)]
    if ours == [TUNED, OURS]:
        sections += [f"## Times as fast as {OURS}: {TUNED}", grid.ratios(reports, TUNED, OURS)]
    for engine in engines:
        if engine != yardstick:
            title = f"## Times as fast as {yardstick}: {engine}"
            sections += [title, grid.ratios(reports, engine, yardstick)]
    sections += [f"## Median microseconds of one call: {' / '.join(engines)}", grid.medians(reports, engines)]
    anew = tuple(e.name for e in any_report.engines if e.sessions > 1)
    if anew:
        sections += [
            f"## How far sessions differ: {' / '.join(anew)}",
            _SESSIONS,
            grid.spreads(reports, anew),
        ]
    if any_report.roofline is not None:
        said = (
            f"{sentences.ceilings_line(any_report.roofline.ceilings)} The share is of the least time that "
            "the network's operations take there, or its weights, inputs and outputs. Winograd's algorithm "
            "does with fewer operations than are counted."
        )
        for engine in ours:
            sections += [f"## Share of what the machine allows: {engine}", said, grid.shares(reports, engine)]
    if distances := grid.distances(reports):
        sections += ["## Where the rest of the time goes: nncompile", _DISTANCES, distances]
        sections += ["### By layers", _LAYERS, grid.layers(reports)]
    sections += [
        "## `predict` over the bare call of its session",
        "Alternating calls on one session; the aim is at most 5 µs.",
        grid.overheads(reports),
    ]
    if cold := grid.cold(reports):
        said = (
            "A process each, at batch 1, for networks that `--cold` names. Compiling is done once a model; "
            "loading includes the imports."
        )
        sections += ["## Before it is warm", said, cold]
    gaps = [f"{name}: not measured: {reason}" for name, reason in skipped.items()] + grid.gaps(reports)
    if gaps:
        sections += ["## Not measured", "\n".join(f"- {gap}" for gap in gaps)]
    sections += ["## How", sentences.environment(any_report), *_methods(reports)]
    return "\n\n".join(sections) + "\n"


def _described(engine: str, reports: Mapping[str, BenchReport]) -> str:
    """An engine in one line, with the threads that it had in every network."""
    found = [e for one in reports.values() for e in one.engines if e.name == engine]
    counts = " or ".join(dict.fromkeys(sentences.threads(e.threads) for e in found))
    return f"{engine}: {found[-1].description}, {counts}"


def _methods(reports: Mapping[str, BenchReport]) -> list[str]:
    """How it was measured; where networks differ in that, of which ones each text tells."""
    networks: dict[str, list[str]] = {}
    for name, found in reports.items():
        networks.setdefault(sentences.method(found), []).append(name)
    if len(networks) == 1:
        return list(networks)
    return [f"{', '.join(names)}: {told}" for told, names in networks.items()]
