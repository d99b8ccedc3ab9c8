import numpy as np
import pytest

from nncompile.bench.scenarios import (
    Scenario,
    measure_server,
    offline,
    poisson_arrivals,
    serve,
    server,
    single_stream,
)
from nncompile.bench.timing import Schedule
from nncompile_runtime import NncompileError

MILLISECOND = 1_000_000


class FakeTime:
    """A clock that moves a microsecond with each look, and with what sleeps or computes."""

    def __init__(self):
        self.now = 0

    def clock(self):
        self.now += 1000
        return self.now

    def sleep(self, seconds):
        self.now += round(seconds * 1e9)

    def work(self, nanoseconds):
        def call():
            self.now += nanoseconds

        return call


@pytest.fixture
def time():
    return FakeTime()


def near(latencies):
    """In whole milliseconds: the fake clock's looks are microseconds."""
    return [round(latency / MILLISECOND) for latency in latencies]


def test_a_seed_gives_the_same_arrivals_again():
    first = poisson_arrivals(100.0, 50, 7)
    assert first.tolist() == poisson_arrivals(100.0, 50, 7).tolist()
    assert first.tolist() != poisson_arrivals(100.0, 50, 8).tolist()
    assert (np.diff(first) >= 0).all()


def test_arrivals_are_a_poisson_process_of_the_rate():
    gaps = np.diff(poisson_arrivals(1000.0, 20_001, 0)) / 1e9
    # Exponential gaps: mean and deviation are both 1 / rate; 20,000 of them tell within 3 %.
    np.testing.assert_allclose([gaps.mean(), gaps.std()], 1e-3, rtol=0.03)


def test_a_server_in_time_answers_in_its_own_time(time):
    arrivals = [10 * MILLISECOND, 20 * MILLISECOND, 30 * MILLISECOND]
    assert near(serve(time.work(3 * MILLISECOND), arrivals, time.clock, time.sleep)) == [3, 3, 3]


def test_a_query_that_waits_has_the_wait_in_its_latency(time):
    arrivals = [10 * MILLISECOND, 11 * MILLISECOND, 12 * MILLISECOND, 100 * MILLISECOND]
    assert near(serve(time.work(5 * MILLISECOND), arrivals, time.clock, time.sleep)) == [5, 9, 13, 5]


def test_no_query_is_answered_before_it_arrives(time):
    seen = []
    start = time.now
    serve(lambda: seen.append(time.now - start), [MILLISECOND, 4 * MILLISECOND], time.clock, time.sleep)
    assert seen[0] >= MILLISECOND
    assert seen[1] >= 4 * MILLISECOND


def served(time, rate, **works):
    schedule = Schedule(rounds=2, seconds=2.0, warmup=0, pause=0)
    scenario = Scenario("server", rate, bound=15.0)
    calls = {name: time.work(nanoseconds) for name, nanoseconds in works.items()}
    taken = measure_server(calls, scenario, schedule, 3, clock=time.clock, sleep=time.sleep)
    return {row.engine: row for row in server(taken, 1, "slow", schedule.sessions, scenario, 3)}


def test_every_engine_serves_as_many_queries_as_arrive(time):
    rows = served(time, 100.0, slow=2 * MILLISECOND, fast=MILLISECOND)
    assert [row.queries for row in rows.values()] == [200, 200]
    for row in rows.values():
        assert row.samples_per_second == pytest.approx(100, rel=0.25)  # of a Poisson process, 2 s


def test_a_server_holds_while_99_of_100_answers_are_within_the_bound(time):
    rows = served(time, 100.0, slow=20 * MILLISECOND, fast=MILLISECOND)
    assert (rows["fast"].held, rows["slow"].held) == (True, False)
    assert rows["fast"].latency.p99 <= 15_000 < rows["slow"].latency.p99
    assert rows["fast"].ratio.value > 10
    assert rows["slow"].ratio.value == 1


def test_it_is_the_99th_percentile_that_must_hold(time):
    row = served(time, 100.0, slow=7 * MILLISECOND)["slow"]
    assert row.latency.p50 < 15_000 < row.latency.p99
    assert not row.held


def test_an_overloaded_server_answers_no_more_than_it_can(time):
    rows = served(time, 100.0, slow=20 * MILLISECOND)
    assert rows["slow"].samples_per_second == pytest.approx(50, rel=0.05)


def blocks(*rounds):
    return tuple(np.array(latencies, np.int64) for latencies in rounds)


def test_single_stream_compares_the_90th_percentile():
    slow = blocks([1000] * 9 + [4000] * 2, [1000] * 9 + [4000] * 2)
    fast = blocks([1000] * 9 + [2000] * 2, [1000] * 9 + [2000] * 2)
    rows = {row.engine: row for row in single_stream({8: {}, 1: {"slow": slow, "fast": fast}}, "slow", 5)}
    assert {row.batch for row in rows.values()} == {1}
    assert rows["fast"].latency.p90 == 2.0
    assert rows["fast"].ratio.value == 2.0
    assert rows["fast"].held is None


def test_offline_takes_each_engine_at_its_best_batch():
    taken = {
        1: {"slow": blocks([1000, 1000]), "fast": blocks([500, 500])},
        4: {"slow": blocks([2000, 2000]), "fast": blocks([4000, 4000])},
    }
    rows = {row.engine: row for row in offline(taken, "slow", 5)}
    assert (rows["slow"].batch, rows["fast"].batch) == (4, 1)
    assert rows["slow"].samples_per_second == pytest.approx(2e6)
    assert rows["fast"].samples_per_second == pytest.approx(2e6)
    assert rows["fast"].ratio.value == pytest.approx(1.0)


def test_without_the_yardstick_there_is_no_ratio():
    assert [row.ratio for row in single_stream({1: {"fast": blocks([1, 2])}}, "slow", 5)] == [None]
    assert [row.ratio for row in offline({1: {"fast": blocks([1, 2])}}, "slow", 5)] == [None]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("multi-stream",), "no scenario 'multi-stream'"),
        (("server",), "has the rate None"),
        (("server", 0.0), "has the rate 0"),
        (("server", float("nan")), "has the rate nan"),
        (("offline", 10.0), "offline scenario has no rate"),
        (("server", 10.0, 0.0), "bound is 0"),
    ],
)
def test_what_is_no_scenario_is_refused(arguments, says):
    with pytest.raises(NncompileError, match=says):
        Scenario(*arguments)
