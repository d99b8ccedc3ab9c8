"""torch.compile in its default mode, compiled for each batch with fixed shapes by inductor's C++ backend."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from nncompile.bench.engines import Array, EngineError, Feed, Subject, first_line
from nncompile.bench.engines.eager import module_at_hand
from nncompile.calling import Calling

# Shapes a module may be compiled for; one more is an error here, where torch would go on without compiling.
MOST_SHAPES = 64


class TorchCompile:
    """A compiled module behind numpy arrays."""

    reopens = False

    def __init__(self, name: str, how: str, call: Any, calling: Calling, threads: int) -> None:
        """Prepare to call a compiled module."""
        self.name = name
        self.description = f"PyTorch {torch.__version__}, {how}, fixed shapes, inference_mode"
        self.threads: int | None = threads
        self.compile_seconds = 0.0
        self._names = calling.names
        self._call = calling.adapt(call)
        self._shapes: set[tuple[torch.Size, ...]] = set()

    def run(self, feed: Feed) -> list[Array]:
        """All outputs of the module, which is compiled where the shapes are new."""
        inputs = [torch.from_numpy(feed[name]) for name in self._names]
        with torch.inference_mode():
            shapes = tuple(tensor.shape for tensor in inputs)
            if shapes not in self._shapes:
                start = time.perf_counter()
                self._call(inputs)
                self.compile_seconds += time.perf_counter() - start
                self._shapes.add(shapes)
            outputs = self._call(inputs)
        return [output.numpy() for output in outputs]


@contextmanager
def opened(subject: Subject) -> Iterator[TorchCompile]:
    """The engine for a subject.

    Raises:
        EngineError: The module is not known, or there is no C++ compiler.
    """
    with compiled(subject, "torch-compile", "torch.compile", {}) as engine:
        yield engine


@contextmanager
def compiled(subject: Subject, name: str, how: str, options: Mapping[str, Any]) -> Iterator[TorchCompile]:
    """A subject's module compiled with options of inductor; compiled code is dropped at the end.

    Raises:
        EngineError: The module is not known, or there is no C++ compiler.
    """
    from torch._dynamo import config
    from torch._inductor.cpp_builder import get_cpp_compiler

    with module_at_hand(subject) as module:
        try:
            get_cpp_compiler()
        except Exception as error:
            raise EngineError(
                f"torch.compile needs a C++ compiler: {first_line(error)}.",
                remedy="Install g++, or name one in the environment variable CXX.",
            ) from error
        call = torch.compile(module, dynamic=False, options=dict(options))
        try:
            with config.patch(recompile_limit=MOST_SHAPES, fail_on_recompile_limit_hit=True):
                yield TorchCompile(name, how, call, Calling(subject.signature), subject.threads)
        finally:
            torch.compiler.reset()
