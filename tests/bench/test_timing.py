import gc

import pytest

from nncompile.bench.statistics import paired_ratio
from nncompile.bench.timing import Schedule, dealt, measure
from nncompile_runtime import NncompileError

MICROSECOND = 1000
MILLISECOND = 1_000_000


class FakeTime:
    """A clock that moves when something sleeps or computes."""

    def __init__(self):
        self.now = 0
        self.slept = []
        self.blocks = []
        self.calls = []

    def clock(self):
        return self.now

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.now += round(seconds * 1e9)

    def work(self, name, nanoseconds):
        def call():
            self.calls.append(name)
            self.now += nanoseconds() if callable(nanoseconds) else nanoseconds

        return call

    def measure(self, calls, schedule):
        return measure(calls, schedule, on_block=self.blocks.append, clock=self.clock, sleep=self.sleep)


@pytest.fixture
def time():
    return FakeTime()


def schedule(**changes):
    return Schedule(**{"rounds": 3, "seconds": 0.003, "warmup": 0.001, "pause": 0.1, **changes})


def test_the_order_rotates_from_round_to_round(time):
    calls = {name: time.work(name, MILLISECOND) for name in "abc"}
    time.measure(calls, schedule())
    assert "".join(time.blocks) == "abc" + "bca" + "cab"


def test_rounds_beyond_the_number_of_engines_rotate_on(time):
    time.measure({name: time.work(name, MILLISECOND) for name in "ab"}, schedule(rounds=5))
    assert "".join(time.blocks) == "ab" + "ba" + "ab" + "ba" + "ab"


def test_every_block_begins_with_the_pause(time):
    time.measure({name: time.work(name, MILLISECOND) for name in "ab"}, schedule(pause=0.25))
    assert time.slept == [0.25] * 6


def test_no_latency_holds_the_pause(time):
    taken = time.measure({"a": time.work("a", 7 * MICROSECOND)}, schedule())
    assert {int(ns) for block in taken["a"] for ns in block} == {7 * MICROSECOND}


def test_a_block_lasts_its_share_of_the_seconds(time):
    taken = time.measure({"a": time.work("a", 10 * MICROSECOND)}, schedule(rounds=3, seconds=0.003))
    assert [len(block) for block in taken["a"]] == [100, 100, 100]


def test_warm_up_calls_are_made_but_not_counted(time):
    slow_start = iter([400 * MICROSECOND] * 5)
    call = time.work("a", lambda: next(slow_start, 10 * MICROSECOND))
    taken = time.measure({"a": call}, schedule(rounds=1, seconds=0.001, warmup=0.002))
    assert [int(ns) for ns in taken["a"][0]] == [10 * MICROSECOND] * 100
    assert len(time.calls) == 105


def test_without_warm_up_time_there_is_still_one_call(time):
    taken = time.measure({"a": time.work("a", MILLISECOND)}, schedule(rounds=1, warmup=0, seconds=0.003))
    assert (len(time.calls), len(taken["a"][0])) == (4, 3)


def test_a_slow_engine_is_called_a_minimum_number_of_times(time):
    taken = time.measure({"a": time.work("a", 900 * MILLISECOND)}, schedule(minimum_calls=4))
    assert [len(block) for block in taken["a"]] == [4, 4, 4]


def test_a_machine_that_slows_down_between_rounds_leaves_the_ratio_alone(time):
    def on_a_slowing_machine(nanoseconds):
        return lambda: nanoseconds * (1 + 5 * (len(time.blocks) > 2) + 20 * (len(time.blocks) > 4))

    calls = {
        "yardstick": time.work("yardstick", on_a_slowing_machine(30 * MICROSECOND)),
        "engine": time.work("engine", on_a_slowing_machine(10 * MICROSECOND)),
    }
    taken = time.measure(calls, schedule())
    ratio = paired_ratio(taken["yardstick"], taken["engine"], sessions=3)
    assert (ratio.value, ratio.low, ratio.high) == (3.0, 3.0, 3.0)


def test_nothing_is_collected_while_calls_are_timed(time):
    seen = []
    measure({"a": lambda: seen.append(gc.isenabled())}, schedule(seconds=0, warmup=0), sleep=time.sleep)
    assert seen
    assert not any(seen)
    assert gc.isenabled()


def test_garbage_collection_comes_back_after_an_error(time):
    def fails():
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        time.measure({"a": fails}, schedule())
    assert gc.isenabled()


def test_garbage_collection_that_was_off_stays_off(time):
    gc.disable()
    try:
        time.measure({"a": time.work("a", MILLISECOND)}, schedule())
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_nothing_to_measure_is_measured_in_no_time(time):
    assert time.measure({}, schedule()) == {}


@pytest.mark.parametrize(
    ("field", "value"),
    [("rounds", 0), ("sessions", 0), ("seconds", -1.0), ("pause", float("nan")), ("minimum_calls", 0)],
)
def test_a_schedule_that_measures_nothing_is_refused(field, value):
    with pytest.raises(NncompileError, match=field):
        Schedule(**{field: value})


@pytest.mark.parametrize(
    ("sessions", "expected"),
    [
        (1, ["abcdefg"]),
        (2, ["abc", "defg"]),
        (3, ["ab", "cd", "efg"]),
        (7, list("abcdefg")),
        (9, list("abcdefg")),
    ],
)
def test_rounds_are_dealt_to_sessions_in_order(sessions, expected):
    assert dealt("abcdefg", sessions) == expected


def test_the_order_rotates_on_over_sessions(time):
    calls = {name: time.work(name, MILLISECOND) for name in "abc"}
    taken = [
        measure(calls, schedule(), rounds, on_block=time.blocks.append, clock=time.clock, sleep=time.sleep)
        for rounds in (range(1), range(1, 3))
    ]
    assert "".join(time.blocks) == "abc" + "bca" + "cab"
    assert [len(found["a"]) for found in taken] == [1, 2]
