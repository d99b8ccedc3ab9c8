"""Tuning: what is tried, what is refused, where one plan ends and the next begins, and what is kept."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from nncompile import InputError, Plan, PlanError, Predictor
from nncompile_runtime import container
from nncompile_runtime.answers import difference
from nncompile_runtime.candidates import variations, ways
from nncompile_runtime.findings import Tuning
from nncompile_runtime.machine import this_machine
from nncompile_runtime.manifest import Argument
from nncompile_runtime.plan import default_plan, key, plain_plan
from nncompile_runtime.session import Session
from nncompile_runtime.structure import TensorLeaf
from nncompile_runtime.trial import Subject
from nncompile_runtime.tuning import tune

from .graphs import adding, conv_net, doubling, floats, manifest, predictor

PLAIN = plain_plan(this_machine())


def conv(**about: Any) -> Predictor:
    model, inputs, outputs = conv_net()
    return predictor(model, manifest(inputs, outputs, **about))


def kept_plans(net: Predictor) -> dict[str, Any]:
    found = container.parse(net.artifact, "tuned.onnx").manifest
    assert found is not None
    return dict(found.plans)


def sessions() -> list[Session]:
    return [one for one in gc.get_objects() if type(one) is Session]


class TestForReal:
    def test_the_plans_are_run_kept_and_give_the_same_answers(self, log: pytest.LogCaptureFixture) -> None:
        net = conv()
        before, x = net.artifact, [floats(size, 1, 8, 8) for size in (0, 1, 2, 5, 8, 20, 64)]
        expected = [net(one) for one in x]
        said: list[tuple[str, float]] = []
        found = net.tune(0.3, batches=(8, 1), progress=lambda what, share: said.append((what, share)))
        assert [regime.batch for regime in found.regimes] == [1, 8]
        assert dict(net.plans) == dict(found.plans)
        assert net.plan == net.plans[1]
        for one, wanted in zip(x, expected, strict=True):
            np.testing.assert_allclose(net(one), wanted, rtol=1e-6, atol=1e-6)
        assert [share for _, share in said] == sorted(share for _, share in said)
        assert said[0][0].startswith("batch 1: ")

        again = Predictor(container.parse(net.artifact, "tuned.onnx"), device="cpu")
        assert dict(again.plans) == dict(found.plans)
        assert list(kept_plans(net)) == [this_machine().fingerprint]
        model = before[: before.rindex(container.MANIFEST_KEY) - 20]
        assert net.artifact.startswith(model)
        assert [r for r in log.records if r.levelname == "WARNING"] == []

    def test_every_plan_that_was_tried_is_listed_once_with_the_yardstick(self) -> None:
        found = conv().tune(0.1, batches=(4,))
        (regime,) = found.regimes
        plans = [one.plan for one in regime.tried]
        assert found.yardstick == PLAIN == plans[0]
        assert len(set(plans)) == len(plans) > 3
        assert [one.plan for one in regime.tried if one.outcome == "chosen"] == [regime.chosen]
        assert all(0 < one.p50 <= one.p99 for one in regime.tried if one.ratio)

    @pytest.mark.parametrize("exact", [False, True])
    def test_exactness_is_not_for_tuning_to_change(self, exact: bool) -> None:
        found = conv(exact=exact).tune(0.05, batches=(4,))
        assert {one.plan.exact for one in found.regimes[0].tried} == {exact}

    def test_rows_that_depend_on_one_another_are_not_cut(self) -> None:
        found = conv(rows_independent=False).tune(0.05, batches=(8,))
        assert {one.plan.micro_batch for one in found.regimes[0].tried} == {None}

    def test_a_fixed_batch(self) -> None:
        net = doubling(2, 4, batch=None)
        assert list(net.tune(0.05).plans) == [1]
        np.testing.assert_array_equal(net(floats(2, 4)), 2 * floats(2, 4))
        with pytest.raises(InputError, match="fixed"):
            net.tune(0.05, batches=(4,))

    def test_several_inputs_some_by_name_alone(self) -> None:
        arguments = [
            Argument(name="a", structure=TensorLeaf(index=0)),
            Argument(name="b", structure=TensorLeaf(index=1), keyword_only=True),
        ]
        net = adding(arguments=arguments)
        net.tune(0.05, batches=(4,))
        np.testing.assert_array_equal(net(floats(4, 3), b=floats(4, 3)), 2 * floats(4, 3))

    def test_a_free_dimension_needs_a_size(self) -> None:
        with pytest.raises(InputError, match="'tokens' may have any size") as caught:
            doubling("batch", "tokens").tune(0.05, batches=(1,))
        assert "sizes=" in caught.value.remedy
        net = doubling("batch", "tokens")
        net.tune(0.05, batches=(1,), sizes={"tokens": 7})
        np.testing.assert_array_equal(net(floats(2, 3)), 2 * floats(2, 3))

    def test_a_model_without_a_manifest_is_tuned_but_has_no_place_to_keep_it(self) -> None:
        net = predictor(conv_net()[0])
        data = net.artifact
        net.tune(0.05, batches=(1,))
        assert net.artifact == data

    def test_an_interruption_leaves_everything_as_it_was(self) -> None:
        net = conv()
        data, plans = net.artifact, dict(net.plans)

        def stop(what: str, share: float) -> None:
            if share > 0.4:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            net.tune(0.05, batches=(1, 4), progress=stop)
        assert (net.artifact, dict(net.plans)) == (data, plans)
        assert net(floats(3, 1, 8, 8)).shape == (3, 5)

    def test_the_losers_sessions_are_gone(self) -> None:
        gc.collect()
        before = {id(one) for one in sessions()}
        net = conv()
        net.tune(0.05, batches=(8,))
        gc.collect()
        alive = [one.plan for one in sessions() if id(one) not in before]
        assert alive == [net.plan.session]

    def test_tuning_again_replaces_this_machines_plans_and_no_others(self) -> None:
        other = {"1": {"threads": 1}}
        net = conv(
            plans={"another machine": other, this_machine().fingerprint: {"1": {}, "7": {"threads": 1}}}
        )
        net.tune(0.05, batches=(1,))
        kept = kept_plans(net)
        assert kept["another machine"] == other
        assert set(kept[this_machine().fingerprint]) == {"1"}


def test_a_plan_of_the_users_leaves_nothing_to_choose() -> None:
    net = predictor(conv_net()[0], plan={"threads": 1})
    with pytest.raises(PlanError, match="given a plan") as caught:
        net.tune(0.05)
    assert "plan=" in caught.value.remedy
    assert dict(net.plans) == {1: Plan(threads=1)}


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf"), "10", None])
def test_seconds_that_make_no_sense(seconds: Any) -> None:
    with pytest.raises(InputError, match="seconds"):
        doubling().tune(seconds)


@pytest.mark.parametrize("batches", [(), (0,), (-1,), (1.5,), (True,), ("8",), (2**20 + 1,)])
def test_batches_that_make_no_sense(batches: Any) -> None:
    with pytest.raises(InputError, match="batches"):
        doubling().tune(0.05, batches=batches)


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


class TestCandidates:
    def test_ways(self) -> None:
        plans = ways(PLAIN, 8, 32, native=True, cut=True)
        assert {plan.threads for plan in plans if plan.workers == 1 and plan.micro_batch is None} == {
            1,
            2,
            4,
            8,
        }
        assert {plan.micro_batch for plan in plans if plan.workers == 8} == {4, 16}
        assert {plan.native for plan in plans} == {True, False}
        assert all(plan.threads * plan.workers <= 8 for plan in plans if plan.workers > 1)

    def test_nothing_is_cut_that_must_not_be(self) -> None:
        assert {plan.micro_batch for plan in ways(PLAIN, 8, 32, native=False, cut=False)} == {None}

    def test_without_kernels_there_is_nothing_to_try_with_them(self) -> None:
        assert {plan.native for plan in ways(PLAIN, 8, 32, native=False, cut=True)} == {False}

    def test_what_the_native_kernels_choose_is_varied_where_it_matters(self) -> None:
        def splits(best: Plan, batch: int, *, native: bool = True) -> list[int]:
            settings = variations(best, convolutions=False, native=native, batch=batch)
            assert all(one.lanes and one.winograd == "auto" for one in settings)
            return [one.split for one in settings if one.split is not None]

        four = Plan(threads=4)
        assert splits(four, 1) == splits(four, 3) == [50_000, 800_000]
        assert splits(four, 4) == splits(Plan(), 1) == splits(four, 1, native=False) == []
        assert splits(four.model_copy(update={"micro_batch": 2}), 64) == [50_000, 800_000]

    def test_variations_change_one_thing(self) -> None:
        best = Plan(threads=2, native=False)
        changed = [
            set(Plan.model_fields) - {f for f in Plan.model_fields if getattr(v, f) == getattr(best, f)}
            for v in variations(best, convolutions=True)
        ]
        assert {"spinning"} in changed
        assert {"pointwise_channels"} in changed
        assert {"blocked_layout"} in changed
        assert all(len(fields) <= 2 for fields in changed)
        spinners = {"spinning", "spin_microseconds", "dynamic_block_base"}
        alone = variations(Plan(threads=1), convolutions=False)
        assert all(getattr(v, field) == getattr(Plan(), field) for v in alone for field in spinners)


@pytest.mark.parametrize(
    ("got", "differs"),
    [
        (np.array([1, -2, 3], np.float32), False),
        (np.array([1, -2, 3.0004], np.float32), False),
        (np.array([1, -2, 3.001], np.float32), True),
        (np.array([1.001, -2, 3], np.float32), True),
        (np.array([np.nan, -2, 3], np.float32), True),
        (np.array([1, -2], np.float32), True),
        (np.array([1, -2, 3], np.float64), True),
    ],
)
def test_answers(got: np.ndarray, differs: bool) -> None:
    assert (difference([np.array([1, -2, 3], np.float32)], [got]) is not None) is differs


def test_answers_that_are_not_finite_or_no_floats() -> None:
    odd = np.array([np.nan, np.inf, -np.inf, 1], np.float32)
    assert difference([odd], [odd.copy()]) is None
    assert difference([odd], [-odd]) is not None
    assert difference([odd], [np.array([0, np.inf, -np.inf, 1], np.float32)]) is not None
    assert difference([np.array([1, 2])], [np.array([1, 2])]) is None
    assert difference([np.array([1, 2])], [np.array([1, 3])]) == "output 0 differs"
    zero = np.zeros(3, np.float32)
    assert difference([zero], [zero + np.float32(1e-9)]) is not None


@pytest.mark.parametrize(
    ("precision", "apart", "differs"),
    [
        ("float32", 1e-4, False),
        ("float32", 3e-4, True),
        ("tf32", 1e-2, False),
        ("tf32", 3e-2, True),
        ("float16", 1e-2, False),
        ("float16", 3e-2, True),
        ("bfloat16", 1e-1, False),
        ("bfloat16", 2e-1, True),
    ],
)
def test_answers_differ_by_what_the_precision_allows(precision: str, apart: float, differs: bool) -> None:
    wanted = np.array([0.5, 1], np.float32)
    got = wanted + np.array([apart, 0], np.float32)
    assert (difference([wanted], [got], precision) is not None) is differs


def test_double_answers_are_held_to_their_own_tolerance() -> None:
    assert difference([np.ones(3)], [np.ones(3) + 1e-6], "float32") is not None


def test_half_answers_at_the_end_of_their_range() -> None:
    def differs(one: float, other: float) -> bool:
        pair = [np.array([1, value], np.float16) for value in (one, other)]
        return difference(pair[:1], pair[1:], "float16") is not None

    inf = np.inf
    assert not differs(65504, inf)
    assert not differs(inf, 65000)
    assert not differs(-inf, -65504)
    assert not differs(inf, inf)
    assert differs(inf, 60000)
    assert differs(inf, 3)
    assert differs(inf, -65504)
    assert differs(np.nan, inf)
    assert differs(np.nan, 65504)


def test_an_infinity_does_not_hide_other_differences() -> None:
    one, other = (np.array([value, np.inf], np.float16) for value in (1, 2))
    assert difference([one], [other], "float16") is not None


def test_a_key_names_the_device() -> None:
    gpu = default_plan(this_machine(), "cuda", 1)
    assert key(this_machine(), gpu) == this_machine().fingerprint + " | cuda:1"
    assert key(this_machine(), PLAIN) == this_machine().fingerprint


def test_with_calls_that_cost_little_tuning_takes_as_long_as_it_was_told() -> None:
    assert 40 < Pretended(lambda plan, batch: 0.003).tune((1, 4, 16), seconds=60).seconds < 70
