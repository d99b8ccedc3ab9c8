import numpy as np
import pytest

from nncompile.bench.statistics import latency, paired_ratio, samples_per_second
from nncompile_runtime.bootstrap import Estimate, median_estimate


def nanoseconds(*microseconds: float) -> np.ndarray:
    return np.array([round(us * 1000) for us in microseconds], dtype=np.int64)


def test_percentiles_of_one_to_a_hundred_and_one():
    found = latency([nanoseconds(*range(1, 51)), nanoseconds(*range(51, 102))])
    assert (found.p50, found.p90, found.p95, found.p99) == (51.0, 91.0, 96.0, 100.0)


def test_percentiles_lie_between_neighbours():
    assert latency([nanoseconds(10, 20)]).p90 == pytest.approx(19.0)


def test_throughput_counts_samples_over_the_time_of_all_calls():
    assert samples_per_second([nanoseconds(1000, 3000), nanoseconds(2000)], batch=8) == 4000.0


def test_ratio_above_one_is_faster_than_the_yardstick():
    yardstick, engine = [nanoseconds(30, 30, 900)] * 3, [nanoseconds(10, 10, 900)] * 3
    assert paired_ratio(yardstick, engine) == Estimate(3.0, 3.0, 3.0)


def test_ratio_is_paired_by_round():
    # The machine is 1, 10 and 4 times as slow in the three rounds: no ratio changes.
    slow = (1, 10, 4)
    yardstick = [nanoseconds(20 * s, 20 * s) for s in slow]
    engine = [nanoseconds(10 * s, 10 * s) for s in slow]
    assert paired_ratio(yardstick, engine) == Estimate(2.0, 2.0, 2.0)


def test_ratio_is_the_median_of_the_rounds():
    yardstick = [nanoseconds(10)] * 3
    assert paired_ratio(yardstick, [nanoseconds(10), nanoseconds(5), nanoseconds(1)]).value == 2.0


def test_ratio_needs_the_same_rounds_on_both_sides():
    with pytest.raises(ValueError, match="zip"):
        paired_ratio([nanoseconds(1)] * 2, [nanoseconds(1)])


def test_bootstrap_interval_of_one_to_seventeen():
    # The median of 17 draws is at most k with P(Binomial(17, k/17) >= 9): 0.8 % for k = 4, 3.6 % for
    # k = 5; so the 2.5 % quantile is 5, and 13 is the other by symmetry.
    assert median_estimate(np.arange(1.0, 18.0)) == Estimate(9.0, 5.0, 13.0)


def test_bootstrap_interval_of_two_values_spans_them():
    assert median_estimate(np.array([1.0, 2.0])) == Estimate(1.5, 1.0, 2.0)


def test_bootstrap_interval_of_one_value_is_that_value():
    assert median_estimate(np.array([0.7])) == Estimate(0.7, 0.7, 0.7)


def test_bootstrap_is_seeded():
    values = np.random.default_rng(0).normal(size=30)
    assert median_estimate(values) == median_estimate(values)
    assert median_estimate(values, seed=1) != median_estimate(values, seed=2)
