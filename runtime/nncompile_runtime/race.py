"""Which of several calls is fastest: interleaved rounds, successive halving, a verdict beyond the noise.

Successive halving (Jamieson & Talwalkar 2016, arXiv:1502.07943): every entrant gets a few rounds, the
slower half drops out, and those left share the time that this frees. The verdict rests on the rounds of
the last rung alone, so that who was lucky enough to get there is not also judged by that luck.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np

from nncompile_runtime.bootstrap import Estimate, median_estimate

Name = TypeVar("Name")

_EARLY_ROUNDS, _FEWEST_LAST_ROUNDS, _MOST_LAST_ROUNDS = 3, 7, 15
_FINALISTS = 2  # that reach the last rung beside those that are always kept
_PAUSE = 0.05  # seconds for which an idle worker of ONNX Runtime spins on (nncompile/bench/timing.py)
_SHORTEST_BLOCK = 0.001


@contextmanager
def garbage_left_alone() -> Iterator[None]:
    """No garbage collection meanwhile."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@dataclass(frozen=True)
class Entrant:
    """A call to time.

    Attributes:
        call: What is timed.
        spins: Whether its idle threads spin on afterwards and would slow whoever comes next.
    """

    call: Callable[[], Any]
    spins: bool = False


@dataclass(frozen=True)
class Race(Generic[Name]):
    """What was measured.

    Attributes:
        rounds: For each entrant the median seconds of a call in each round of the last rung it ran in.
        yardstick: Likewise the yardstick's, in the same rung.
        calls: Likewise the seconds of every call.
        finalists: Those of the last rung, the kept ones first.
        kept: How many of them no rung could drop.
    """

    rounds: Mapping[Name, tuple[float, ...]]
    yardstick: Mapping[Name, tuple[float, ...]]
    calls: Mapping[Name, tuple[float, ...]]
    finalists: tuple[Name, ...]
    kept: int = 1

    def ratio(self, base: Name, other: Name) -> Estimate:
        """How many times as fast as `base` `other` is; both ran in the same rung."""
        return paired_ratio(self.rounds[base], self.rounds[other])

    def to_yardstick(self, name: Name) -> Estimate:
        """How many times as fast as the yardstick it was, in the last rung it ran in."""
        return paired_ratio(self.yardstick[name], self.rounds[name])

    def percentile(self, name: Name, share: float) -> float:
        """Seconds of a call, at a percentile."""
        return float(np.percentile(self.calls[name], share))

    @property
    def winner(self) -> Name:
        """The last kept one, unless another beats it beyond the noise; each further one must beat the best.

        So what would run without a race stays unless it is measured to be slower. The other kept ones are
        asked first, then the rest from the fastest on.
        """
        best = self.finalists[self.kept - 1]
        for name in (*self.finalists[: self.kept - 1], *self.finalists[self.kept :]):
            if self.ratio(best, name).low > 1:
                best = name
        return best


def race(
    entrants: Mapping[Name, Entrant],
    kept: Sequence[Name],
    seconds: float,
    *,
    finalists: int = _FINALISTS,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> Race[Name]:
    """Time entrants against one another.

    Args:
        entrants: What is timed, by name.
        kept: Those that no rung drops; the first is the yardstick, the last what would run without a race.
        seconds: About how long it may take. Every entrant is timed at least once a round, so calls that
            are slow take longer.
        finalists: How many others the last rung keeps.
        clock: Seconds that only grow.
        sleep: Waits for a number of seconds.
    """
    alive = [*kept, *(name for name in entrants if name not in kept)]
    rungs = 1 + max(0, math.ceil(math.log2(max(1, len(alive) - len(kept)) / finalists)))
    rounds: dict[Name, tuple[float, ...]] = {}
    yardstick: dict[Name, tuple[float, ...]] = {}
    calls: dict[Name, tuple[float, ...]] = {}
    end = clock() + seconds
    for rung in range(rungs):
        share = max(0.0, end - clock()) / (rungs - rung)
        pauses = _PAUSE * sum(entrants[name].spins for name in alive)
        count = _EARLY_ROUNDS
        if rung == rungs - 1:  # as many rounds as leave half of the time for calls
            affordable = share / (2 * pauses) if pauses else _MOST_LAST_ROUNDS
            count = int(min(_MOST_LAST_ROUNDS, max(_FEWEST_LAST_ROUNDS, affordable)))
        block = max(_SHORTEST_BLOCK, (share / count - pauses) / len(alive))
        taken = _rung({name: entrants[name] for name in alive}, count, block, clock, sleep)
        for name, blocks in taken.items():
            rounds[name] = tuple(float(np.median(one)) for one in blocks)
            calls[name] = tuple(second for one in blocks for second in one)
        yardstick |= dict.fromkeys(alive, rounds[kept[0]])
        ranked = sorted(alive[len(kept) :], key=lambda name: -paired_median(rounds[kept[0]], rounds[name]))
        left = finalists if rung >= rungs - 2 else math.ceil(len(ranked) / 2)
        alive = [*kept, *ranked[: max(finalists, left)]]
    return Race(rounds, yardstick, calls, tuple(alive), len(kept))


def paired_median(base: Sequence[float], other: Sequence[float]) -> float:
    """The median over rounds of how many times as fast `other` was in the same round."""
    return float(np.median(np.divide(base, other)))


def paired_ratio(base: Sequence[float], other: Sequence[float]) -> Estimate:
    """How many times as fast `other` is: the median over rounds that ran one after the other."""
    return median_estimate(np.divide(base, other))


def _rung(
    entrants: Mapping[Name, Entrant],
    rounds: int,
    block: float,
    clock: Callable[[], float],
    sleep: Callable[[float], None],
) -> dict[Name, list[list[float]]]:
    """Every entrant has one block a round; each round begins with the next one."""
    names = list(entrants)
    taken: dict[Name, list[list[float]]] = {name: [] for name in names}
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            with garbage_left_alone():
                taken[name].append(_block(entrants[name].call, block, clock))
            if entrants[name].spins:
                sleep(_PAUSE)
    return taken


def _block(call: Callable[[], Any], seconds: float, clock: Callable[[], float]) -> list[float]:
    """Seconds of each call until `seconds` have passed, after a first one that finds the caches cold."""
    end = clock() + seconds
    call()
    taken: list[float] = []
    while not taken or clock() < end:
        start = clock()
        call()
        taken.append(clock() - start)
    return taken
