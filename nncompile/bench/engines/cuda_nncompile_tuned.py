"""nncompile on a GPU, tuned: `Predictor.predict` with the plans that `Predictor.tune` finds there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from nncompile.bench.engines import EngineError, Subject
from nncompile.bench.engines.cuda_nncompile import CompiledOnGpu
from nncompile.bench.engines.nncompile_tuned import NAME, tuned
from nncompile_runtime.errors import DeviceError


@contextmanager
def opened(subject: Subject) -> Iterator[CompiledOnGpu]:
    """The engine for a subject.

    Raises:
        EngineError: The GPU cannot be used.
    """
    try:
        predictor, seconds, _ = tuned(subject, subject.device)
    except DeviceError as error:
        raise EngineError(error.problem, remedy=error.remedy) from error
    engine = CompiledOnGpu(predictor, NAME)
    engine.compile_seconds = seconds
    yield engine
