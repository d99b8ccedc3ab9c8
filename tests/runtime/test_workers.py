"""The pool: every task once, no more threads than processors, errors, nesting, fork."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from nncompile_runtime.workers import Workers, workers


class Counting:
    """Tasks that note who ran them and how many ran at once."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.done: list[int] = []
        self.threads: set[int] = set()
        self.now = self.most = 0

    def task(self, number: int) -> None:
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
            self.threads.add(threading.get_ident())
        threading.Event().wait(0.002)
        with self.lock:
            self.now -= 1
            self.done.append(number)


@pytest.mark.parametrize("processors", [1, 2, 4])
@pytest.mark.parametrize("at_most", [1, 2, 8])
def test_every_task_runs_once(processors: int, at_most: int) -> None:
    seen = Counting()
    Workers(processors).run([partial(seen.task, n) for n in range(20)], at_most)
    assert sorted(seen.done) == list(range(20))
    assert seen.most <= min(processors, at_most)
    assert threading.get_ident() in seen.threads


def test_tasks_run_at_the_same_time() -> None:
    """Each waits for the other, so one thread alone would never be done."""
    both, met = threading.Barrier(2), []
    Workers(2).run([lambda: met.append(both.wait(10))] * 2, 2)
    assert sorted(met) == [0, 1]


def test_no_task_and_one() -> None:
    seen = Counting()
    pool = Workers(4)
    pool.run([], 4)
    pool.run([partial(seen.task, 1)], 4)
    assert (seen.done, seen.most) == ([1], 1)


def test_a_caller_gets_no_thread_where_the_processors_are_busy() -> None:
    pool, begun, end = Workers(3), threading.Barrier(3), threading.Event()

    def occupy() -> None:
        begun.wait(10)
        end.wait(10)

    seen = Counting()
    with ThreadPoolExecutor(2) as callers:
        busy = [callers.submit(pool.run, [occupy], 3) for _ in range(2)]
        begun.wait(10)
        pool.run([partial(seen.task, n) for n in range(20)], 3)
        assert seen.threads == {threading.get_ident()}
        end.set()
        assert [future.result(10) for future in busy] == [None, None]
    assert pool._busy == 0


def test_a_task_that_uses_the_pool_itself_ends() -> None:
    pool, seen = Workers(2), Counting()

    def outer(number: int) -> None:
        pool.run([partial(seen.task, 10 * number + n) for n in range(3)], 2)

    pool.run([partial(outer, n) for n in range(4)], 2)
    assert len(set(seen.done)) == 12


@pytest.mark.parametrize("bad", [0, 7, 19])
def test_an_error_comes_out_once_nothing_runs_any_more(bad: int) -> None:
    pool, seen = Workers(3), Counting()

    def task(number: int) -> None:
        if number == bad:
            raise ValueError(f"task {number}")
        seen.task(number)

    with pytest.raises(ValueError, match=f"task {bad}"):
        pool.run([partial(task, n) for n in range(20)], 3)
    assert seen.now == 0
    assert len(seen.done) < 20
    assert pool._busy == 0
    pool.run([partial(seen.task, n) for n in (98, 99)], 3)
    assert {98, 99} <= set(seen.done)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_child_has_a_pool_of_its_own() -> None:
    workers().run([lambda: None] * 4, 2)
    child = os.fork()
    if child == 0:
        both: list[int] = []
        workers().run([partial(both.append, n) for n in range(4)], 2)
        os._exit(0 if sorted(both) == [0, 1, 2, 3] else 1)
    assert os.waitpid(child, 0)[1] == 0
