"""Eager PyTorch on a GPU: a copy of the module under `torch.inference_mode`, a launch for each kernel."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from nncompile.bench.engines import Subject
from nncompile.bench.engines.on_gpu import OnGpu, flat_call, module_on_gpu


@contextmanager
def opened(subject: Subject) -> Iterator[OnGpu]:
    """The engine for a subject.

    Raises:
        EngineError: The module is not known, or PyTorch cannot use the GPU.
    """
    names = [spec.name for spec in subject.signature.inputs]
    with module_on_gpu(subject) as (module, device, how):
        yield OnGpu("eager", f"eager, {how}", flat_call(module, subject), names, device)
