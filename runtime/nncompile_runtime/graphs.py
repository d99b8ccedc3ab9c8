"""CUDA graphs of small batches: all kernels are launched at once, where launching is what takes the time.

ONNX Runtime captures the first runs of a session (`enable_cuda_graph`) and replays them: the same kernels
on the same addresses, whatever is bound later. So each bucket has a session and memory of its own, that a
call's inputs are copied into and its outputs out of, on the GPU. ONNX Runtime's graph ids would let one
session capture several shapes; but a convolution's cuDNN plan, whose kernels a captured graph runs, is
replaced when its shape changes. Nor can the sessions share an arena: a replay does not ask for the memory
that it uses. So where the plan limits memory few graphs are kept, and where a plain run finds none all go.
ONNX Runtime keeps a captured graph for each thread that runs the session: each new thread captures anew, so
that only a few may.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from typing import NamedTuple

from nncompile_runtime.batching import batch_of
from nncompile_runtime.buckets import bucket_of
from nncompile_runtime.container import ModelFile
from nncompile_runtime.cuda_session import CudaSession, Memory
from nncompile_runtime.device_runner import DeviceRunner, Feed, Finish
from nncompile_runtime.driver import Block, CudaError
from nncompile_runtime.errors import NncompileError, OutOfMemoryError
from nncompile_runtime.manifest import Signature
from nncompile_runtime.plan import MOST_GRAPHS, Plan
from nncompile_runtime.shapes import carries_batch, fixed_but_for_the_batch
from nncompile_runtime.staging import Port, bytes_of, packed

_MOST_THREADS = 8
# Calls that a graph must have served none of before another takes its place: batches of many sizes in turn
# would otherwise capture in each call.
_PATIENCE = 64
_log = logging.getLogger("nncompile")


class Captured:
    """One bucket: a session that captures, and the memory it runs on.

    Attributes:
        session: The session.
    """

    def __init__(self, model: ModelFile, plan: Plan, signature: Signature, bucket: int) -> None:
        """Open the session; a thread's first run captures.

        Args:
            model: The graph.
            plan: How to run it.
            signature: Its signature, in which nothing but the batch is free.
            bucket: Rows of the graph.
        """
        # One thread: the CPU has nothing to do in it.
        one_thread = plan.session.model_copy(update={"threads": 1})
        self.session = CudaSession(model, one_thread, capture=True)
        specs = (*signature.inputs, *signature.outputs)
        ports: list[Port] = [
            (s.name, s.array_dtype, tuple(n if isinstance(n, int) else bucket for n in s.shape))
            for s in specs
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
        """Copy inputs of at most `bucket` rows in, replay, copy as many rows of the outputs out."""
        with self.session.lock:
            for memory in inputs:
                self.session.copy(memory._replace(address=self._places[memory.name]), memory.address)
            self.session.run_at(self._inputs, self._outputs)
            for memory in outputs:
                self.session.copy(memory, self._places[memory.name])


class _Open(NamedTuple):
    captured: Captured
    runner: DeviceRunner


class Graphs:
    """Serves batches by bucket; what no graph serves runs plainly. May be called from several threads."""

    def __init__(
        self, model: ModelFile, plan: Plan, signature: Signature, plain: DeviceRunner, *, padding: bool
    ) -> None:
        """Capture when a bucket is first asked for.

        Args:
            model: The graph.
            plan: How to run it.
            signature: Its signature.
            plain: Runs what no graph serves.
            padding: Whether rows may be added to a batch.
        """
        self._model, self._plan, self._signature, self._plain = model, plan, signature, plain
        every_output_batched = all(carries_batch(spec, signature.batch) for spec in signature.outputs)
        self._padding = padding and every_output_batched
        self._fits = plain.binds and fixed_but_for_the_batch(signature)
        if not plain.binds:
            _log.warning(
                "%s runs without CUDA graphs: not all that it takes and returns can lie on the GPU.",
                model.name,
            )
        self._open: dict[int, _Open] = {}
        self._refused: set[int] = set()
        self._used: dict[int, int] = {}
        self._calls = 0
        self._opening = threading.Lock()

    def __call__(self, feed: Feed) -> list[object]:
        """Run and return the outputs."""
        return self.start(feed)()

    def start(self, feed: Feed) -> Finish:
        """Begin a call, as `DeviceRunner.start` does."""
        rows = batch_of(self._signature, feed)
        bucket = bucket_of(rows, padding=self._padding) if self._fits else None
        if bucket is None:
            return self._start_plainly(feed)
        try:
            opened = self._opened(bucket)
            if opened is not None and opened.captured.admits():
                return opened.runner.start(feed)
        except (NncompileError, CudaError) as error:
            finish = self._start_plainly(feed)  # which raises where the call is at fault, and not the graph
            self._refuse(bucket)
            _log.warning("Batches of %d run without a CUDA graph: %s", bucket, error)
            return finish
        return self._start_plainly(feed)

    def _start_plainly(self, feed: Feed) -> Finish:
        try:
            return self._plain.start(feed)
        except OutOfMemoryError:
            with self._opening:
                had_graphs = bool(self._open)
                self._open.clear()
            if not had_graphs:
                raise
        return self._plain.start(feed)

    def _opened(self, bucket: int) -> _Open | None:
        """The bucket's session; None where it has none, and none may be opened now."""
        with self._opening:
            self._calls += 1
            if bucket in self._refused:
                return None
            if bucket not in self._open:
                if not self._make_room():
                    return None
                captured = Captured(self._model, self._plan, self._signature, bucket)
                self._open[bucket] = _Open(captured, self._plain.through(captured))
            self._used[bucket] = self._calls
            return self._open[bucket]

    def _make_room(self) -> bool:
        if self._plan.gpu_memory_limit is None or len(self._open) < MOST_GRAPHS:
            return True
        oldest = min(self._open, key=lambda bucket: self._used[bucket])
        idle = self._calls - self._used[oldest] > _PATIENCE
        if idle:
            del self._open[oldest]
        return idle

    def _refuse(self, bucket: int) -> None:
        with self._opening:
            self._refused.add(bucket)
            self._open.pop(bucket, None)
