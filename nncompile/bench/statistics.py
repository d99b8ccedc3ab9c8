"""What latencies amount to: percentiles, throughput, and paired ratios with an interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nncompile_runtime.bootstrap import Estimate, median_estimate

Numbers = npt.NDArray[np.float64] | npt.NDArray[np.int64]


@dataclass(frozen=True)
class Latency:
    """How long one call takes, in microseconds, over the calls of all rounds."""

    p50: float
    p90: float
    p95: float
    p99: float


def latency(rounds: Sequence[Numbers]) -> Latency:
    """Percentiles of nanoseconds, by linear interpolation between neighbours."""
    return Latency(*(float(p) / 1e3 for p in np.percentile(np.concatenate(rounds), (50, 90, 95, 99))))


def samples_per_second(rounds: Sequence[Numbers], batch: int) -> float:
    """Samples answered in the time that the calls took (nanoseconds), one call after another."""
    calls = np.concatenate(rounds)
    return float(batch * len(calls) * 1e9 / calls.sum())


def paired_ratio(yardstick: Sequence[Numbers], engine: Sequence[Numbers], quantile: float = 0.5) -> Estimate:
    """How many times faster than the yardstick: above 1 is faster.

    Each round pairs the two medians (or other quantiles) of that round, which saw the machine in about the
    same state; the estimate is the median of the rounds' ratios, its interval from resampling rounds.
    """
    pairs = zip(yardstick, engine, strict=True)
    ratios = [float(np.quantile(a, quantile) / np.quantile(b, quantile)) for a, b in pairs]
    return median_estimate(np.array(ratios))
