"""The median of a few noisy measurements, and how far it can be trusted."""

from __future__ import annotations

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
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(np.median(draws, axis=1), (tail, 1 - tail))
    return Estimate(float(np.median(values)), float(low), float(high))
