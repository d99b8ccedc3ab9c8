"""Scenarios of MLPerf Inference: what a stream of queries, a pile of samples and a server see of an engine.

Source: the load generator's definitions, https://github.com/mlcommons/inference, loadgen/test_settings.h.
Runs are as long as the schedule says, far shorter than MLPerf's, and so are no MLPerf results.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from nncompile.bench.statistics import Latency, latency, paired_ratio, samples_per_second
from nncompile.bench.timing import Clock, Latencies, Schedule, Sleep, interleave
from nncompile_runtime.bootstrap import Estimate
from nncompile_runtime.errors import NncompileError

Name = Literal["single-stream", "offline", "server"]
NAMES: tuple[Name, ...] = ("single-stream", "offline", "server")

# batch -> engine -> the latencies of its rounds, in nanoseconds
Taken = Mapping[int, Mapping[str, tuple[Latencies, ...]]]

# A sleep ends up to a tenth of a millisecond late; the rest of a wait is spent on looking at the clock.
_WATCHED = 200_000  # nanoseconds


@dataclass(frozen=True)
class Scenario:
    """Which questions are asked, and how often.

    Attributes:
        name: `single-stream`: the next query when the last is answered; its figure is the 90th percentile.
            `offline`: all samples at once, in the batches that suit the engine; samples a second.
            `server`: queries of one sample arrive as a Poisson process; the 99th percentile.
        rate: Queries a second; `server` only.
        bound: Milliseconds within which `server` must answer 99 of 100 queries; 15 is MLPerf's for ResNet-50.
    """

    name: Name
    rate: float | None = None
    bound: float = 15.0

    def __post_init__(self) -> None:
        """Refuse what is no scenario.

        Raises:
            NncompileError: The name is unknown, or a rate is missing, makes no sense, or has no meaning.
        """
        if self.name not in NAMES:
            raise NncompileError(
                f"There is no scenario {self.name!r}.", remedy=f"Choose from {', '.join(NAMES)}."
            )
        if self.name == "server" and not (self.rate is not None and 0 < self.rate < float("inf")):
            raise NncompileError(
                f"The server scenario has the rate {self.rate}.",
                remedy="Say how many queries arrive in a second, for example 1000.",
            )
        if self.name != "server" and self.rate is not None:
            raise NncompileError(
                f"The {self.name} scenario has no rate.", remedy="Leave it out, or choose server."
            )
        if not 0 < self.bound < float("inf"):
            raise NncompileError(f"The bound is {self.bound} ms.", remedy="Give a number above 0.")


@dataclass(frozen=True)
class ScenarioRow:
    """One engine in a scenario.

    Attributes:
        engine: Its name.
        batch: Samples in one call.
        queries: How many calls were timed.
        latency: Microseconds from the query's arrival, due by the schedule, to its answer.
        samples_per_second: Samples answered; of a server no more than arrive.
        ratio: How many times better than the yardstick by the scenario's figure; None without that.
        held: Of a server, whether the 99th percentile kept within the bound; None otherwise.
    """

    engine: str
    batch: int
    queries: int
    latency: Latency
    samples_per_second: float
    ratio: Estimate | None
    held: bool | None = None


@dataclass(frozen=True)
class ScenarioReport:
    """A scenario and what each engine made of it."""

    scenario: Scenario
    rows: tuple[ScenarioRow, ...]


def poisson_arrivals(rate: float, count: int, seed: int | Sequence[int]) -> Latencies:
    """When queries arrive, in nanoseconds from the start: a Poisson process of `rate` a second."""
    gaps = np.random.default_rng(seed).exponential(1e9 / rate, count)
    return np.cumsum(gaps).astype(np.int64)


def serve(
    call: Callable[[], Any],
    arrivals: Sequence[int] | Latencies,
    clock: Clock = time.perf_counter_ns,
    sleep: Sleep = time.sleep,
) -> list[int]:
    """Answer queries in the order of their arrival, one at a time.

    A query that waits for the one before has that wait in its latency: it counts from when the query was
    due, not from when the engine came to it (else a slow engine would slow its own queries down, which
    hides them: coordinated omission).

    Returns:
        Nanoseconds from each query's arrival to its answer.
    """
    latencies = []
    start = clock()
    for arrival in arrivals:
        due = start + int(arrival)
        wait = due - clock() - _WATCHED
        if wait > 0:
            sleep(wait / 1e9)
        while clock() < due:
            pass
        call()
        latencies.append(clock() - due)
    return latencies


def measure_server(
    calls: Mapping[str, Callable[[], Any]],
    scenario: Scenario,
    schedule: Schedule,
    seed: int,
    rounds: Sequence[int] | None = None,
    *,
    on_block: Callable[[str], None] | None = None,
    clock: Clock = time.perf_counter_ns,
    sleep: Sleep = time.sleep,
) -> dict[str, tuple[Latencies, ...]]:
    """Let every engine serve the same arrivals, new ones in each round, interleaved.

    Args:
        calls: What answers one query, by name.
        scenario: The server's.
        schedule: Rounds and seconds; a round has as many queries as arrive in its share of the seconds.
        seed: Seed of the arrivals.
        rounds: The numbers of the rounds to measure; None for all of the schedule's.
        on_block: Told the name before each block.
        clock: Nanoseconds that only grow.
        sleep: Waits for a number of seconds.

    Returns:
        For each name one array a round, of nanoseconds from arrival to answer.
    """
    rate = scenario.rate or 0.0
    count = max(schedule.minimum_calls, round(rate * schedule.seconds / schedule.rounds))

    def block(name: str, number: int) -> list[int]:
        return serve(calls[name], poisson_arrivals(rate, count, [seed, number]), clock, sleep)

    return interleave(calls, block, schedule, rounds, on_block=on_block, clock=clock, sleep=sleep)


def single_stream(taken: Taken, yardstick: str, sessions: int) -> tuple[ScenarioRow, ...]:
    """Each engine's rows at the smallest batch, compared by the 90th percentile."""
    batch = min(taken)
    return _rows(batch, taken[batch], yardstick, sessions, 0.90)


def offline(taken: Taken, yardstick: str, sessions: int) -> tuple[ScenarioRow, ...]:
    """Each engine at the batch at which it answers most samples a second, compared by time a sample."""
    best: dict[str, tuple[float, int]] = {}
    for batch, engines in taken.items():
        for name, rounds in engines.items():
            best[name] = max(best.get(name, (0.0, 0)), (samples_per_second(rounds, batch), batch))
    a_sample = {name: [r / batch for r in taken[batch][name]] for name, (_, batch) in best.items()}
    base = a_sample.get(yardstick)
    return tuple(
        _row(name, batch, taken[batch][name], paired_ratio(base, a_sample[name], sessions) if base else None)
        for name, (_, batch) in best.items()
    )


def server(
    served: Mapping[str, tuple[Latencies, ...]],
    batch: int,
    yardstick: str,
    sessions: int,
    scenario: Scenario,
    seed: int,
) -> tuple[ScenarioRow, ...]:
    """Each engine by the 99th percentile of what `measure_server` returns for the same seed."""
    rows = []
    for row in _rows(batch, served, yardstick, sessions, 0.99):
        ends = [
            int(poisson_arrivals(scenario.rate or 0.0, len(latencies), [seed, number])[-1] + latencies[-1])
            for number, latencies in enumerate(served[row.engine])
        ]
        answered = batch * row.queries * 1e9 / sum(ends)
        held = row.latency.p99 <= scenario.bound * 1e3
        rows.append(replace(row, samples_per_second=answered, held=held))
    return tuple(rows)


def _rows(
    batch: int, engines: Mapping[str, tuple[Latencies, ...]], yardstick: str, sessions: int, quantile: float
) -> tuple[ScenarioRow, ...]:
    base = engines.get(yardstick)
    return tuple(
        _row(name, batch, rounds, paired_ratio(base, rounds, sessions, quantile) if base else None)
        for name, rounds in engines.items()
    )


def _row(engine: str, batch: int, rounds: Sequence[Latencies], ratio: Estimate | None) -> ScenarioRow:
    return ScenarioRow(
        engine=engine,
        batch=batch,
        queries=sum(map(len, rounds)),
        latency=latency(rounds),
        samples_per_second=samples_per_second(rounds, batch),
        ratio=ratio,
    )
