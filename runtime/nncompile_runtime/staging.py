"""Between arrays of the host and the memory of a GPU: pinned memory, which the GPU copies by itself.

An array of numpy is pageable: CUDA copies it through pinned memory of its own, and the caller waits. Here a
call's inputs are put into pinned memory one behind another, and cross to the GPU, and the outputs back, in
one copy each that the caller need not wait for. ONNX Runtime's Python API has no pinned memory to offer.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np

from nncompile_runtime.cuda_session import Memory
from nncompile_runtime.driver import Block, Event, Gpu, Stream
from nncompile_runtime.inputs import Array
from nncompile_runtime.shapes import Port, Ports

_ALIGNMENT = 256  # cudaMalloc's


def packed(ports: Sequence[Port]) -> tuple[list[int], int]:
    """Offsets of inputs and outputs one behind another, each aligned, and the bytes of all."""
    offsets, end = [], 0
    for port in ports:
        offsets.append(end)
        end += -(-port.size // _ALIGNMENT) * _ALIGNMENT
    return offsets, end


class Staging:
    """Memory for one call at a time, pinned and on the GPU; it grows with the calls.

    Attributes:
        inputs: Where the call's inputs lie on the GPU.
        outputs: Where its outputs do.
        pinned_inputs: Where its inputs lie on the host.
        pinned_outputs: Where its outputs do.
    """

    def __init__(self, gpu: Gpu) -> None:
        """Hold nothing yet; the GPU must be current."""
        self._gpu = gpu
        self._pinned: Block | None = None
        self._device: Block | None = None
        self._done = Event(gpu)
        self._ports: Ports | None = None

    def prepare(self, call: Ports) -> None:
        """Make room for a call; the GPU must be current, and the call before must have been finished.

        Args:
            call: Its inputs and outputs, of which there is one at least.

        Raises:
            CudaError: There is not enough memory.
        """
        if call is self._ports:
            return
        self._ports = None
        ports, count = (*call.inputs, *(call.outputs or ())), len(call.inputs)
        offsets, size = packed(ports)
        if self._pinned is None or self._device is None or self._pinned.size < size:
            self._pinned = self._device = None
            self._device = Block(self._gpu, size)
            self._pinned = Block(self._gpu, size, pinned=True)
        device, host = self._device.address, self._pinned.address
        there = [Memory(port, device + at) for port, at in zip(ports, offsets, strict=True)]
        here = [Memory(port, host + at) for port, at in zip(ports, offsets, strict=True)]
        self.inputs, self.outputs = there[:count], there[count:]
        self.pinned_inputs, self.pinned_outputs = here[:count], here[count:]
        self._in, self._out = [_view(m) for m in here[:count]], [_view(m) for m in here[count:]]
        middle = offsets[count]
        self._to_gpu = (device, host, middle)
        self._to_host = (host + middle, device + middle, size - middle)
        self._ports = call

    def fill(self, inputs: Sequence[Array]) -> None:
        """Copy the inputs into pinned memory."""
        for array, view in zip(inputs, self._in, strict=True):
            view[...] = array

    def send(self, copies: Stream, work: Stream) -> None:
        """Queue the inputs' copy to the GPU on one stream; the work of the other comes after it."""
        if self._to_gpu[2]:
            self._gpu.copy(*self._to_gpu, copies.handle)
            work.wait_for(copies.handle)

    def fetch(self, copies: Stream, work: Stream) -> None:
        """Queue the outputs' copy back on one stream, behind the work of the other, which makes them."""
        work.hold_back(copies.handle)
        self._gpu.copy(*self._to_host, copies.handle)
        self.end_on(copies)

    def end_on(self, stream: Stream) -> None:
        """Say that the outputs are there when what the stream has been given by now is done."""
        self._done.record(stream.handle)

    def results(self) -> list[Array]:
        """Wait for the outputs and copy them into arrays of the caller's own."""
        self._done.wait()
        return [view.copy() for view in self._out]


def _view(memory: Memory) -> Array:
    raw: Any = (ctypes.c_ubyte * memory.port.size).from_address(memory.address)
    return np.ndarray(memory.port.shape, memory.port.dtype, raw)
