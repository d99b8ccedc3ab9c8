"""One captured CUDA graph: a session that captures, and the memory that it runs on.

ONNX Runtime captures the first runs of a session (`enable_cuda_graph`) and replays them: the same kernels
on the same addresses, whatever is bound later. So a call's inputs are copied into memory that stays, and its
outputs out of it, on the GPU. ONNX Runtime keeps a captured graph for each thread that runs the session,
until the session goes: each new thread captures anew, so that only a few may.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

from nncompile_runtime.container import ModelFile
from nncompile_runtime.cuda_session import CudaSession, Memory
from nncompile_runtime.driver import Block
from nncompile_runtime.manifest import Signature
from nncompile_runtime.plan import Plan
from nncompile_runtime.staging import Port, bytes_of, packed

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
        specs = (*signature.inputs, *signature.outputs)
        ports: list[Port] = [
            (s.name, s.array_dtype, tuple(n if isinstance(n, int) else rows for n in s.shape)) for s in specs
        ]
        sizes = [Memory(*port, 0).size for port in ports]
        gpu, stream = self.session.gpu, self.session.stream
        with self.session.current():
            self._block = Block(gpu, bytes_of(ports))
            # Rows that no call has filled yet are computed with, too.
            gpu.call("cuMemsetD8Async", self._block.address, 0, self._block.size, stream.handle)
            stream.synchronize()
        placed = [
            Memory(*port, self._block.address + at) for port, at in zip(ports, packed(sizes)[0], strict=True)
        ]
        count = len(signature.inputs)
        self._inputs, self._outputs = tuple(placed[:count]), tuple(placed[count:])
        self._places = {memory.name: memory.address for memory in placed}
        self._threads = threading.local()
        self._admitted = 0

    def admits(self) -> bool:
        """Whether the calling thread may run here."""
        if not hasattr(self._threads, "admitted"):
            with self.session.lock:
                self._threads.admitted = self._admitted < _MOST_THREADS
                self._admitted += self._threads.admitted
        return bool(self._threads.admitted)

    def run_at(self, inputs: Sequence[Memory], outputs: Sequence[Memory]) -> None:
        """Copy inputs of at most `rows` rows in, replay, copy as many rows of the outputs out."""
        with self.session.lock:
            for memory in inputs:
                self.session.copy(memory._replace(address=self._places[memory.name]), memory.address)
            self.session.run_at(self._inputs, self._outputs)
            for memory in outputs:
                self.session.copy(memory, self._places[memory.name])
