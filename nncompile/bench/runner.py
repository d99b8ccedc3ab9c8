"""`run`: the steps of a benchmark in order and nothing else."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from importlib import metadata
from typing import TYPE_CHECKING

from nncompile.bench.correctness import Rejected, rejected
from nncompile.bench.engines import (
    Engine,
    EngineError,
    Subject,
    check_names,
    open_engine,
)
from nncompile.bench.inputs import check_batches, fixed_batch, make_feed
from nncompile.bench.overhead import measure_overhead
from nncompile.bench.results import Absent, BenchReport, EngineInfo, Method, Row
from nncompile.bench.roofline import Roofline, measure_roofline
from nncompile.bench.statistics import latency, paired_ratio, samples_per_second
from nncompile.bench.timing import Latencies, Schedule, measure
from nncompile_runtime.machine import installed_onnxruntime, this_machine
from nncompile_runtime.predictor import load

if TYPE_CHECKING:
    import torch

Progress = Callable[[str, int, int], None]

BATCHES = (1, 8, 64, 256)
AGAINST = ("onnxruntime", "eager")
_OURS, _YARDSTICK, _REFERENCE = "nncompile", "onnxruntime", "eager"


def run(
    model_path: str | os.PathLike[str],
    batches: Sequence[int] = BATCHES,
    against: Sequence[str] = AGAINST,
    *,
    module: torch.nn.Module | None = None,
    schedule: Schedule | None = None,
    sizes: Mapping[str, int] | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> BenchReport:
    """Benchmark a model on the CPU against other engines, interleaved in this process.

    Ratios are relative to plain ONNX Runtime, or to the first engine of `against` that can be had
    where it is not among them. Answers are compared with eager PyTorch's, or with the yardstick's.

    Args:
        model_path: An artifact, or any ONNX file.
        batches: Samples in one call.
        against: Names of the engines to compare with, from `engines.NAMES`.
        module: The module that the file was compiled from; eager PyTorch needs it, and plain ONNX
            Runtime then runs PyTorch's own export of it.
        schedule: How long and how often each engine is timed.
        sizes: Sizes of free dimensions other than the batch, by symbol.
        seed: Seed of the inputs.
        progress: Told what is done next, the blocks done, and the blocks in all.

    Raises:
        ModelLoadError: The file cannot be loaded.
        NncompileError: An engine's name or a batch makes no sense, or a free dimension has no size.
    """
    schedule = schedule or Schedule()
    batches = tuple(dict.fromkeys(batches))
    names = tuple(dict.fromkeys((_OURS, *against)))
    check_names(list(names))
    machine = this_machine()
    predictor = load(model_path, device="cpu")
    signature = predictor.signature
    check_batches(signature, batches)
    feeds = {batch: make_feed(signature, batch, sizes, seed) for batch in batches}
    least = fixed_batch(signature) or 1
    example = make_feed(signature, 2, sizes, seed)
    subject = Subject(os.fspath(model_path), predictor, signature, module, machine.processors, example)
    roofline = measure_roofline(model_path, signature, batches, machine.processors)
    with ExitStack() as stack:
        engines, absent = _open(names, subject, stack)
        method = _method(engines, against, schedule, seed)
        steps = _Steps(progress, len(batches) * len(engines) * schedule.rounds + 1)
        rows: list[Row] = []
        wrong: list[Rejected] = []
        for batch, feed in feeds.items():
            found = rejected(engines, method.reference, feed, batch)
            out = {r.engine for r in found}
            calls = {name: partial(e.run, feed) for name, e in engines.items() if name not in out}
            taken = measure(calls, schedule, on_block=partial(steps.next, batch))
            steps.skip(len(found) * schedule.rounds)
            rows += _rows(taken, method.yardstick, batch, roofline)
            wrong += found
        steps.next(least, "overhead of predict")
        overhead = measure_overhead(
            subject,
            make_feed(signature, least, sizes, seed),
            least,
            seconds=schedule.seconds,
            warmup=schedule.warmup,
        )
        infos = tuple(EngineInfo(e.name, e.description, e.threads) for e in engines.values())
    manifest = predictor.manifest
    return BenchReport(
        model=os.path.basename(subject.path),
        network=manifest.model_name if manifest else "",
        inputs=tuple(f"{spec.name}: {spec}" for spec in signature.inputs),
        machine=machine,
        versions=_versions(),
        method=method,
        batches=batches,
        engines=infos,
        rows=tuple(rows),
        rejected=tuple(wrong),
        absent=tuple(absent),
        overhead=overhead,
        roofline=roofline,
    )


def _open(names: Sequence[str], subject: Subject, stack: ExitStack) -> tuple[dict[str, Engine], list[Absent]]:
    engines: dict[str, Engine] = {}
    absent = []
    for name in names:
        try:
            engines[name] = stack.enter_context(open_engine(name, subject))
        except EngineError as error:
            absent.append(Absent(name, str(error)))
    return engines, absent


def _method(engines: Mapping[str, Engine], against: Sequence[str], schedule: Schedule, seed: int) -> Method:
    yardstick = next(name for name in (_YARDSTICK, *against, _OURS) if name in engines)
    reference = _REFERENCE if _REFERENCE in engines else yardstick
    return Method(schedule, seed, reference, yardstick)


def _rows(
    taken: Mapping[str, Sequence[Latencies]], yardstick: str, batch: int, roofline: Roofline | None
) -> list[Row]:
    return [
        Row(
            engine=name,
            batch=batch,
            calls=sum(map(len, rounds)),
            latency=(times := latency(rounds)),
            samples_per_second=samples_per_second(rounds, batch),
            ratio=paired_ratio(taken[yardstick], rounds) if yardstick in taken else None,
            share=roofline.share(batch, times.p50) if roofline else None,
        )
        for name, rounds in taken.items()
    ]


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in ("nncompile", "torch", "numpy"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions | installed_onnxruntime()


class _Steps:
    """Counts blocks for the progress callback."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress, self._done, self._total = progress, 0, total

    def next(self, batch: int, what: str) -> None:
        if self._progress is not None:
            self._progress(f"batch {batch}: {what}", self._done, self._total)
        self._done += 1

    def skip(self, blocks: int) -> None:
        self._done += blocks
