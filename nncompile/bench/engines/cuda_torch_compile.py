"""torch.compile on a GPU in the mode `reduce-overhead`: inductor's Triton kernels in CUDA graphs."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import torch
from torch._inductor import list_mode_options

from nncompile.bench.engines import EngineError, Subject
from nncompile.bench.engines.on_gpu import OnGpu, flat_call, module_on_gpu, wait
from nncompile.bench.engines.torch_compile import MOST_SHAPES

_COMPILERS = ("cc", "gcc", "clang")


class CompiledOnGpu(OnGpu):
    """A compiled module, which compiles where the shapes are new."""

    def __init__(self, *args: Any) -> None:
        """As `OnGpu`."""
        super().__init__(*args)
        self._shapes: set[tuple[torch.Size, ...]] = set()

    def compute(self, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The outputs, in memory of a CUDA graph that the next call overwrites."""
        shapes = tuple(x.shape for x in inputs)
        if shapes not in self._shapes:
            start = time.perf_counter()
            for _ in range(3):  # compiled, warmed up, recorded
                self._call(inputs)
            wait(self._device)
            self.compile_seconds += time.perf_counter() - start
            self._shapes.add(shapes)
        return self._call(inputs)


@contextmanager
def opened(subject: Subject) -> Iterator[CompiledOnGpu]:
    """The engine for a subject.

    Raises:
        EngineError: The module is not known, PyTorch cannot use the GPU, or Triton or a compiler is missing.
    """
    options = list_mode_options("reduce-overhead")
    with compiled(subject, "torch-compile-reduce-overhead", "reduce-overhead", options) as engine:
        yield engine


@contextmanager
def compiled(subject: Subject, name: str, how: str, options: Mapping[str, Any]) -> Iterator[CompiledOnGpu]:
    """A subject's module compiled with options of inductor; compiled code is dropped at the end.

    Raises:
        EngineError: The module is not known, PyTorch cannot use the GPU, or Triton or a compiler is missing.
    """
    from torch._dynamo import config

    names = [spec.name for spec in subject.signature.inputs]
    with module_on_gpu(subject) as (module, device, placed):
        refuse_without_triton()
        call = torch.compile(module, dynamic=False, options=dict(options))
        how = f"torch.compile, {how}, {placed}, fixed shapes"
        try:
            with config.patch(recompile_limit=MOST_SHAPES, fail_on_recompile_limit_hit=True):
                yield CompiledOnGpu(name, how, flat_call(call, subject), names, device)
        finally:
            torch.compiler.reset()


def refuse_without_triton() -> None:
    """Refuse where inductor could not make kernels for a GPU.

    Raises:
        EngineError: Triton, or the C compiler with which it builds its launchers, is missing.
    """
    if find_spec("triton") is None:
        raise EngineError(
            "torch.compile needs Triton for a GPU, and it is not installed.",
            remedy="Install a build of PyTorch with CUDA, which brings it.",
        )
    if not os.environ.get("CC") and not any(map(shutil.which, _COMPILERS)):
        raise EngineError(
            "torch.compile needs a C compiler for Triton's launchers.",
            remedy="Install gcc, or name one in the environment variable CC.",
        )
