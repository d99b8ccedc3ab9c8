"""nncompile on a GPU, tuned: `Predictor.predict` with the plans that `Predictor.tune` finds there.

It tunes at the batches that are measured and at no other: each costs sessions that are slow to open, and a
convolution is planned anew in each of them. And on what is measured: arrays, or tensors that stay on the GPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from nncompile.bench.engines import EngineError, Subject
from nncompile.bench.engines.cuda_nncompile import CompiledOnGpu
from nncompile.bench.engines.nncompile_tuned import NAME, tuned
from nncompile.bench.engines.on_gpu import gpu_of
from nncompile_runtime.errors import DeviceError

_SECONDS = 4.0  # for each batch


@contextmanager
def opened(subject: Subject) -> Iterator[CompiledOnGpu]:
    """The engine for a subject.

    Raises:
        EngineError: The GPU cannot be used.
    """
    batches = subject.batches if subject.signature.batch is not None else ()
    seconds = _SECONDS * max(1, len(batches))
    try:
        like = torch.empty(1, device=gpu_of(subject)) if subject.transfers == "none" else None
        predictor, seconds, _ = tuned(
            subject, subject.device, seconds=seconds, batches=batches or None, like=like
        )
    except DeviceError as error:
        raise EngineError(error.problem, remedy=error.remedy) from error
    engine = CompiledOnGpu(predictor, NAME)
    engine.compile_seconds = seconds
    yield engine
