"""What each pass is worth: every network with all passes, and with each of them left out.

Ratios are to plain ONNX Runtime on the exporter's own default export. Weights are random, of one seed: they
change no time. From the repository root, on an idle machine:

    python -m models.bench_passes -o docs/passes.md
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated

import torch
import typer
from torch import nn

from models import zoo
from models._benchmark import (
    Networks,
    Output,
    Rounds,
    Seconds,
    chosen,
    environment,
    fail,
    method,
    refuse_unwritable,
    say,
    schedule_of,
    write,
)
from models.bench import parse_batches
from models.squeeze_excite import SEResNet18
from models.zoo import ZOO, Entry
from nncompile import NncompileError, artifact, passes, verify
from nncompile.bench.correctness import rejected
from nncompile.bench.engines import Array, Engine, Feed
from nncompile.bench.engines.exporting import export
from nncompile.bench.engines.onnxruntime import Plain
from nncompile.bench.inputs import make_feed
from nncompile.bench.report import NOTHING, estimate, markdown_table
from nncompile.bench.statistics import paired_ratio
from nncompile.bench.timing import Schedule, measure
from nncompile.calling import Calling
from nncompile.capture import capture
from nncompile.options import CompileOptions
from nncompile.stages import CapturedModel
from nncompile_runtime import container
from nncompile_runtime.bootstrap import Estimate
from nncompile_runtime.machine import this_machine
from nncompile_runtime.manifest import Signature
from nncompile_runtime.plan import default_plan
from nncompile_runtime.predictor import Predictor

YARDSTICK, ALL = "onnxruntime", "all passes"
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


class Variant:
    """An artifact, loaded and called as a user would."""

    threads = None

    def __init__(
        self, name: str, data: bytes, signature: Signature, plan: Mapping[str, object] | None = None
    ) -> None:
        """Open a session for an artifact; `plan` says where it differs from the default plan."""
        self.name = name
        chosen = default_plan(this_machine()).model_copy(update=dict(plan or {}))
        predictor = Predictor(container.parse(data, name), device="cpu", plan=chosen)
        self.description = f"predict, {predictor.session.kernels.note}"
        calling = Calling(signature)
        self._names = calling.names
        self._predict = calling.adapt(predictor.predict)

    def run(self, feed: Feed) -> list[Array]:
        """All outputs of `predict`."""
        return self._predict([feed[name] for name in self._names])


def compiled(captured: CapturedModel, skip: frozenset[str] = frozenset()) -> tuple[bytes, dict[str, int]]:
    """An artifact made with all passes but for those to skip; and how often each changed the graph."""
    optimized = passes.optimize(captured, passes.selected(CompileOptions()), skip)
    data = artifact.build(verify.skip(optimized), CompileOptions(verify=False))
    return data, {report.name: report.changes for report in optimized.passes}


def captured_and_exported(
    build: Callable[[], nn.Module], shape: tuple[int, ...]
) -> tuple[CapturedModel, bytes]:
    """A network of random weights as we capture it, and as PyTorch exports it by default.

    Raises:
        ImportError: The network needs a package that is missing; the message says which.
        NncompileError: It cannot be captured.
    """
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        torch.default_generator.manual_seed(0)
        warnings.filterwarnings("ignore", message="dropout2d: Received a 2-D input")
        module = _with_live_statistics(build()).eval()
        captured = capture(module, torch.randn(2, *shape), None, CompileOptions())
        return captured, export(module, captured.signature, make_feed(captured.signature, 2))


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
    captured, model = captured_and_exported(NETWORKS[name].build, shape)
    names = tuple(spec.name for spec in captured.signature.inputs)
    whole, changes = compiled(captured)
    engines: dict[str, Engine] = {
        YARDSTICK: Plain(model, "torch.onnx.export's graph", names),
        ALL: Variant(ALL, whole, captured.signature),
    }
    wrong: dict[str, str] = {}
    for step in passes.selected(CompileOptions()):
        if changes[step.name]:
            try:
                data, _ = compiled(captured, frozenset({step.name}))
                engines[step.name] = Variant(step.name, data, captured.signature)
            except NncompileError as error:  # another pass may not bear what this one leaves
                wrong[step.name] = f"cannot be made: {error}"
    feed = make_feed(captured.signature, batch)
    wrong |= {found.engine: found.reason for found in rejected(engines, YARDSTICK, feed, batch)}
    calls = {key: partial(engine.run, feed) for key, engine in engines.items() if key not in wrong}
    taken = measure(calls, schedule)
    timed = [key for key in taken if key != YARDSTICK]
    return Ablation(
        network=name,
        batch=batch,
        shape=shape,
        changes=changes,
        ratios={key: paired_ratio(taken[YARDSTICK], taken[key]) for key in timed if YARDSTICK in taken},
        gains={key: paired_ratio(taken[key], taken[ALL]) for key in timed if key != ALL and ALL in taken},
        rejected=wrong,
    )


def _with_live_statistics(module: nn.Module) -> nn.Module:
    """Give batch norms statistics as training leaves them: with 0 and 1 a wrong fold would go unnoticed."""
    for part in module.modules():
        if (
            isinstance(part, nn.BatchNorm2d)
            and part.running_mean is not None
            and part.running_var is not None
        ):
            part.running_mean.normal_(0, 0.1)
            part.running_var.uniform_(0.5, 1.5)
    return module


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


def page(found: Sequence[Ablation], skipped: Mapping[str, str], schedule: Schedule) -> str:
    """The passes, the ablation, and how it was measured."""
    steps = [[step.name, step.summary] for step in passes.PIPELINE]
    sections = [
        "# Passes",
        "In the order in which they run; each file in `nncompile/passes/` begins with its algebra.",
        markdown_table(["pass", "what it does"], steps, [False, False]),
        "## What each is worth",
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
    sections += ["## How", environment(), method(schedule)]
    return "\n\n".join(sections) + "\n"


EVERY = ",".join(NETWORKS)
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    networks: Networks = EVERY,
    batches: Annotated[str, typer.Option("--batches", "-b", help="Batch sizes, comma-separated.")] = "1,64",
    seconds: Seconds = 1.0,
    rounds: Rounds = 10,
    output: Output = None,
) -> None:
    """Leave out one pass after the other and write a page of ratios to plain ONNX Runtime."""
    names, schedule = chosen(networks, NETWORKS), schedule_of(rounds, seconds)
    refuse_unwritable(output)
    try:
        sizes = parse_batches(batches)
    except ValueError as error:
        fail(str(error), 2)
    found: list[Ablation] = []
    skipped: dict[str, str] = {}
    failed = False
    for number, name in enumerate(names, 1):
        for batch in sizes:
            say(f"{number}/{len(names)} {name}, batch {batch} ...")
            try:
                found.append(ablate(name, batch, schedule))
            except (ImportError, NncompileError) as error:
                say(f"{name}: not measured: {error}")
                skipped[name] = str(error)
                failed = failed or isinstance(error, NncompileError)
                break
    if not found:
        fail("nothing was measured", 1)
    write(page(found, skipped, schedule), output)
    if failed:
        raise typer.Exit(1)


if __name__ == "__main__":
    app()
