"""torch.compile on a GPU at its fastest: `max-autotune` in CUDA graphs, with weights frozen into the code.

Where the file computes in float16 or bfloat16, images have their channels last.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from nncompile.bench.engines import Subject
from nncompile.bench.engines.cuda_torch_compile import CompiledOnGpu, compiled
from nncompile.bench.engines.torch_compile_max import OPTIONS


@contextmanager
def opened(subject: Subject) -> Iterator[CompiledOnGpu]:
    """The engine for a subject.

    Raises:
        EngineError: The module is not known, PyTorch cannot use the GPU, or Triton or a compiler is missing.
    """
    with compiled(subject, "torch-compile-max-autotune", "max-autotune, freezing", OPTIONS) as engine:
        yield engine
