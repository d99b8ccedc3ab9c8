"""Between arrays of the host and the memory of a GPU: pinned memory, which the GPU copies by itself.

An array of numpy is pageable: CUDA copies it through pinned memory of its own, and the caller waits. Here a
call's inputs are put into pinned memory one behind another, and cross to the GPU, and the outputs back, in
one copy each that the caller need not wait for. ONNX Runtime's Python API has no pinned memory to offer.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nncompile_runtime.cuda_session import Memory
from nncompile_runtime.driver import Block, Event, Gpu, Stream
from nncompile_runtime.inputs import Array

_ALIGNMENT = 256  # cudaMalloc's
Port = tuple[str, np.dtype[Any], tuple[int, ...]]
"""Name, dtype and shape of an input or output."""


def packed(sizes: Sequence[int]) -> tuple[list[int], int]:
    """Offsets of pieces of `sizes` bytes one behind another, each aligned, and the bytes of all."""
    offsets, end = [], 0
    for size in sizes:
        offsets.append(end)
        end += -(-size // _ALIGNMENT) * _ALIGNMENT
    return offsets, end


def bytes_of(ports: Sequence[Port]) -> int:
    """Bytes that inputs or outputs take."""
    return packed([_size(port) for port in ports])[1]


class Staging:
    """Memory for one call at a time, pinned and on the GPU; it grows with the calls.

    Attributes:
        inputs: Where the call's inputs lie on the GPU.
        outputs: Where its outputs do.
    """

    def __init__(self, gpu: Gpu) -> None:
        """Hold nothing yet; the GPU must be current."""
        self._gpu = gpu
        self._pinned: Block | None = None
        self._device: Block | None = None
        self._done = Event(gpu)
        self._ports: tuple[Port, ...] = ()

    def prepare(self, inputs: Sequence[Port], outputs: Sequence[Port]) -> None:
        """Make room for a call; the GPU must be current, and the call before must have been finished.

        Raises:
            CudaError: There is not enough memory.
        """
        ports = (*inputs, *outputs)
        if ports == self._ports:
            return
        self._ports = ()
        offsets, size = packed([_size(port) for port in ports])
        if self._pinned is None or self._device is None or self._pinned.size < size:
            self._pinned = self._device = None
            self._device = Block(self._gpu, size)
            self._pinned = Block(self._gpu, size, pinned=True)
        device, host = self._device.address, self._pinned.address
        placed = [Memory(*port, device + at) for port, at in zip(ports, offsets, strict=True)]
        views = [_view(port, host + at) for port, at in zip(ports, offsets, strict=True)]
        count = len(inputs)
        self.inputs, self.outputs = placed[:count], placed[count:]
        self._in, self._out = views[:count], views[count:]
        middle = offsets[count]  # there is at least one output
        self._to_gpu = (device, host, middle)
        self._to_host = (host + middle, device + middle, size - middle)
        self._ports = ports

    def fill(self, feed: Mapping[str, Array]) -> None:
        """Copy the inputs into pinned memory."""
        for memory, view in zip(self.inputs, self._in, strict=True):
            view[...] = feed[memory.name]

    def send(self, copies: Stream, work: Stream) -> None:
        """Queue the inputs' copy to the GPU on one stream; the work of the other comes after it."""
        if self._to_gpu[2]:
            self._gpu.call("cuMemcpyHtoDAsync_v2", *self._to_gpu, copies.handle)
            work.wait_for(copies.handle)

    def fetch(self, copies: Stream, work: Stream) -> None:
        """Queue the outputs' copy back on one stream, behind the work of the other, which makes them."""
        work.hold_back(copies.handle)
        self._gpu.call("cuMemcpyDtoHAsync_v2", *self._to_host, copies.handle)
        self._done.record(copies.handle)

    def results(self) -> list[Array]:
        """Wait for the outputs and copy them into arrays of the caller's own."""
        self._done.wait()
        return [view.copy() for view in self._out]


def _size(port: Port) -> int:
    _, dtype, shape = port
    return math.prod(shape) * dtype.itemsize


def _view(port: Port, address: int) -> Array:
    _, dtype, shape = port
    raw: Any = (ctypes.c_ubyte * _size(port)).from_address(address)
    return np.ndarray(shape, dtype, raw)
