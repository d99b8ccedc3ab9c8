"""NVIDIA's driver for a GPU that is not there.

Work that is queued on a stream is done when somebody waits for it, and not before; fresh memory holds
garbage. While a thread captures a CUDA graph, calls that CUDA holds unsafe fail in threads that have not said
otherwise, and break the capture.
"""

from __future__ import annotations

import ctypes
import threading
from collections import Counter, defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from nncompile_runtime import driver

OUT_OF_MEMORY, NO_CONTEXT, IN_CAPTURE, CAPTURE_IMPLICIT = 2, 201, 900, 906
THREAD_LOCAL, RELAXED = 1, 2
_UNSAFE = (
    "cuMemAlloc_v2", "cuMemFree_v2", "cuMemHostAlloc", "cuMemFreeHost", "cuCtxSynchronize",
    "cuStreamSynchronize", "cuEventSynchronize",
)  # fmt: skip


def _nothing() -> None:
    pass


class Queue:
    """A stream."""

    def __init__(self) -> None:
        self.work: list[Callable[[], None]] = []
        self.done = 0

    def run(self, upto: int) -> None:
        while self.done < upto:
            self.done += 1
            work, self.work[self.done - 1] = self.work[self.done - 1], _nothing
            work()  # which is let go of then, with the session that it belongs to


class FakeCuda:
    """The driver. Its functions are attributes that take `argtypes`, as those of `ctypes.CDLL` do."""

    def __init__(self) -> None:
        self.queues: dict[int, Queue] = {0: Queue()}
        self.events: dict[int, tuple[Queue, int]] = {}
        self.blocks: dict[int, Any] = {}
        self.pinned: set[int] = set()
        self.freed: list[str] = []
        self.kept: list[torch.Tensor] = []
        self.calls: list[str] = []
        self.limit: int | None = None  # bytes of an allocation
        self.eager = False  # whether all streams but the default one do their work at once
        self.streams: dict[str, set[int]] = defaultdict(set)  # "host to gpu", say -> where copies were queued
        self.waiting: Counter[str] = Counter()  # the same -> copies that are not done
        self.callers_captures: dict[int, int] = {}  # streams that the caller captures -> what is said of them
        self.capturing: int | None = None  # the thread that captures
        self.broken: list[str] = []  # what broke a capture
        self._contexts = threading.local()
        self._one_at_a_time = threading.RLock()
        self._next = 1000
        for name in driver._ARGUMENTS:
            setattr(self, name, partial(self._called, name))

    def __call__(self, name: str) -> FakeCuda:
        assert name == "libcuda.so.1"
        return self

    @property
    def depth(self) -> int:
        """How many contexts the calling thread has pushed."""
        return getattr(self._contexts, "depth", 0)

    @property
    def mode(self) -> int:
        """The calling thread's capture mode; 0 is CUDA's default."""
        return getattr(self._contexts, "mode", 0)

    def unsafe(self, name: str, *, whole_gpu: bool = False) -> bool:
        """Whether CUDA refuses the calling thread something unsafe, which then breaks a capture.

        What concerns the whole GPU is refused in every mode.
        """
        own = self.capturing == threading.get_ident()
        in_mode = self.mode == 0 or (own and self.mode == THREAD_LOCAL)
        refused = self.capturing is not None and (whole_gpu or in_mode)
        if refused:
            self.broken.append(name)
        return refused

    def queue(self, stream: int, work: Callable[[], Any]) -> None:
        with self._one_at_a_time:
            self.queues[stream].work.append(work)
            if self.eager and stream:
                self.wait(stream)

    def wait(self, stream: int) -> None:
        """What `torch.cuda.Stream.synchronize` does."""
        with self._one_at_a_time:
            self.queues[stream].run(len(self.queues[stream].work))

    def _called(self, name: str, *arguments: Any) -> int:
        self.calls.append(name)
        without = ("cuInit", "cuDeviceGet", "cuDevicePrimaryCtxRetain", "cuCtxPushCurrent_v2")
        if name not in without and not self.depth:
            return NO_CONTEXT
        if name in _UNSAFE and self.unsafe(name, whole_gpu=name == "cuCtxSynchronize"):
            return IN_CAPTURE
        with self._one_at_a_time:
            return int(getattr(self, f"_{name.partition('_')[0]}")(*arguments) or 0)

    def _new(self, out: Any) -> int:
        self._next += 1
        out._obj.value = self._next
        return self._next

    def _cuInit(self, flags: int) -> None:
        pass

    def _cuDeviceGet(self, out: Any, number: int) -> None:
        out._obj.value = number

    def _cuDevicePrimaryCtxRetain(self, out: Any, device: int) -> None:
        out._obj.value = 7 + device

    def _cuCtxPushCurrent(self, context: Any) -> None:
        self._contexts.depth = self.depth + 1

    def _cuCtxPopCurrent(self, out: Any) -> None:
        self._contexts.depth -= 1

    def _cuThreadExchangeStreamCaptureMode(self, mode: Any) -> None:
        self._contexts.mode, mode._obj.value = mode._obj.value, self.mode

    def _cuStreamIsCapturing(self, stream: int, out: Any) -> int:
        said = self.callers_captures.get(stream, 0)
        out._obj.value = said == 1
        return said if said == CAPTURE_IMPLICIT else 0

    def _cuCtxSynchronize(self) -> None:
        for stream in list(self.queues):
            self.wait(stream)

    def _cuStreamCreate(self, out: Any, flags: int) -> None:
        assert flags == 1
        self.queues[self._new(out)] = Queue()

    def _cuStreamDestroy(self, stream: int) -> None:
        self.wait(stream)
        self.freed.append("stream")
        del self.queues[stream]

    def _cuStreamSynchronize(self, stream: int) -> None:
        self.wait(stream)

    def _cuEventCreate(self, out: Any, flags: int) -> None:
        self._new(out)

    def _cuEventDestroy(self, event: int) -> None:
        self.events.pop(event, None)

    def _cuEventRecord(self, event: int, stream: int) -> None:
        queue = self.queues[stream]
        self.events[event] = queue, len(queue.work)

    def _cuStreamWaitEvent(self, stream: int, event: int, flags: int) -> None:
        queue, upto = self.events[event]
        self.queue(stream, lambda: queue.run(upto))

    def _cuEventSynchronize(self, event: int) -> None:
        queue, upto = self.events[event]
        queue.run(upto)

    def _cuMemAlloc(self, out: Any, size: int) -> int:
        if self.limit is not None and size > self.limit:
            return OUT_OF_MEMORY
        block = (ctypes.c_ubyte * size)()
        ctypes.memset(block, 0xA5, size)
        out._obj.value = ctypes.addressof(block)
        self.blocks[out._obj.value] = block
        return 0

    def _cuMemHostAlloc(self, out: Any, size: int, flags: int) -> int:
        status = self._cuMemAlloc(out, size)
        self.pinned.add(out._obj.value)
        return status

    def _cuMemFree(self, address: int) -> None:
        self._cuCtxSynchronize()
        self.freed.append("device")
        del self.blocks[address]

    def _cuMemFreeHost(self, address: int) -> None:
        self._cuCtxSynchronize()
        self.freed.append("pinned")
        self.pinned.remove(address)
        del self.blocks[address]

    def _cuMemsetD8Async(self, address: int, value: int, size: int, stream: int) -> None:
        self.queue(stream, lambda: ctypes.memset(address, value, size))

    def _cuMemcpyAsync(self, to: int, source: int, size: int, stream: int) -> None:
        kind = f"{self._place(source)} to {self._place(to)}"

        def work() -> None:
            self.waiting[kind] -= 1
            ctypes.memmove(to, source, size)

        self.streams[kind].add(stream)
        self.waiting[kind] += 1
        self.queue(stream, work)

    def _place(self, address: int) -> str:
        inside = any(0 <= address - at < len(self.blocks[at]) for at in self.pinned)
        return "host" if inside else "gpu"
