"""One captured CUDA graph: a session that captures, and the memory that it runs on.

ONNX Runtime captures the first runs of a session (`enable_cuda_graph`) and replays them: the same kernels
on the same addresses, whatever is bound later. So a call's inputs are copied into memory that stays, and its
outputs out of it. ONNX Runtime keeps a captured graph for each thread that runs the session, until the
session goes, even when the thread has gone before: each new thread captures anew, so that only a few may.
Where threads have gone, the session begins anew for one that calls often enough to be worth that.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from weakref import WeakSet

from nncompile_runtime.container import ModelFile
from nncompile_runtime.cuda_session import CudaSession, Memory
from nncompile_runtime.driver import Block
from nncompile_runtime.manifest import Signature
from nncompile_runtime.plan import Plan
from nncompile_runtime.shapes import ports_of
from nncompile_runtime.staging import packed

MOST_THREADS = 8
# Calls that a thread must have run plainly before a session begins anew for it, which takes as long as many.
_PATIENCE = 64


class _Caller:
    """A thread, as long as it lives: what `threading.local` holds goes with it, foreign threads' too.

    Attributes:
        admitted: Whether it may run.
        refused: How often it might not.
    """

    def __init__(self) -> None:
        self.admitted, self.refused = False, 0


class Captured:
    """The graph of one number of rows.

    Attributes:
        session: The session.
    """

    def __init__(self, model: ModelFile, plan: Plan, signature: Signature, rows: int) -> None:
        """Open the session; a thread's first run captures.

        Args:
            model: The graph.
            plan: How to run it.
            signature: Its signature, in which nothing but the batch is free.
            rows: Of the graph.
        """
        # One thread: the CPU has nothing to do in it.
        one_thread = plan.session.model_copy(update={"threads": 1})
        self.session = CudaSession(model, one_thread, capture=True)
        given = [tuple(n if isinstance(n, int) else rows for n in s.shape) for s in signature.inputs]
        call = ports_of(signature, given)
        ports = (*call.inputs, *(call.outputs or ()))
        offsets, size = packed(ports)
        gpu, stream = self.session.gpu, self.session.stream
        with self.session.current():
            self._block = Block(gpu, size)
            # Rows that no call has filled yet are computed with, too.
            gpu.call("cuMemsetD8Async", self._block.address, 0, self._block.size, stream.handle)
            stream.synchronize()
        placed = [Memory(port, self._block.address + at) for port, at in zip(ports, offsets, strict=True)]
        count = len(call.inputs)
        self._inputs, self._outputs = tuple(placed[:count]), tuple(placed[count:])
        self._threads = threading.local()
        self._admitted: WeakSet[_Caller] = WeakSet()
        self._places, self._ended = 0, self.session.ended

    def admits(self) -> bool:
        """Whether the calling thread may run here."""
        caller: _Caller | None = getattr(self._threads, "caller", None)
        if caller is None:
            caller = self._threads.caller = _Caller()
        if not caller.admitted:
            with self.session.lock:
                caller.admitted = self._has_place_for(caller)
        return caller.admitted

    def _has_place_for(self, caller: _Caller) -> bool:
        living = len(self._admitted)
        worth_it = caller.refused >= _PATIENCE and living < MOST_THREADS
        if self._places >= MOST_THREADS and worth_it:
            self.session.begin_anew()
        if self._ended != self.session.ended:  # now or after a failure: graphs of threads gone are gone too
            self._places, self._ended = living, self.session.ended
        if self._places >= MOST_THREADS:
            caller.refused += 1
            return False
        self._places += 1
        self._admitted.add(caller)
        return True

    def run_at(self, inputs: Sequence[Memory], outputs: Sequence[Memory]) -> None:
        """Copy inputs of at most `rows` rows in, replay, copy as many rows of the outputs out.

        The session's lock must be held.

        Args:
            inputs: All of the graph's, in its order, on the GPU or in pinned memory of the host.
            outputs: Likewise.
        """
        copy, stream = self.session.gpu.copy, self.session.stream.handle
        for (_, place), (port, address) in zip(self._inputs, inputs, strict=True):
            copy(place, address, port.size, stream)
        self.session.run_at(self._inputs, self._outputs)
        for (_, place), (port, address) in zip(self._outputs, outputs, strict=True):
            copy(address, place, port.size, stream)
