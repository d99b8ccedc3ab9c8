"""What each pass is worth: every network with all passes, and with each of them left out.

Ratios are to plain ONNX Runtime on the exporter's own default export. Weights are random, of one seed: they
change no time. From the repository root, on an idle machine:

    python -m models.bench_passes -o docs/passes.md
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated

import typer

from models import _benchmark, zoo
from models._variants import YARDSTICK, Variant, captured_and_exported, compiled, timed
from models.squeeze_excite import SEResNet18
from models.zoo import ZOO, Entry
from nncompile import NncompileError, passes
from nncompile.bench.disturbance import load_average
from nncompile.bench.engines import Engine
from nncompile.bench.figures import NOTHING, estimate, markdown_table
from nncompile.bench.statistics import paired_ratio
from nncompile.bench.timing import Schedule
from nncompile.options import CompileOptions
from nncompile_runtime.bootstrap import Estimate

ALL = "all passes"
IMAGES, SMALL_IMAGES = (3, 224, 224), (3, 64, 64)
LARGER: Mapping[str, Entry] = {**zoo.LARGER, "se-resnet18": Entry(SEResNet18, IMAGES)}
NETWORKS: Mapping[str, Entry] = {**ZOO, **LARGER}
# Above this batch, 224x224 images would take gigabytes for each of a dozen sessions, and minutes a round.
LARGEST_BATCH_OF_IMAGES = 8


@dataclass(frozen=True)
class Ablation:
    """One network at one batch.

    Attributes:
        network: Its name.
        batch: Samples in one call.
        shape: Shape of one sample.
        changes: How often each pass changed the graph, by name, with all passes on.
        ratios: How many times as fast as plain ONNX Runtime: with all passes under `ALL`, and under a pass's
            name with that pass left out. A pass that changed nothing is not there.
        gains: How many times as fast with all passes as without this one.
        rejected: Why a variant was not timed, by its name.
    """

    network: str
    batch: int
    shape: tuple[int, ...]
    changes: Mapping[str, int]
    ratios: Mapping[str, Estimate] = field(default_factory=dict)
    gains: Mapping[str, Estimate] = field(default_factory=dict)
    rejected: Mapping[str, str] = field(default_factory=dict)


def sample_shape(name: str, batch: int) -> tuple[int, ...]:
    """Shape of one sample of a network; the larger networks get smaller images at large batches."""
    if name in LARGER and batch > LARGEST_BATCH_OF_IMAGES:
        return SMALL_IMAGES
    return NETWORKS[name].input_shape


def ablate(name: str, batch: int, schedule: Schedule) -> Ablation:
    """Time a network at one batch with all passes and with each left out, interleaved with ONNX Runtime.

    Raises:
        ImportError: The network needs a package that is missing; the message says which.
        NncompileError: It cannot be captured.
    """
    shape = sample_shape(name, batch)
    captured, exported = captured_and_exported(NETWORKS[name].build, shape)
    whole, changes = compiled(captured)
    variants: dict[str, Callable[[], Engine]] = {ALL: partial(Variant, ALL, whole, captured.signature)}
    wrong: dict[str, str] = {}
    for step in passes.selected(CompileOptions()):
        if changes[step.name]:
            try:
                data, _ = compiled(captured, frozenset({step.name}))
                variants[step.name] = partial(Variant, step.name, data, captured.signature)
            except NncompileError as error:  # another pass may not bear what this one leaves
                wrong[step.name] = f"cannot be made: {error}"
    samples = timed(variants, exported, captured.signature, batch, schedule)
    wrong |= {found.engine: found.reason for found in samples.rejected}
    taken = samples.taken[batch]
    others = [key for key in taken if key != YARDSTICK]
    ratio = partial(paired_ratio, sessions=schedule.sessions)
    return Ablation(
        network=name,
        batch=batch,
        shape=shape,
        changes=changes,
        ratios={key: ratio(taken[YARDSTICK], taken[key]) for key in others if YARDSTICK in taken},
        gains={key: ratio(taken[key], taken[ALL]) for key in others if key != ALL and ALL in taken},
        rejected=wrong,
    )


def table(found: Sequence[Ablation]) -> str:
    """Ratios to plain ONNX Runtime: networks and batches down, passes across."""
    names = [step.name for step in passes.selected(CompileOptions())]
    names = [name for name in names if any(one.changes.get(name) for one in found)]
    rows = []
    for one in found:
        whole = estimate(one.ratios[ALL]) if ALL in one.ratios else _missing(one, ALL)
        cells = [_without(one, name) for name in names]
        rows.append([one.network, "x".join(map(str, one.shape)), str(one.batch), whole, *cells])
    columns = ["network", "sample", "batch", f"{ALL} [95 %]", *(f"without {name}" for name in names)]
    return markdown_table(columns, rows, [False, False] + [True] * (len(columns) - 2))


def _without(one: Ablation, name: str) -> str:
    """A ratio, marked where leaving the pass out made a difference that the interval does not explain."""
    if name not in one.ratios:
        return _missing(one, name)
    gain = one.gains.get(name)
    marked = gain is not None and not gain.low <= 1 <= gain.high
    return f"{one.ratios[name].value:.2f}{'*' if marked else ''}"


def _missing(one: Ablation, name: str) -> str:
    return "rejected" if name in one.rejected else NOTHING


def page(found: Sequence[Ablation], skipped: Mapping[str, str], schedule: Schedule, load: float = 0.0) -> str:
    """The passes, the ablation, and how it was measured; `load` is the load average of before."""
    steps = [[step.name, step.summary] for step in passes.PIPELINE]
    sections = [
        "# Passes",
        "In the order in which they run; each file in `nncompile/passes/` begins with its algebra.",
        markdown_table(["pass", "what it does"], steps, [False, False]),
        "## What each is worth",
        *_benchmark.warnings(load),
        f"Written by `python -m models.bench_passes`: times as fast as plain ONNX Runtime on the exporter's "
        f"own graph, float32, CPU, random weights. A dash: the pass changes nothing in this network; "
        f"one that changes nothing in any has no column. A star: "
        f"the 95 % interval of the time without the pass over the time with all excludes 1, which one in "
        f"twenty does by chance. The larger networks get {'x'.join(map(str, SMALL_IMAGES))} images at "
        f"batches above {LARGEST_BATCH_OF_IMAGES}: a session for each pass must fit in memory.",
        table(found),
    ]
    gaps = [f"{name}: not measured: {reason}" for name, reason in skipped.items()]
    for one in found:
        for key, why in one.rejected.items():
            what = key if key in (ALL, YARDSTICK) else f"without {key}"
            gaps.append(f"{one.network}, batch {one.batch}, {what}: it {why}")
    if gaps:
        sections += ["## Not measured", "\n".join(f"- {gap}" for gap in gaps)]
    sections += ["## How", _benchmark.environment(), _benchmark.method(schedule)]
    return "\n\n".join(sections) + "\n"


EVERY = ",".join(NETWORKS)
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    networks: _benchmark.Networks = EVERY,
    batches: Annotated[str, typer.Option("--batches", "-b", help="Batch sizes, comma-separated.")] = "1,64",
    seconds: _benchmark.Seconds = 1.0,
    rounds: _benchmark.Rounds = 10,
    output: _benchmark.Output = None,
) -> None:
    """Leave out one pass after the other and write a page of ratios to plain ONNX Runtime."""
    names = _benchmark.chosen(networks, NETWORKS)
    schedule = _benchmark.schedule_of(rounds, seconds)
    _benchmark.refuse_unwritable(output)
    sizes, load = _benchmark.batches_of(batches), load_average()
    found: list[Ablation] = []
    skipped: dict[str, str] = {}
    failed = False
    for number, name in enumerate(names, 1):
        for batch in sizes:
            _benchmark.say(f"{number}/{len(names)} {name}, batch {batch} ...")
            try:
                found.append(ablate(name, batch, schedule))
            except (ImportError, NncompileError) as error:
                _benchmark.say(f"{name}: not measured: {error}")
                skipped[name] = str(error)
                failed = failed or isinstance(error, NncompileError)
                break
    if not found:
        _benchmark.fail("nothing was measured", 1)
    _benchmark.write(page(found, skipped, schedule, load), output)
    if failed:
        raise typer.Exit(1)


if __name__ == "__main__":
    app()
