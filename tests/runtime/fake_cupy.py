"""CuPy for the GPU that is not there (fake_gpu.py): as much of it as nncompile calls.

What computes does so when its stream has come to it, and fails where another device than its arrays' is
current; fresh memory is still being written to by somebody else.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from .fake_driver import Queue
from .fake_gpu import FakeGpu, gpu

__all__ = ["gpu"]


class Device:
    """A device; used as a context, it is the current one."""

    current = 1  # the caller's own is another than the model's

    def __init__(self, number: int) -> None:
        self.id = number

    def __enter__(self) -> None:
        self.before, Device.current = Device.current, self.id

    def __exit__(self, *_: object) -> None:
        Device.current = self.before


class Stream:
    """A stream; used as a context, it is the current one of the current device."""

    cupy: FakeCupy

    def __init__(self, non_blocking: bool = False) -> None:
        self.ptr = 1 + max(self.cupy.gpu.cuda.queues)
        self.cupy.gpu.cuda.queues[self.ptr] = Queue()

    def __enter__(self) -> None:
        self.before = self.cupy.streams[Device.current]
        self.cupy.streams[Device.current] = self.ptr

    def __exit__(self, *_: object) -> None:
        self.cupy.streams[Device.current] = self.before


class ndarray:
    """An array on a device; its values are in `hidden`, which the host must not look at."""

    cupy: FakeCupy

    def __init__(self, hidden: np.ndarray, number: int) -> None:
        self.hidden, self.number = hidden, number
        self.shape, self.dtype, self.ndim = hidden.shape, hidden.dtype, hidden.ndim
        self.flags = SimpleNamespace(c_contiguous=hidden.flags.c_contiguous)
        self.device = Device(number)

    @property
    def data(self) -> Any:
        self.cupy.gpu.cuda.kept.append(self.hidden)  # CuPy keeps what is freed for its stream
        return SimpleNamespace(ptr=self.hidden.ctypes.data, device_id=self.number)

    def __len__(self) -> int:
        return len(self.hidden)

    def __iter__(self) -> Iterator[ndarray]:
        return (self[row] for row in range(len(self)))

    def __getitem__(self, key: Any) -> ndarray:
        return ndarray(self.hidden[key], self.number)

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        raise TypeError("Implicit conversion to a NumPy array is not allowed.")

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, self.number

    def astype(self, dtype: Any) -> ndarray:
        return self.cupy.made(lambda a: a.astype(dtype), self)

    def __add__(self, other: ndarray) -> ndarray:
        return self.cupy.made(np.add, self, other)

    def fill(self, value: float) -> None:
        self.cupy.gpu.cuda.queue(self.cupy.streams[Device.current], lambda: self.hidden.fill(value))

    def get(self) -> np.ndarray:
        return self.cupy.made(np.copy, self).hidden


class FakeCupy(ModuleType):
    """The module.

    Attributes:
        gpu: All that the GPU is made of.
        streams: Handle of each device's current stream.
        full: Whether there is no memory.
    """

    ndarray, Device = ndarray, Device

    def __init__(self, gpu: FakeGpu) -> None:
        super().__init__("cupy")
        self.gpu, self.streams, self.full = gpu, {0: 70, 1: 71}, False
        for stream in self.streams.values():
            gpu.cuda.queues[stream] = Queue()
        self.cuda = SimpleNamespace(Device=Device, Stream=Stream, get_current_stream=self._current_stream)

    def on(self, number: int, array: Any) -> ndarray:
        """An array on a device, ready."""
        return ndarray(np.array(array), number)

    def made(self, work: Callable[..., np.ndarray], *arrays: ndarray) -> ndarray:
        """What the current stream makes of arrays."""
        assert {array.number for array in arrays} == {Device.current}
        self.gpu.cuda.wait(self.streams[Device.current])
        return ndarray(work(*(array.hidden for array in arrays)), Device.current)

    def empty(self, shape: tuple[int, ...], dtype: Any) -> ndarray:
        if self.full:
            raise MemoryError("Out of memory allocating 1,024 bytes (allocated so far: 0 bytes).")
        hidden = np.empty(shape, dtype)
        self.gpu.cuda.queue(self.streams[Device.current], lambda: hidden.fill(-77))
        return ndarray(hidden, Device.current)

    def ascontiguousarray(self, array: ndarray) -> ndarray:
        assert array.number == Device.current
        return array if array.flags.c_contiguous else self.made(np.ascontiguousarray, array)

    def asarray(self, array: np.ndarray) -> ndarray:
        return self.on(Device.current, array)

    def concatenate(self, parts: Sequence[ndarray]) -> ndarray:
        return self.made(lambda *arrays: np.concatenate(arrays), *parts)

    def _current_stream(self, number: int) -> Any:
        return SimpleNamespace(ptr=self.streams[number])


@pytest.fixture
def cupy(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> FakeCupy:
    """CuPy on the GPU."""
    made = FakeCupy(gpu)
    monkeypatch.setattr(ndarray, "cupy", made, raising=False)
    monkeypatch.setattr(Stream, "cupy", made, raising=False)
    monkeypatch.setattr(Device, "current", 1)
    monkeypatch.setitem(sys.modules, "cupy", made)
    return made


def values(array: Any) -> np.ndarray:
    """What an array on the GPU holds, as the caller sees it."""
    with array.device:
        found: np.ndarray = array.get()
    return found
