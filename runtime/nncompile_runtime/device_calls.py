"""How the calls of one plan run on a GPU: in which session, whole or in pieces, replayed as graphs or not."""

from __future__ import annotations

import itertools
import threading
from collections import deque
from typing import Any

from nncompile_runtime import device_arrays
from nncompile_runtime.batching import batch_of
from nncompile_runtime.container import ModelFile
from nncompile_runtime.cuda_session import CudaSession
from nncompile_runtime.device_runner import DeviceRunner, Feed, Finish
from nncompile_runtime.graphs import Graphs
from nncompile_runtime.manifest import Signature
from nncompile_runtime.plan import Plan
from nncompile_runtime.shapes import carries_batch
from nncompile_runtime.streams import AT_ONCE


class DeviceCalls:
    """Runs checked feeds as one plan says. May be called from several threads."""

    def __init__(
        self,
        model: ModelFile,
        plan: Plan,
        session: CudaSession,
        signature: Signature,
        *,
        rows_independent: bool,
    ) -> None:
        """Prepare for a plan.

        Args:
            model: The graph.
            plan: How to run it.
            session: Of `plan.session`.
            signature: The model's.
            rows_independent: Whether a batch may be cut, and padded.
        """
        self._model, self._plan, self._rows_independent = model, plan, rows_independent
        self._runners: dict[int, DeviceRunner | Graphs] = {0: self._made(session, signature)}
        self._opening = threading.Lock()
        self._callers = itertools.count()
        self._caller = threading.local()
        every_output_batched = all(carries_batch(spec, signature.batch) for spec in signature.outputs)
        self._piece = plan.micro_batch if rows_independent and every_output_batched else None
        self._signature = signature
        self._batched = [s.name for s in signature.inputs if carries_batch(s, signature.batch)]

    def __call__(self, feed: Feed) -> list[Any]:
        """Run and return the outputs: arrays for arrays, tensors for tensors, CuPy's arrays for those."""
        return self.start(feed)()

    def start(self, feed: Feed) -> Finish:
        """Begin a call, as `DeviceRunner.start` does; one in pieces ends before this returns."""
        if self._piece is None or not self._batched:
            return self._mine().start(feed)
        rows = batch_of(self._signature, feed)
        if rows <= self._piece:
            return self._mine().start(feed)
        outputs = self._run_in_pieces(feed, rows, self._piece)
        return lambda: outputs

    def _made(self, session: CudaSession, signature: Signature) -> DeviceRunner | Graphs:
        plain = DeviceRunner(session, signature)
        if not self._plan.cuda_graph:
            return plain
        return Graphs(self._model, self._plan, signature, plain, padding=self._rows_independent)

    def _mine(self) -> DeviceRunner | Graphs:
        """The calling thread's own, as long as there are as many workers as threads that call."""
        found: DeviceRunner | Graphs | None = getattr(self._caller, "runner", None)
        if found is not None:
            return found
        if not hasattr(self._caller, "number"):
            self._caller.number = next(self._callers) % self._plan.workers
        number = self._caller.number
        with self._opening:
            if number not in self._runners:
                session = CudaSession(self._model, self._plan.session)
                self._runners[number] = self._made(session, self._signature)
            found = self._caller.runner = self._runners[number]
        return found

    def _run_in_pieces(self, feed: Feed, rows: int, piece: int) -> list[Any]:
        """Further pieces are begun before one is waited for."""
        runner = self._mine()
        waiting: deque[Finish] = deque()
        parts: list[list[Any]] = []
        for at in range(0, rows, piece):
            cut = {n: v[at : at + piece] if n in self._batched else v for n, v in feed.items()}
            waiting.append(runner.start(cut))
            if len(waiting) == AT_ONCE:
                parts.append(waiting.popleft()())
        parts += [finish() for finish in waiting]
        return [device_arrays.joined(column) for column in zip(*parts, strict=True)]
