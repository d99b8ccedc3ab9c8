import numpy as np
import pytest

from nncompile.bench.statistics import (
    Spread,
    latency,
    paired_ratio,
    ratio_of_rounds,
    samples_per_second,
    spread,
)
from nncompile_runtime.bootstrap import Estimate, median_estimate, nested_median_estimate


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
    assert paired_ratio(yardstick, engine, sessions=3) == Estimate(3.0, 3.0, 3.0)


def test_ratio_is_paired_by_round():
    # The machine is 1, 10 and 4 times as slow in the three rounds: no ratio changes.
    slow = (1, 10, 4)
    yardstick = [nanoseconds(20 * s, 20 * s) for s in slow]
    engine = [nanoseconds(10 * s, 10 * s) for s in slow]
    assert paired_ratio(yardstick, engine, sessions=3) == Estimate(2.0, 2.0, 2.0)


def test_ratio_is_the_median_of_the_rounds():
    yardstick = [nanoseconds(10)] * 3
    assert paired_ratio(yardstick, [nanoseconds(10), nanoseconds(5), nanoseconds(1)], 3).value == 2.0


def test_ratio_needs_the_same_rounds_on_both_sides():
    with pytest.raises(ValueError, match="zip"):
        paired_ratio([nanoseconds(1)] * 2, [nanoseconds(1)], 2)


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


def test_rounds_of_one_session_are_no_news():
    """Five sessions, each with a time of its own: the interval is that of five, whatever their rounds."""
    few = nested_median_estimate([np.full(2, n) for n in range(1, 6)])
    many = nested_median_estimate([np.full(200, n) for n in range(1, 6)])
    # The median of 5 draws is the least with P(Binomial(5, 1/5) >= 3) = 5.8 %: above 2.5 %.
    assert few == many == Estimate(3.0, 1.0, 5.0)
    pooled = median_estimate(np.repeat(np.arange(1.0, 6.0), 200))
    assert (pooled.low, pooled.high) == (3.0, 3.0)


def test_rounds_differ_within_a_session_too():
    one = nested_median_estimate([np.arange(1.0, 18.0)])
    assert (one.value, one.low, one.high) == (9.0, 5.0, 13.0)  # as without sessions, above


def test_sessions_of_one_round_are_rounds():
    values = np.random.default_rng(0).normal(size=30)
    assert nested_median_estimate([values[n : n + 1] for n in range(30)]) == median_estimate(values)


def test_every_session_counts_the_same():
    groups = [np.array([1.0, 1.0, 1.0, 9.0]), np.array([2.0]), np.array([3.0])]
    assert nested_median_estimate(groups).value == 2.0


def test_the_ratio_is_the_median_of_the_sessions_medians():
    # Sessions of 2, 3 and 2 rounds: their median ratios are 1.5, 3 and 8; over all rounds it would be 3.5.
    engine = [1.0] * 7
    assert ratio_of_rounds([1, 2, 3, 3, 4, 8, 8], engine, sessions=3).value == 3.0
    assert ratio_of_rounds([1, 2, 3, 5, 4, 8, 8], engine, sessions=7).value == 4.0


def test_the_spread_of_sessions():
    rounds = [nanoseconds(1, 2), nanoseconds(3), nanoseconds(10, 10, 10), nanoseconds(20), nanoseconds(4)]
    assert spread(rounds, 2) == Spread(6.0, 2.0, 10.0)  # two rounds, then three
    assert spread(rounds, 99) == Spread(4.0, 1.5, 20.0)
