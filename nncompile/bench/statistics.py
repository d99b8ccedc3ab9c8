"""What latencies amount to: percentiles, throughput, and paired ratios with an interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nncompile.bench.timing import dealt
from nncompile_runtime.bootstrap import Estimate, nested_median_estimate

Numbers = npt.NDArray[np.float64] | npt.NDArray[np.int64]


@dataclass(frozen=True)
class Latency:
    """How long one call takes, in microseconds, over the calls of all rounds."""

    p50: float
    p90: float
    p95: float
    p99: float


@dataclass(frozen=True)
class Spread:
    """The median call of each session, in microseconds: their median, the least and the largest."""

    p50: float
    low: float
    high: float

    @property
    def apart(self) -> float:
        """How many times as long the slowest session's median call takes as the fastest's."""
        return self.high / self.low


def latency(rounds: Sequence[Numbers]) -> Latency:
    """Percentiles of nanoseconds, by linear interpolation between neighbours."""
    return Latency(*(float(p) / 1e3 for p in np.percentile(np.concatenate(rounds), (50, 90, 95, 99))))


def spread(rounds: Sequence[Numbers], sessions: int) -> Spread:
    """How far the sessions that the rounds (nanoseconds) were cut into are apart."""
    medians = [float(np.median(np.concatenate(own))) / 1e3 for own in dealt(rounds, sessions)]
    return Spread(float(np.median(medians)), min(medians), max(medians))


def samples_per_second(rounds: Sequence[Numbers], batch: int) -> float:
    """Samples answered in the time that the calls took (nanoseconds), one call after another."""
    calls = np.concatenate(rounds)
    return float(batch * len(calls) * 1e9 / calls.sum())


def paired_ratio(
    yardstick: Sequence[Numbers], engine: Sequence[Numbers], sessions: int, quantile: float = 0.5
) -> Estimate:
    """How many times faster than the yardstick: above 1 is faster.

    Each round pairs the two medians (or other quantiles) of that round, which saw the machine in about the
    same state; `ratio_of_rounds` makes the estimate of them.
    """
    return ratio_of_rounds(
        [float(np.quantile(block, quantile)) for block in yardstick],
        [float(np.quantile(block, quantile)) for block in engine],
        sessions,
    )


def ratio_of_rounds(yardstick: Sequence[float], engine: Sequence[float], sessions: int) -> Estimate:
    """The median over the sessions of their rounds' median ratio of the times, yardstick over engine.

    Args:
        yardstick: The yardstick's time in each round.
        engine: The engine's time in the same rounds.
        sessions: Into how many the rounds were cut. The interval comes from resampling sessions, then
            rounds within them: rounds of one session share where its memory lies.
    """
    ratios = [a / b for a, b in zip(yardstick, engine, strict=True)]
    return nested_median_estimate([np.array(own) for own in dealt(ratios, sessions)])
