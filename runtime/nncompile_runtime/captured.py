"""One captured CUDA graph: a session that captures, and the memory that it runs on.

ONNX Runtime captures the first runs of a session (`enable_cuda_graph`) and replays them: the same kernels
on the same addresses, whatever is bound later. So a call's inputs are copied into memory that stays, and its
outputs out of it. ONNX Runtime keeps a captured graph for each thread that runs the session, until the
session goes: each new thread captures anew, so that only a few may.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

from nncompile_runtime.container import ModelFile
from nncompile_runtime.cuda_session import CudaSession, Memory
from nncompile_runtime.driver import Block
from nncompile_runtime.manifest import Signature
from nncompile_runtime.plan import Plan
from nncompile_runtime.shapes import ports_of
from nncompile_runtime.staging import packed

_MOST_THREADS = 8


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
        self._admitted = 0

    def admits(self) -> bool:
        """Whether the calling thread may run here."""
        admitted: bool | None = getattr(self._threads, "admitted", None)
        if admitted is None:
            with self.session.lock:
                admitted = self._threads.admitted = self._admitted < _MOST_THREADS
                self._admitted += admitted
        return admitted

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
