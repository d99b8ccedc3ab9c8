"""Where one plan ends and the next begins, on a clock of our own: models whose speed is made up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from nncompile import InputError, Plan
from nncompile_runtime.findings import Tuning
from nncompile_runtime.session import Session
from nncompile_runtime.trial import Subject
from nncompile_runtime.tuning import tune

from .graphs import doubling


class Pretended:
    """A model whose speed under each plan is made up, on a clock that only its calls move."""

    def __init__(
        self, seconds: Callable[[Plan, int], float], wrong: Callable[[Plan], bool] = lambda _: False
    ):
        self.now, self.seconds, self.wrong = 0.0, seconds, wrong
        self.net = doubling()

    def predict(self, plan: Plan, session: Session) -> Callable[..., Any]:
        def call(x: np.ndarray) -> np.ndarray:
            self.now += self.seconds(plan, len(x))
            return 2 * x + np.float32(0.1 if self.wrong(plan) else 0)

        return call

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def tune(self, batches: tuple[int, ...] | None = (1, 16), seconds: float = 40) -> Tuning:
        yardstick = Plan(threads=4, native=False)
        subject = Subject(
            self.net._file,
            self.net.signature,
            yardstick,
            Plan(threads=4),
            4,
            True,
            self.predict,
            lambda y: [y],
        )
        return tune(subject, seconds, batches, clock=lambda: self.now, sleep=self.sleep)


def test_each_batch_gets_its_own_plan() -> None:
    def seconds(plan: Plan, batch: int) -> float:
        return 0.001 * (1 + plan.threads) if batch < 10 else 0.01 / (plan.threads * plan.workers)

    plans = Pretended(seconds).tune().plans
    assert plans[1].threads == 1
    assert max(plans) > 1
    assert plans[max(plans)].threads * plans[max(plans)].workers == 4


@pytest.mark.parametrize(("change", "start"), [(3, 2), (10, 16)])
def test_between_two_batches_the_better_one_halfway_serves(change: int, start: int) -> None:
    """Halfway between 1 and 16 is 4: what suits it serves all from 2 to 15."""

    def seconds(plan: Plan, batch: int) -> float:
        few = plan.threads * plan.workers == 1
        return 0.001 if few == (batch < change) else 0.002

    plans = Pretended(seconds).tune().plans
    assert list(plans) == [1, start]


def test_equal_plans_are_one_regime() -> None:
    assert list(
        Pretended(lambda plan, batch: 0.001 * plan.threads * plan.workers).tune((1, 2, 16)).plans
    ) == [1]


def test_where_nothing_is_faster_plain_onnx_runtime_stays() -> None:
    found = Pretended(lambda plan, batch: 0.01).tune()
    assert dict(found.plans) == {1: found.yardstick}


class Lucky(Pretended):
    """All plans are equally fast, but of some the first so many sessions are faster."""

    def __init__(self, first: int, lucky: Callable[[Plan], bool]):
        super().__init__(lambda plan, batch: 0.01)
        self.first, self.lucky = first, lucky
        self.seen: dict[Plan, list[Session]] = {}

    def predict(self, plan: Plan, session: Session) -> Callable[..., Any]:
        own = self.seen.setdefault(plan.session, [])
        if session not in own:
            own.append(session)
        seconds = 0.006 if self.lucky(plan) and own.index(session) < self.first else 0.01

        def call(x: np.ndarray) -> np.ndarray:
            self.now += seconds
            return 2 * x

        return call


@pytest.mark.parametrize("first", [1, 2])
def test_a_plan_whose_session_alone_was_faster_is_not_taken(first: int) -> None:
    """It won in its first session, or in that and the next one."""
    found = Lucky(first, lambda plan: not plan.memory_pattern).tune((1,))
    assert dict(found.plans) == {1: found.yardstick}
    (fast,) = {one.ratio.low > 1 for one in found.regimes[0].tried if one.plan.arena is False and one.ratio}
    assert fast


def test_a_plan_that_is_faster_in_every_session_is_taken() -> None:
    found = Lucky(9, lambda plan: not plan.memory_pattern).tune((1,))
    assert not found.plans[1].memory_pattern


def test_a_default_whose_session_was_slow_stays() -> None:
    def slower_at_first(plan: Plan) -> bool:
        return plan != Plan(threads=4, native=False)

    found = Lucky(1, slower_at_first).tune((1,))
    assert dict(found.plans) == {1: found.yardstick}


def test_a_plan_with_other_answers_is_never_timed() -> None:
    """It would win by far."""
    found = Pretended(
        lambda plan, batch: 0.001 if plan.threads == 2 else 0.01, lambda plan: plan.threads == 2
    ).tune()
    assert dict(found.plans) == {1: found.yardstick}
    refused = [one for one in found.regimes[0].tried if one.plan.threads == 2]
    assert refused
    assert all(one.ratio is None and "differs by 0.1" in one.outcome for one in refused)


def test_a_plan_that_cannot_run_is_left_out() -> None:
    def seconds(plan: Plan, batch: int) -> float:
        if plan.threads == 2:
            raise InputError("It broke.", remedy="")
        return 0.001

    found = Pretended(seconds).tune((1,))
    outcomes = [one.outcome for one in found.regimes[0].tried if one.plan.threads == 2]
    assert outcomes == ["It broke."] * len(outcomes) != []


def test_batches_that_take_too_long_are_left_out_unless_they_are_asked_for() -> None:
    def slow(plan: Plan, batch: int) -> float:
        return 0.001 * batch**2

    assert Pretended(slow).tune(None, seconds=16).left_out == (64, 256)
    asked = Pretended(slow).tune((1, 256), seconds=4)
    assert [regime.batch for regime in asked.regimes] == [1, 256]
    assert asked.left_out == ()


def test_batches_that_were_left_out_are_served_as_without_tuning() -> None:
    """One thread is faster at batch 1, and would serve all others."""

    def slow(plan: Plan, batch: int) -> float:
        return 0.001 * batch**2 * (1 + plan.threads * plan.workers)

    found = Pretended(slow).tune(None, seconds=16)
    assert found.left_out == (8, 64, 256)
    assert 14 < found.seconds < 16  # the time that they would have taken is batch 1's
    assert list(found.plans) == [1, 4]  # 1 * 8 is about 3 * 3
    assert found.plans[1].threads == 1
    assert found.plans[4] == found.yardstick
    assert list(Pretended(lambda plan, batch: 0.001 * batch**2).tune(None, seconds=16).plans) == [1]


def test_the_same_measurements_give_the_same_plans() -> None:
    def seconds(plan: Plan, batch: int) -> float:
        return 0.01 * (1 + len(repr(plan)) % 7 + batch)

    assert Pretended(seconds).tune() == Pretended(seconds).tune()


def test_with_calls_that_cost_little_tuning_takes_as_long_as_it_was_told() -> None:
    assert 40 < Pretended(lambda plan, batch: 0.003).tune((1, 4, 16), seconds=60).seconds < 70
