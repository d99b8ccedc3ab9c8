"""The median of a few noisy measurements, and how far it can be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

RESAMPLES = 2000
CONFIDENCE = 0.95
_SEED = 20240501


@dataclass(frozen=True)
class Estimate:
    """A median with its bootstrap 95 % interval."""

    value: float
    low: float
    high: float


def median_estimate(values: npt.NDArray[Any], resamples: int = RESAMPLES, seed: int = _SEED) -> Estimate:
    """The median and its percentile-bootstrap interval (Efron 1979); one seed gives one answer."""
    generator = np.random.default_rng(seed)
    draws = values[generator.integers(0, len(values), (resamples, len(values)))]
    return _estimate(float(np.median(values)), np.median(draws, axis=1))


def nested_median_estimate(
    groups: Sequence[npt.NDArray[Any]], resamples: int = RESAMPLES, seed: int = _SEED
) -> Estimate:
    """The median of the groups' medians, where values of one group have something in common.

    The interval is the percentile bootstrap's for such data: groups are drawn with replacement, then the
    values of each drawn group (A. C. Davison, D. V. Hinkley, "Bootstrap Methods and their Application", 1997,
    section 3.8; for benchmarks T. Kalibera, R. Jones, "Quantifying Performance Changes with Effect Size
    Confidence Intervals", University of Kent, 2012). Drawing single values would call the interval of five
    groups as narrow as if each of their values were news. Groups of one value give `median_estimate`.

    Args:
        groups: The values of each group, at least one of each, (values,).
        resamples: How often the groups are drawn.
        seed: Of the generator.
    """
    generator = np.random.default_rng(seed)
    count = len(groups)
    drawn = generator.integers(0, count, (resamples, count))
    medians = np.empty((resamples, count))
    for number, values in enumerate(groups):
        places = drawn == number
        draws = values[generator.integers(0, len(values), (int(places.sum()), len(values)))]
        medians[places] = np.median(draws, axis=1)
    value = float(np.median([np.median(values) for values in groups]))
    return _estimate(value, np.median(medians, axis=1))


def _estimate(value: float, draws: npt.NDArray[Any]) -> Estimate:
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(draws, (tail, 1 - tail))
    return Estimate(value, float(low), float(high))
