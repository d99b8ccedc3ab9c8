"""`run`: the steps of a benchmark in order and nothing else."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from functools import partial
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from nncompile.bench.disturbance import load_average
from nncompile.bench.engines import Engine, Subject, check_names, open_engine
from nncompile.bench.engines.exporting import leave
from nncompile.bench.inputs import check_batches, check_placement, make_feed, placed
from nncompile.bench.measuring import Task, measured
from nncompile.bench.results import BenchReport, EngineInfo, Method
from nncompile.bench.roofline import measure_roofline
from nncompile.bench.rows import rows, scenario_report
from nncompile.bench.scenarios import Scenario
from nncompile.bench.sessions import opened
from nncompile.bench.steps import Progress
from nncompile.bench.timing import Schedule, dealt
from nncompile_runtime.machine import installed_onnxruntime, this_machine
from nncompile_runtime.manifest import Manifest, Signature
from nncompile_runtime.predictor import load

if TYPE_CHECKING:
    import torch

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
    load_before: float | None = None,
    distance: bool = False,
    device: str = "cpu",
    transfers: str = "none",
    exported: Path | None = None,
    progress: Progress | None = None,
) -> BenchReport:
    """Benchmark a model against other engines, interleaved in this process, in several sessions.

    Ratios are relative to plain ONNX Runtime, or to the first engine of `against` that can be had
    where it is not among them. Answers are compared with eager PyTorch's, or with the yardstick's.

    Args:
        model_path: An artifact, or any ONNX file.
        batches: Samples in one call.
        against: Names of the engines to compare with, from `engines.NAMES`, or `ON_CUDA`.
        module: The module that the file was compiled from; eager PyTorch needs it, and plain ONNX
            Runtime then runs PyTorch's own export of it.
        schedule: How long and how often each engine is timed.
        sizes: Sizes of free dimensions other than the batch, by symbol.
        seed: Seed of the inputs, and of a server's arrivals.
        scenario: What to make of the latencies besides; a server's queries are of the smallest batch.
        cold: Start each engine in a fresh process too, at the smallest batch.
        compile_seconds: How long compiling the file took, to be told among what engines cost before.
        load_before: The load average before the first of several benchmarks; None reads that of now.
        distance: Measure where nncompile's time goes beyond what the machine allows; on the CPU only.
        device: Where it runs: `cpu`, `cuda` or `cuda:1`.
        transfers: On a GPU, `none` gives the engines what lies there and leaves it there; `in-out` gives
            them numpy arrays and takes such, and counts the copies.
        exported: What PyTorch's exporter made of the module before; None exports it here, for engines that
            read its graph.
        progress: Told what is done next, the blocks done, and the blocks in all.

    Raises:
        ModelLoadError: The file cannot be loaded.
        DeviceError: The GPU cannot be used.
        NncompileError: An engine's name or a batch makes no sense, a free dimension has no size, or an
            engine cannot be opened again.
    """
    names, batches = tuple(dict.fromkeys((_OURS, *against))), tuple(dict.fromkeys(batches))
    load_before = load_average() if load_before is None else load_before
    check_placement(device, transfers)
    check_names(list(names), device)
    path, threads = os.fspath(model_path), this_machine().processors
    signature, manifest = _read(path, device)
    check_batches(signature, batches)
    precision = manifest.precision if manifest else "float32"
    example = make_feed(signature, 2, sizes, seed)
    roofline = measure_roofline(path, signature, batches, threads, device, precision)
    with TemporaryDirectory() as folder:
        subject = Subject(
            path,
            signature,
            module,
            threads,
            example,
            Path(folder),
            device=device,
            precision=precision,
            batches=batches,
            transfers=transfers,
        )
        if exported is not None:
            leave(exported, subject.folder)
        task = Task(
            subject=subject,
            feeds={b: placed(make_feed(signature, b, sizes, seed), device, transfers) for b in batches},
            sizes=sizes,
            scenario=scenario,
            cold=cold,
            compile_seconds=compile_seconds,
            load=load_before,
            roofline=roofline if distance and device == "cpu" else None,
        )
        with opened({name: partial(open_engine, name, subject) for name in names}) as sessions:
            method = _method(sessions.engines, against, schedule or Schedule(), seed)
            engines = tuple(_info(engine, method.schedule) for engine in sessions.engines.values())
            found = measured(sessions, task, method, progress)
    return BenchReport(
        model=os.path.basename(path),
        network=manifest.model_name if manifest else "",
        inputs=tuple(f"{spec.name}: {spec}" for spec in signature.inputs),
        machine=this_machine(),
        versions=_versions(),
        method=method,
        batches=batches,
        engines=engines,
        rows=rows(found.samples, batches, method, roofline, found.launches),
        rejected=found.samples.rejected,
        absent=tuple(sessions.absent),
        overhead=found.overhead,
        scenario=scenario_report(scenario, found.samples, method) if scenario else None,
        cold=found.cold,
        not_cold=found.not_cold,
        roofline=roofline,
        distances=found.distances,
        disturbance=found.disturbance,
        device=device,
        transfers="" if device == "cpu" else transfers,
    )


def _read(path: str, device: str) -> tuple[Signature, Manifest | None]:
    """What a file says of itself; its predictor's threads are gone, because the engines have their own."""
    predictor = load(path, device=device)
    return predictor.signature, predictor.manifest


def _method(engines: Mapping[str, Engine], against: Sequence[str], schedule: Schedule, seed: int) -> Method:
    yardstick = next(name for name in (_YARDSTICK, *against, _OURS) if name in engines)
    reference = _REFERENCE if _REFERENCE in engines else yardstick
    return Method(schedule, seed, reference, yardstick)


def _info(engine: Engine, schedule: Schedule) -> EngineInfo:
    sessions = len(dealt(range(schedule.rounds), schedule.sessions)) if engine.reopens else 1
    return EngineInfo(engine.name, engine.description, engine.threads, sessions)


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in ("nncompile", "torch", "numpy", "openvino", "ncnn", "pnnx"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions | installed_onnxruntime()
