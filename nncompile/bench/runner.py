"""`run`: the steps of a benchmark in order and nothing else."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np

from nncompile.bench.correctness import Rejected, rejected
from nncompile.bench.engines import (
    Engine,
    EngineError,
    Feed,
    Subject,
    check_names,
    open_engine,
)
from nncompile.bench.inputs import check_batches, fixed_batch, make_feed
from nncompile.bench.overhead import measure_overhead
from nncompile.bench.results import Absent, BenchReport, Cold, EngineInfo, Method, Row
from nncompile.bench.roofline import Roofline, measure_roofline
from nncompile.bench.scenarios import (
    Scenario,
    ScenarioReport,
    ScenarioRow,
    measure_server,
    offline,
    server,
    single_stream,
)
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
    scenario: Scenario | None = None,
    cold: bool = False,
    compile_seconds: float | None = None,
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
        seed: Seed of the inputs, and of a server's arrivals.
        scenario: What to make of the latencies besides; a server's queries are of the smallest batch.
        cold: Start each engine in a fresh process too, at the smallest batch.
        compile_seconds: How long compiling the file took, to be told among what engines cost before.
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
    signature, manifest = predictor.signature, predictor.manifest
    precision = manifest.precision if manifest else "float32"
    del predictor  # its threads; the engines have their own
    check_batches(signature, batches)
    feeds = {batch: make_feed(signature, batch, sizes, seed) for batch in batches}
    least = fixed_batch(signature) or 1
    example = make_feed(signature, 2, sizes, seed)
    roofline = measure_roofline(model_path, signature, batches, machine.processors)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        path = os.fspath(model_path)
        subject = Subject(path, signature, module, machine.processors, example, folder)
        engines, absent = _open(names, subject, stack)
        method = _method(engines, against, schedule, seed)
        serving = scenario is not None and scenario.name == "server"
        blocks = (len(batches) + serving) * len(engines) * schedule.rounds
        steps = _Steps(progress, blocks + 1 + cold * len(engines))
        taken: dict[int, dict[str, tuple[Latencies, ...]]] = {}
        wrong: list[Rejected] = []
        for batch, feed in feeds.items():
            found = rejected(engines, method.reference, feed, batch, precision)
            taken[batch] = measure(
                _calls(engines, feed, found), schedule, on_block=partial(steps.next, f"batch {batch}")
            )
            steps.skip(len(found) * schedule.rounds)
            wrong += found
        smallest = min(batches)
        scenario_report = None
        if scenario is not None:
            calls = _calls(engines, feeds[smallest], [r for r in wrong if r.batch == smallest])
            rows = _scenario_rows(scenario, taken, calls, method, smallest, steps)
            steps.skip(serving * (len(engines) - len(calls)) * schedule.rounds)
            scenario_report = ScenarioReport(scenario, rows)
        steps.next(f"batch {least}", "overhead of predict")
        overhead = measure_overhead(
            subject.predictor,
            make_feed(signature, least, sizes, seed),
            least,
            seconds=schedule.seconds,
            warmup=schedule.warmup,
        )
        fresh: list[Cold] = []
        failed: list[Absent] = []
        if cold:
            fresh, failed = _cold(engines, subject, smallest, sizes, seed, steps)
            fresh = [replace(c, compile_seconds=compile_seconds) if c.engine == _OURS else c for c in fresh]
        infos = tuple(EngineInfo(e.name, e.description, e.threads) for e in engines.values())
    return BenchReport(
        model=os.path.basename(subject.path),
        network=manifest.model_name if manifest else "",
        inputs=tuple(f"{spec.name}: {spec}" for spec in signature.inputs),
        machine=machine,
        versions=_versions(),
        method=method,
        batches=batches,
        engines=infos,
        rows=tuple(
            row for batch in batches for row in _rows(taken[batch], method.yardstick, batch, roofline)
        ),
        rejected=tuple(wrong),
        absent=tuple(absent),
        overhead=overhead,
        scenario=scenario_report,
        cold=tuple(fresh),
        not_cold=tuple(failed),
        roofline=roofline,
    )


def _calls(
    engines: Mapping[str, Engine], feed: Feed, wrong: Sequence[Rejected]
) -> dict[str, Callable[[], object]]:
    out = {r.engine for r in wrong}
    return {name: partial(engine.run, feed) for name, engine in engines.items() if name not in out}


def _scenario_rows(
    scenario: Scenario,
    taken: Mapping[int, Mapping[str, tuple[Latencies, ...]]],
    calls: Mapping[str, Callable[[], object]],
    method: Method,
    batch: int,
    steps: _Steps,
) -> tuple[ScenarioRow, ...]:
    if scenario.name == "single-stream":
        return single_stream(taken, method.yardstick)
    if scenario.name == "offline":
        return offline(taken, method.yardstick)
    told = partial(steps.next, "server")
    served = measure_server(calls, scenario, method.schedule, method.seed, on_block=told)
    return server(served, batch, method.yardstick, scenario, method.seed)


def _cold(
    engines: Mapping[str, Engine],
    subject: Subject,
    batch: int,
    sizes: Mapping[str, int] | None,
    seed: int,
    steps: _Steps,
) -> tuple[list[Cold], list[Absent]]:
    # Not at the top: what is run as __main__ should not have been imported by its package.
    from nncompile.bench.cold import measure_cold, write_request

    fresh: list[Cold] = []
    failed: list[Absent] = []
    write_request(subject, {"batch": batch, "sizes": dict(sizes or {}), "seed": seed})
    for name, engine in engines.items():
        steps.next("a fresh process", name)
        try:
            fresh.append(measure_cold(engine, subject))
        except EngineError as error:
            failed.append(Absent(name, str(error)))
    return fresh, failed


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
            medians=tuple(float(np.median(r)) / 1e3 for r in rounds),
            share=roofline.share(batch, times.p50) if roofline else None,
        )
        for name, rounds in taken.items()
    ]


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in ("nncompile", "torch", "numpy", "openvino", "ncnn", "pnnx"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions | installed_onnxruntime()


class _Steps:
    """Counts blocks for the progress callback."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress, self._done, self._total = progress, 0, total

    def next(self, where: str, what: str) -> None:
        if self._progress is not None:
            self._progress(f"{where}: {what}", self._done, self._total)
        self._done += 1

    def skip(self, blocks: int) -> None:
        self._done += blocks
