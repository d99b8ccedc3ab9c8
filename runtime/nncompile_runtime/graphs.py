"""Small batches as CUDA graphs: all kernels are launched at once, where launching is what takes the time.

Each bucket has a graph of its own (captured.py). ONNX Runtime's graph ids would let one session capture
several shapes; but a convolution's cuDNN plan, whose kernels a captured graph runs, is replaced when its
shape changes. Nor can the sessions share an arena: a replay does not ask for the memory that it uses. So
where the plan limits memory few graphs are kept, and where a plain run finds none all go.
"""

from __future__ import annotations

import logging
import math
import threading
import traceback
from typing import NamedTuple

from nncompile_runtime import cuda
from nncompile_runtime.buckets import bucket_of
from nncompile_runtime.captured import MOST_THREADS, Captured
from nncompile_runtime.container import ModelFile
from nncompile_runtime.device_runner import DeviceRunner, Feed, Finish
from nncompile_runtime.driver import CudaError
from nncompile_runtime.errors import NncompileError, OutOfMemoryError
from nncompile_runtime.manifest import Signature
from nncompile_runtime.plan import MOST_GRAPHS, Plan
from nncompile_runtime.shapes import carries_batch, fixed_but_for_the_batch

# Calls that a graph must have served none of before another takes its place: batches of many sizes in turn
# would otherwise capture in each call. And those that run plainly after a bucket found no memory for a graph.
_PATIENCE = 64
_log = logging.getLogger("nncompile")


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
        batched = (spec.name for spec in signature.inputs if carries_batch(spec, signature.batch))
        self._batched = next(batched, None)
        self._fits = plain.binds and fixed_but_for_the_batch(signature)
        if not plain.binds:
            _log.warning(
                "%s runs without CUDA graphs: not all that it takes and returns can lie on the GPU.",
                model.name,
            )
        self._open: dict[int, _Open] = {}
        self._refused: dict[int, float] = {}  # bucket -> calls that are still to run plainly
        self._used: dict[int, int] = {}
        self._calls = 0
        self._told = False
        self._opening = threading.Lock()

    def __call__(self, feed: Feed) -> list[object]:
        """Run and return the outputs."""
        return self.start(feed)()

    def start(self, feed: Feed) -> Finish:
        """Begin a call, as `DeviceRunner.start` does."""
        rows = feed[self._batched].shape[0] if self._batched is not None else 1
        bucket = bucket_of(rows, padding=self._padding) if self._fits else None
        if bucket is None:
            return self._start_plainly(feed)
        try:
            return self._start_on_a_graph(bucket, feed) or self._start_plainly(feed)
        except (NncompileError, CudaError) as error:
            if _is_want_of_memory(error):
                traceback.clear_frames(error.__traceback__)  # they hold the session that is to go
                self._refuse(bucket, _PATIENCE, error)  # first: the plain run may need what it holds
                return self._start_plainly(feed)
            finish = self._start_plainly(feed)  # which raises where the call is at fault, and not the graph
            self._refuse(bucket, math.inf, error)
            return finish

    def _start_on_a_graph(self, bucket: int, feed: Feed) -> Finish | None:
        # Who is limited in memory counts the calls of each graph.
        opened = self._open.get(bucket) if self._plan.gpu_memory_limit is None else None
        opened = opened or self._opened(bucket)
        if opened is None:
            return None
        if opened.captured.admits():
            return opened.runner.start(feed)
        self._say_that_threads_are_many()
        return None

    def _say_that_threads_are_many(self) -> None:
        if not self._told:
            self._told = True
            _log.warning(
                "%s replays CUDA graphs for %d threads; calls of further ones run without. Call from fewer "
                "threads that stay, or give the plan more workers.",
                self._model.name,
                MOST_THREADS,
            )

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
            if self._refused.get(bucket):
                self._refused[bucket] -= 1
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

    def _refuse(self, bucket: int, calls: float, error: Exception) -> None:
        """Close a bucket for as many calls; of memory that is short time and again it is said once."""
        with self._opening:
            told = bucket in self._refused and calls < math.inf
            self._refused[bucket] = calls
            self._open.pop(bucket, None)
        if not told:
            until = "" if calls == math.inf else f" until one is tried again, every {calls} calls"
            _log.warning("Batches of %d run without a CUDA graph%s: %s", bucket, until, error)


def _is_want_of_memory(error: Exception) -> bool:
    return isinstance(error, OutOfMemoryError) or cuda.missing_memory(error) is not None
