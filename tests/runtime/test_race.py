"""The race between plans, with a clock that only the calls move: halving, pauses, and the verdict."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable

import numpy as np
import pytest

from nncompile_runtime.race import Entrant, Race, paired_ratio, race


class Time:
    """A clock that stands still unless a call or a sleep moves it, and keeps a diary."""

    def __init__(self) -> None:
        self.now = 0.0
        self.diary: list[str] = []

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.diary.append("pause")

    def call(self, name: str, durations: Iterable[float]) -> Callable[[], None]:
        left = iter(durations)

        def run() -> None:
            self.now += next(left)
            self.diary.append(name)

        return run

    def steady(self, name: str, seconds: float, *, spins: bool = False) -> Entrant:
        return Entrant(self.call(name, itertools.repeat(seconds)), spins)

    def noisy(self, name: str, seconds: float, seed: int) -> Entrant:
        """Within 30 % of `seconds`, and four times that now and then."""
        generator = np.random.default_rng(seed)
        noise = (
            generator.uniform(0.7, 1.3) * generator.choice([1, 4], p=[0.95, 0.05]) for _ in itertools.count()
        )
        return Entrant(self.call(name, (seconds * factor for factor in noise)))


def run(time: Time, entrants: dict[str, Entrant], kept: list[str], seconds: float = 10.0) -> Race[str]:
    return race(entrants, kept, seconds, clock=time.clock, sleep=time.sleep)


def test_the_fastest_wins_and_its_ratio_is_right() -> None:
    time = Time()
    entrants = {f"p{i}": time.steady(f"p{i}", 0.001 * i) for i in range(2, 12)} | {
        "plain": time.steady("plain", 0.004)
    }
    found = run(time, entrants, ["plain"])
    assert found.winner == "p2"
    assert found.finalists == ("plain", "p2", "p3")
    ratio = found.to_yardstick("p2")
    assert (ratio.value, ratio.low, ratio.high) == pytest.approx((2, 2, 2))
    assert found.percentile("p2", 50) == pytest.approx(0.002)
    assert set(found.rounds) == set(entrants)
    assert time.now < 13


def test_a_tie_goes_to_what_would_run_without_a_race() -> None:
    time = Time()
    entrants = {name: time.steady(name, 0.003) for name in ("plain", "default", "other")}
    assert run(time, entrants, ["plain", "default"]).winner == "default"
    assert run(time, entrants, ["plain"]).winner == "plain"


def test_the_yardstick_replaces_a_default_that_is_slower() -> None:
    time = Time()
    entrants = {"plain": time.steady("plain", 0.003), "default": time.steady("default", 0.0031)}
    assert run(time, entrants, ["plain", "default"]).winner == "plain"


def test_what_is_slower_does_not_replace_the_yardstick() -> None:
    time = Time()
    entrants = {"plain": time.steady("plain", 0.003), "other": time.steady("other", 0.0031)}
    assert run(time, entrants, ["plain"]).winner == "plain"


def test_a_challenger_must_beat_the_default_too() -> None:
    """Twice as fast as plain ONNX Runtime is not enough where the default plan is that already."""
    time = Time()
    entrants = {
        "plain": time.steady("plain", 0.004),
        "default": time.steady("default", 0.002),
        "same": time.steady("same", 0.002),
    }
    assert run(time, entrants, ["plain", "default"]).winner == "default"
    entrants["better"] = time.steady("better", 0.0015)
    assert run(time, entrants, ["plain", "default"]).winner == "better"


@pytest.mark.parametrize("seed", range(20))
def test_noise_alone_seldom_wins_and_a_real_gain_does(seed: int) -> None:
    time = Time()
    entrants = {"plain": time.noisy("plain", 0.01, seed), "fast": time.noisy("fast", 0.005, seed + 100)}
    assert run(time, entrants, ["plain"]).winner == "fast"


def test_an_equal_plan_wins_by_noise_in_few_of_many_races() -> None:
    wins = 0
    for seed in range(60):
        time = Time()
        entrants = {"plain": time.noisy("plain", 0.01, seed), "same": time.noisy("same", 0.01, seed + 1000)}
        wins += run(time, entrants, ["plain"], seconds=5).winner == "same"
    assert wins <= 6  # one-sided 2.5 % of the interval, widened by how few rounds there are


def test_a_slow_spell_of_the_machine_meets_everyone_alike() -> None:
    """Times drift by a factor of 10 while the race runs; paired rounds still tell 20 % apart."""
    time = Time()

    def drifting(name: str, seconds: float) -> Entrant:
        def run() -> None:
            time.now += seconds * (1 + 0.9 * time.now)

        return Entrant(run)

    entrants = {"plain": drifting("plain", 0.006), "fast": drifting("fast", 0.005)}
    assert run(time, entrants, ["plain"]).winner == "fast"


def test_the_same_times_give_the_same_verdict() -> None:
    found = []
    for _ in range(2):
        time = Time()
        entrants = {f"p{i}": time.noisy(f"p{i}", 0.01 - i * 0.0003, i) for i in range(8)}
        found.append(run(time, entrants, ["p0"]))
    assert found[0] == found[1]


def test_a_pause_follows_each_block_of_one_that_spins_and_no_other() -> None:
    time = Time()
    entrants = {"still": time.steady("still", 0.01), "spins": time.steady("spins", 0.01, spins=True)}
    run(time, entrants, ["still"])
    blocks = [name for name, _ in itertools.groupby(time.diary)]
    after = {one: following for one, following in itertools.pairwise(blocks) if one == "spins"}
    assert after == {"spins": "pause"}
    assert all(one == "spins" for one, following in itertools.pairwise(blocks) if following == "pause")


def test_rounds_are_interleaved_and_begin_with_each_in_turn() -> None:
    time = Time()
    entrants = {name: time.steady(name, 0.5) for name in "abc"}
    run(time, entrants, ["a"], seconds=0.001)
    blocks = [name for name, _ in itertools.groupby(time.diary)]
    assert blocks[:7] == ["a", "b", "c", "b", "c", "a", "c"]


def test_losers_drop_out() -> None:
    time = Time()
    entrants = {f"p{i}": time.steady(f"p{i}", 0.001 * (i + 1)) for i in range(16)}
    found = run(time, entrants, ["p0"])
    lengths = [len(found.rounds[f"p{i}"]) for i in range(16)]
    assert lengths[0] == lengths[1] == lengths[2] > lengths[15]
    assert time.diary.count("p15") * 0.016 < time.diary.count("p1") * 0.002


def test_slow_calls_are_timed_at_least_once_a_round() -> None:
    time = Time()
    entrants = {"plain": time.steady("plain", 100.0), "fast": time.steady("fast", 50.0)}
    found = run(time, entrants, ["plain"], seconds=1)
    assert found.winner == "fast"
    assert len(found.rounds["fast"]) >= 7


def test_the_interval_is_that_of_the_median() -> None:
    ratio = paired_ratio([1.0] * 11, [1 / (1 + i / 10) for i in range(11)])
    assert ratio.value == pytest.approx(1.5)
    assert 1.0 < ratio.low < 1.5 < ratio.high < 2.0
    assert paired_ratio([2.0], [1.0]) == paired_ratio([2.0] * 5, [1.0] * 5)
