"""Threads that run pieces of a batch beside the caller: one pool a process, however many models there are."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache

from nncompile_runtime.machine import this_machine

Task = Callable[[], None]


class Workers:
    """A pool that lends idle threads and never makes a caller wait for one.

    The caller takes tasks too. Callers and the threads lent to them are counted together, so that
    several callers at once share the processors: the later ones find fewer threads free, or none.
    """

    def __init__(self, processors: int) -> None:
        """Lend at most `processors - 1` threads; they start when they are first needed."""
        self._lock = threading.Lock()
        self._processors = processors
        self._busy = 0
        self._pool = ThreadPoolExecutor(max(1, processors - 1), thread_name_prefix="nncompile")

    def run(self, tasks: Sequence[Task], at_most: int) -> None:
        """Run every task, on the calling thread and on those that are free.

        Args:
            tasks: Independent of one another; they are begun in order.
            at_most: Threads to use, the caller's included.

        Raises:
            Exception: What the first task that failed raised; those not yet begun are left out.
        """
        left = iter(tasks)
        taking = threading.Lock()
        stop = threading.Event()

        def work() -> None:
            while not stop.is_set():
                with taking:
                    task = next(left, None)
                if task is None:
                    return
                try:
                    task()
                except BaseException:
                    stop.set()
                    raise

        helpers = self._borrow(min(at_most, len(tasks)) - 1)
        started: list[Future[None]] = []
        try:
            started = [self._pool.submit(work) for _ in range(helpers)]
            work()
        finally:
            for future in started:
                future.exception()  # waits: a task writes into memory of the caller's
            self._give_back(helpers)
        for future in started:
            future.result()

    def _borrow(self, wanted: int) -> int:
        with self._lock:
            self._busy += 1
            lent = max(0, min(wanted, self._processors - self._busy))
            self._busy += lent
            return lent

    def _give_back(self, lent: int) -> None:
        with self._lock:
            self._busy -= lent + 1


@lru_cache(maxsize=1)
def workers() -> Workers:
    """The pool of this process, for as many processors as it may keep busy."""
    return Workers(this_machine().processors)


if hasattr(os, "register_at_fork"):  # a child has none of its parent's threads
    os.register_at_fork(after_in_child=workers.cache_clear)
