"""Interleaved timing: rounds of blocks, so that whatever slows the machine meets every engine alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from nncompile_runtime.errors import NncompileError
from nncompile_runtime.race import garbage_left_alone

Latencies = npt.NDArray[np.int64]
Clock = Callable[[], int]
Sleep = Callable[[float], None]
T = TypeVar("T")


@dataclass(frozen=True)
class Schedule:
    """How long and how often each engine is timed.

    Attributes:
        rounds: How often every engine has its turn; each round yields one paired ratio.
        seconds: Time of the timed calls of one engine, over all rounds.
        warmup: Seconds of calls before each block that are not counted.
        pause: Seconds of sleep before each block: an idle worker of ONNX Runtime spins on for about
            50 ms after a run and slows whatever is timed next on its processor.
        minimum_calls: Calls that a block times at least, however long they take.
        sessions: Into how many runs of neighbouring rounds the rounds are cut, each with engines opened
            anew: where memory happens to lie differs from one to the next (docs/benchmarks.md). At most
            one a round.
    """

    rounds: int = 10
    seconds: float = 1.0
    warmup: float = 0.05
    pause: float = 0.1
    minimum_calls: int = 3
    sessions: int = 5

    def __post_init__(self) -> None:
        """Refuse a schedule that measures nothing.

        Raises:
            NncompileError: A number is too small.
        """
        counts, times = ("rounds", "minimum_calls", "sessions"), ("seconds", "warmup", "pause")
        for name, least in [*((name, 1) for name in counts), *((name, 0) for name in times)]:
            if not getattr(self, name) >= least:
                raise NncompileError(
                    f"{name} is {getattr(self, name)}.", remedy=f"Give a number from {least} on."
                )


def dealt(rounds: Sequence[T], sessions: int) -> list[Sequence[T]]:
    """What belongs to each round, such as its number, cut into sessions of neighbouring rounds."""
    sessions = min(sessions, len(rounds))
    ends = [len(rounds) * number // sessions for number in range(sessions + 1)]
    return [rounds[start:end] for start, end in pairwise(ends)]


def measure(
    calls: Mapping[str, Callable[[], Any]],
    schedule: Schedule,
    rounds: Sequence[int] | None = None,
    *,
    on_block: Callable[[str], None] | None = None,
    clock: Clock = time.perf_counter_ns,
    sleep: Sleep = time.sleep,
) -> dict[str, tuple[Latencies, ...]]:
    """Time every call, one block after another.

    Args:
        calls: What to time, by name. Each round starts with the next name.
        schedule: How long and how often.
        rounds: The numbers of the rounds to measure; None for all of the schedule's.
        on_block: Told the name before each block, outside all timing.
        clock: Nanoseconds that only grow.
        sleep: Waits for a number of seconds.

    Returns:
        For each name one array a round, of the nanoseconds of each timed call.
    """
    block = round(schedule.seconds / schedule.rounds * 1e9)

    def calls_of_a_block(name: str, _: int) -> list[int]:
        return timed_calls(calls[name], block, schedule.minimum_calls, clock)

    return interleave(calls, calls_of_a_block, schedule, rounds, on_block=on_block, clock=clock, sleep=sleep)


def interleave(
    calls: Mapping[str, Callable[[], Any]],
    block: Callable[[str, int], list[int]],
    schedule: Schedule,
    rounds: Sequence[int] | None = None,
    *,
    on_block: Callable[[str], None] | None = None,
    clock: Clock = time.perf_counter_ns,
    sleep: Sleep = time.sleep,
) -> dict[str, tuple[Latencies, ...]]:
    """Run a block for every name in every round, each after the pause and the warm-up.

    Args:
        calls: What to warm up, by name. Each round starts with the next name.
        block: The latencies of one block, from a name and the number of the round.
        schedule: How often, and the pause and the warm-up.
        rounds: The numbers of the rounds to run; None for all of the schedule's.
        on_block: Told the name before each block, outside all timing.
        clock: Nanoseconds that only grow.
        sleep: Waits for a number of seconds.

    Returns:
        For each name one array a round, of what `block` returned.
    """
    names = list(calls)
    warmup = round(schedule.warmup * 1e9)
    taken: dict[str, list[Latencies]] = {name: [] for name in names}
    for number in range(schedule.rounds) if rounds is None else rounds:
        first = number % len(names) if names else 0
        for name in names[first:] + names[:first]:
            if on_block is not None:
                on_block(name)
            sleep(schedule.pause)
            with garbage_left_alone():
                timed_calls(calls[name], warmup, 1, clock)
                latencies = block(name, number)
            taken[name].append(np.array(latencies, dtype=np.int64))
    return {name: tuple(blocks) for name, blocks in taken.items()}


def timed_calls(call: Callable[[], Any], duration: int, minimum: int, clock: Clock) -> list[int]:
    """Call again and again until `duration` nanoseconds have passed and `minimum` calls are done."""
    latencies: list[int] = []
    stop = clock()
    end = stop + duration
    while stop < end or len(latencies) < minimum:
        start = clock()
        call()
        stop = clock()
        latencies.append(stop - start)
    return latencies
