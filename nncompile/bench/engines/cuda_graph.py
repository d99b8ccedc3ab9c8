"""A CUDA graph of eager PyTorch: captured once for each shape, then replayed as one launch.

As PyTorch's notes on CUDA graphs describe: a few calls on a stream of their own before the capture, inputs
copied into the memory that was captured, and outputs that the next call overwrites.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch

from nncompile.bench.engines import Subject
from nncompile.bench.engines.on_gpu import OnGpu, flat_call, module_on_gpu, wait

_CALLS_BEFORE = 3


class Captured(NamedTuple):
    """A graph, the memory that it reads, and that which it writes."""

    graph: torch.cuda.CUDAGraph
    inputs: list[torch.Tensor]
    outputs: list[torch.Tensor]


class Replayed(OnGpu):
    """A function that runs as a graph."""

    def __init__(self, *args: Any) -> None:
        """As `OnGpu`."""
        super().__init__(*args)
        self._captured: dict[tuple[torch.Size, ...], Captured] = {}

    def compute(self, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The outputs, in memory that the next call of these shapes overwrites."""
        shapes = tuple(x.shape for x in inputs)
        if shapes not in self._captured:
            start = time.perf_counter()
            self._captured[shapes] = self._capture(inputs)
            self.compile_seconds += time.perf_counter() - start
        captured = self._captured[shapes]
        for own, given in zip(captured.inputs, inputs, strict=True):
            own.copy_(given)
        captured.graph.replay()
        return captured.outputs

    def _capture(self, inputs: Sequence[torch.Tensor]) -> Captured:
        own = [x.clone() for x in inputs]
        stream: Any = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(stream):
            for _ in range(_CALLS_BEFORE):
                self._call(own)
        torch.cuda.current_stream(self._device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            outputs = self._call(own)
        wait(self._device)
        return Captured(graph, own, outputs)


@contextmanager
def opened(subject: Subject) -> Iterator[Replayed]:
    """The engine for a subject.

    Raises:
        EngineError: The module is not known, or PyTorch cannot use the GPU.
    """
    names = [spec.name for spec in subject.signature.inputs]
    with module_on_gpu(subject) as (module, device, how):
        how = f"CUDA graph of eager, {how}, outputs overwritten by the next call"
        yield Replayed("cuda-graph", how, flat_call(module, subject), names, device)
