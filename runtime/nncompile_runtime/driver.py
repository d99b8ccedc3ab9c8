"""Streams, events and memory of one GPU, through NVIDIA's driver: what ONNX Runtime's Python API lacks.

ONNX Runtime can run on a stream that it is given, and on memory that it is given; it neither makes a stream
nor pinned memory, nor orders its stream after another. These calls do, and need no CUDA toolkit and no
torch: libcuda.so.1 comes with the driver. They share the GPU's primary context with ONNX Runtime and torch.
(https://docs.nvidia.com/cuda/cuda-driver-api)
"""

from __future__ import annotations

import contextlib
import ctypes
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from ctypes import POINTER, c_int, c_size_t, c_ubyte, c_uint, c_uint64, c_void_p
from functools import lru_cache
from typing import Any

_LIBRARY = "libcuda.so.1"
_OUT_OF_MEMORY = 2
_CAPTURE_IMPLICIT = 906  # asked of the default stream while a stream that waits for it is being captured
_NON_BLOCKING = 1  # the stream does not wait for the default stream
_NO_TIMING = 2  # events that only order
_PORTABLE = 1  # pinned for every context
_THREAD_LOCAL, _RELAXED = 1, 2  # CUstreamCaptureMode

# Handles and addresses have 64 bits; without its argument types, ctypes passes 32.
_ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "cuInit": (c_uint,),
    "cuDeviceGet": (POINTER(c_int), c_int),
    "cuDevicePrimaryCtxRetain": (POINTER(c_void_p), c_int),
    "cuCtxPushCurrent_v2": (c_void_p,),
    "cuCtxPopCurrent_v2": (POINTER(c_void_p),),
    "cuCtxSynchronize": (),
    "cuThreadExchangeStreamCaptureMode": (POINTER(c_int),),
    "cuStreamCreate": (POINTER(c_void_p), c_uint),
    "cuStreamDestroy_v2": (c_void_p,),
    "cuStreamSynchronize": (c_void_p,),
    "cuStreamWaitEvent": (c_void_p, c_void_p, c_uint),
    "cuStreamIsCapturing": (c_void_p, POINTER(c_int)),
    "cuEventCreate": (POINTER(c_void_p), c_uint),
    "cuEventDestroy_v2": (c_void_p,),
    "cuEventRecord": (c_void_p, c_void_p),
    "cuEventSynchronize": (c_void_p,),
    "cuMemAlloc_v2": (POINTER(c_uint64), c_size_t),
    "cuMemFree_v2": (c_uint64,),
    "cuMemHostAlloc": (POINTER(c_void_p), c_size_t, c_uint),
    "cuMemFreeHost": (c_void_p,),
    "cuMemsetD8Async": (c_uint64, c_ubyte, c_size_t, c_void_p),
    "cuMemcpyAsync": (c_uint64, c_uint64, c_size_t, c_void_p),  # from and to the host, too
}

_alone = threading.RLock()
_PATIENCE = 1.0  # seconds


class CudaError(Exception):
    """A call of the driver failed; worded as ONNX Runtime words its own."""


class Gpu:
    """One GPU's primary context.

    Attributes:
        number: Its index, as the driver counts.
    """

    def __init__(self, number: int, load: Callable[[str], Any] = ctypes.CDLL) -> None:
        """Take hold of the context, for as long as the process lives.

        Args:
            number: Index of the GPU.
            load: Opens a shared library by name.

        Raises:
            OSError: There is no driver.
            CudaError: There is no such GPU, or its context cannot be had.
        """
        self.number = number
        library = load(_LIBRARY)
        self._calls = {name: getattr(library, name) for name in _ARGUMENTS}
        for name, types in _ARGUMENTS.items():
            self._calls[name].argtypes = types
        self._push, self._pop = self._calls["cuCtxPushCurrent_v2"], self._calls["cuCtxPopCurrent_v2"]
        self._exchange = self._calls["cuThreadExchangeStreamCaptureMode"]
        self._popped = ctypes.byref(c_void_p())  # nobody reads it
        self._is_capturing = self._calls["cuStreamIsCapturing"]
        self._record, self._wait = self._calls["cuEventRecord"], self._calls["cuStreamWaitEvent"]
        self._copy = self._calls["cuMemcpyAsync"]
        device, context = c_int(), c_void_p()
        self.call("cuInit", 0)
        self.call("cuDeviceGet", ctypes.byref(device), number)
        self.call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device.value)
        self._context = context

    def call(self, name: str, *arguments: Any) -> None:
        """Call a function of the driver.

        Raises:
            CudaError: It failed.
        """
        status = self._calls[name](*arguments)
        if status:
            raise _failure(status, name)

    def current(self, *, capturing: bool = False) -> AbstractContextManager[Any]:
        """Make this GPU the thread's; afterwards it is the caller's again, whatever ONNX Runtime chose.

        While one thread captures a CUDA graph as ONNX Runtime does (cudaStreamCaptureModeGlobal,
        cuda_graph.cc), CUDA refuses others whatever may be unsafe in a capture, such as to allocate, and the
        capture breaks too. A thread that is here is not refused: what it does belongs to no capture. What
        concerns the whole GPU is refused even so (`alone`).

        Args:
            capturing: Whether ONNX Runtime may capture a graph meanwhile; in that, what is unsafe is refused.
        """
        return _Current(self, _THREAD_LOCAL if capturing else _RELAXED)

    def is_capturing(self, stream: int) -> bool:
        """Whether what a stream (a handle) is given goes into a CUDA graph; the GPU must be current."""
        found = c_int()
        status = self._is_capturing(stream, ctypes.byref(found))
        return bool(found.value) or status == _CAPTURE_IMPLICIT

    def order(self, first: int, second: int, event: int) -> None:
        """Let a stream begin later work only when what the first has been given by now is done.

        Args:
            first: Handle of a stream.
            second: Likewise.
            event: Handle of an event, which may be used again at once.
        """
        status = self._record(event, first) or self._wait(second, event, 0)
        if status:
            raise _failure(status, "cuEventRecord or cuStreamWaitEvent")

    def copy(self, to: int, source: int, size: int, stream: int) -> None:
        """Queue a copy of some bytes on a stream, between addresses on the GPU or in pinned memory."""
        status = self._copy(to, source, size, stream)
        if status:
            raise _failure(status, "cuMemcpyAsync")


def _failure(status: int, name: str) -> CudaError:
    what = "out of memory" if status == _OUT_OF_MEMORY else f"in {name}"
    return CudaError(f"CUDA failure {status}: {what}")


class _Current:
    __slots__ = ("_gpu", "_mode")

    def __init__(self, gpu: Gpu, mode: int) -> None:
        self._gpu, self._mode = gpu, ctypes.byref(c_int(mode))

    def __enter__(self) -> None:
        gpu = self._gpu
        status = gpu._push(gpu._context) or gpu._exchange(self._mode)  # the thread's own mode is there now
        if status:
            raise _failure(status, "cuCtxPushCurrent or cuThreadExchangeStreamCaptureMode")

    def __exit__(self, *_: object) -> None:
        status = self._gpu._exchange(self._mode) or self._gpu._pop(self._gpu._popped)
        if status:
            raise _failure(status, "cuThreadExchangeStreamCaptureMode or cuCtxPopCurrent")


@contextlib.contextmanager
def alone(*, at_any_price: bool = True) -> Iterator[None]:
    """Capture a CUDA graph, or do what CUDA forbids meanwhile in every thread: wait for the whole GPU.

    ONNX Runtime does that when a session starts, and cuBLAS when one ends.

    Args:
        at_any_price: Whether to wait until no other thread is here. Who is called by the garbage collector
            may not, because of what its thread holds; it goes on after a second.
    """
    held = _alone.acquire(timeout=-1 if at_any_price else _PATIENCE)
    try:
        yield
    finally:
        if held:
            _alone.release()


class Stream:
    """A queue of work on a GPU.

    Attributes:
        gpu: The GPU.
        handle: `CUstream`, which is CUDA's `cudaStream_t` too.
    """

    def __init__(self, gpu: Gpu) -> None:
        """Make a stream that no other waits for unasked."""
        self.gpu = gpu
        made = c_void_p()
        with gpu.current():
            gpu.call("cuStreamCreate", ctypes.byref(made), _NON_BLOCKING)
            self._mark = Event(gpu)
        self.handle = int(made.value or 0)
        _give_back_with(self, gpu, "cuStreamDestroy_v2", self.handle)

    def wait_for(self, other: int) -> None:
        """Begin later work only when what stream `other` (a handle) has been given by now is done."""
        self.gpu.order(other, self.handle, self._mark.handle)

    def hold_back(self, other: int) -> None:
        """Let stream `other` begin later work only when what this one has been given by now is done."""
        self.gpu.order(self.handle, other, self._mark.handle)

    def synchronize(self) -> None:
        """Wait until all is done."""
        self.gpu.call("cuStreamSynchronize", self.handle)


class Event:
    """A place in a stream.

    Attributes:
        handle: `CUevent`.
    """

    def __init__(self, gpu: Gpu) -> None:
        """Make an event; the GPU must be current."""
        self._gpu = gpu
        made = c_void_p()
        gpu.call("cuEventCreate", ctypes.byref(made), _NO_TIMING)
        self.handle = int(made.value or 0)
        _give_back_with(self, gpu, "cuEventDestroy_v2", self.handle)

    def record(self, stream: int) -> None:
        """Stand behind all that the stream has been given by now."""
        self._gpu.call("cuEventRecord", self.handle, stream)

    def wait(self) -> None:
        """Wait until the place is reached."""
        self._gpu.call("cuEventSynchronize", self.handle)


class Block:
    """Memory on a GPU, or pinned memory of the host; freed with the object.

    Attributes:
        address: Its first byte.
        size: Bytes.
    """

    def __init__(self, gpu: Gpu, size: int, *, pinned: bool = False) -> None:
        """Allocate; the GPU must be current.

        Raises:
            CudaError: There is not enough memory.
        """
        self.size = size
        made: Any = c_void_p() if pinned else c_uint64()
        if pinned:
            gpu.call("cuMemHostAlloc", ctypes.byref(made), size, _PORTABLE)
        else:
            gpu.call("cuMemAlloc_v2", ctypes.byref(made), size)
        self.address = int(made.value or 0)
        _give_back_with(self, gpu, "cuMemFreeHost" if pinned else "cuMemFree_v2", self.address, in_use=True)


def _give_back_with(owner: object, gpu: Gpu, name: str, handle: int, *, in_use: bool = False) -> None:
    """Call `name` when `owner` is gone; at the end of the process the driver gives all back by itself.

    Args:
        owner: Holds the handle.
        gpu: Where it comes from.
        name: Of the driver's function.
        handle: What is given back.
        in_use: Whether queued work may still use it; the driver itself waits only with streams and events.
    """

    def give_back() -> None:
        with contextlib.suppress(CudaError), gpu.current():  # after a fatal error there is nothing to give
            if in_use:
                with alone(at_any_price=False):
                    gpu.call("cuCtxSynchronize")
            gpu.call(name, handle)

    weakref.finalize(owner, give_back).atexit = False


@lru_cache(maxsize=256)
def gpu(number: int) -> Gpu:
    """The GPU of an index, opened once a process.

    Raises:
        OSError: There is no driver.
        CudaError: There is no such GPU.
    """
    return Gpu(number)
