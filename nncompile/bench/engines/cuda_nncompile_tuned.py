"""nncompile on a GPU, tuned: `Predictor.predict` with the plans that `Predictor.tune` finds there."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from nncompile.bench.engines import EngineError, Subject
from nncompile.bench.engines.cuda_nncompile import CompiledOnGpu
from nncompile.bench.engines.nncompile_tuned import SECONDS
from nncompile_runtime import container
from nncompile_runtime.errors import DeviceError
from nncompile_runtime.predictor import load


@contextmanager
def opened(subject: Subject) -> Iterator[CompiledOnGpu]:
    """The engine for a subject, tuned on a copy of its own, once: the copy is found in the subject's folder.

    Raises:
        EngineError: The GPU cannot be used.
    """
    copy = subject.folder / "tuned.onnx"
    path = copy if copy.exists() else subject.path
    try:
        predictor = load(path, device=subject.device)
    except DeviceError as error:
        raise EngineError(error.problem, remedy=error.remedy) from error
    start = time.perf_counter()
    if path is not copy:
        predictor.tune(seconds=SECONDS)
        if predictor.manifest is not None:
            container.write(copy, predictor.artifact)
    engine = CompiledOnGpu(predictor, "nncompile-tuned")
    engine.compile_seconds = 0.0 if path is copy else time.perf_counter() - start
    yield engine
