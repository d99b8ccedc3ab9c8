"""nncompile on a GPU: `Predictor.predict` with the plan that it was loaded with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from nncompile.bench.engines import Array, EngineError, Feed, Subject
from nncompile.bench.engines.nncompile import Compiled
from nncompile_runtime.errors import DeviceError
from nncompile_runtime.predictor import Predictor


class CompiledOnGpu(Compiled):
    """The artifact as a user of the Python API runs it, on arrays or on CUDA tensors."""

    reopens = False

    def __init__(self, predictor: Predictor, name: str = "nncompile") -> None:
        """Prepare to call `predictor`."""
        super().__init__(predictor, name)
        self.threads = None

    def run(self, feed: Feed) -> list[Array]:
        """All outputs of `predict`; on the GPU where the inputs are, when they are there."""
        outputs = super().run(feed)
        if outputs and getattr(outputs[0], "is_cuda", False):
            import torch

            torch.cuda.synchronize(getattr(outputs[0], "device", None))
        return outputs


@contextmanager
def opened(subject: Subject) -> Iterator[CompiledOnGpu]:
    """The engine for a subject.

    Raises:
        EngineError: The GPU cannot be used.
    """
    try:
        predictor = subject.predictor
    except DeviceError as error:
        raise EngineError(error.problem, remedy=error.remedy) from error
    yield CompiledOnGpu(predictor)
