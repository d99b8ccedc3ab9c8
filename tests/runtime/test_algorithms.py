"""Which convolutions run by Winograd's algorithm: measured, one choice for all batches."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

from nncompile import Plan, Predictor
from nncompile_runtime import container
from nncompile_runtime.algorithms import LANES, Change, changed, choices, settle
from nncompile_runtime.bootstrap import Estimate
from nncompile_runtime.findings import Regime, Tried
from nncompile_runtime.kernels import Kernels, Layer, installed_library
from nncompile_runtime.plans import disagreement
from nncompile_runtime.race import race
from nncompile_runtime.session import Session
from nncompile_runtime.trial import Subject, Trial
from nncompile_runtime.tuning import tune

from .graphs import doubling, floats

FIRST, SECOND = Layer("8x4x3x3@8x8", True, 0.9), Layer("8x8x5x5@4x4", False, 1.5)
CLEAR = Layer("16x16x5x5@8x8", True, 0.3)
LAYERS = (CLEAR, FIRST, SECOND)
KERNELS = Kernels(True, "", 0, LAYERS)
YARDSTICK = Plan(threads=4, native=False)


def costing(*costs: float) -> tuple[Layer, ...]:
    return tuple(Layer(f"{n}x1x3x3@1x1", True, cost) for n, cost in enumerate(costs, 1))


class TestChoices:
    @staticmethod
    def costs(*layers: Layer, lanes: int = 0, exact: bool = False) -> list[float | Change]:
        found = choices(Kernels(True, "", lanes, layers), exact=exact)
        return [change.cost if isinstance(change, Layer) else change for change in found]

    def test_the_closest_costs_come_first_and_clear_ones_not_at_all(self) -> None:
        assert self.costs(*costing(0.49, 0.51, 1.0, 1.99, 2.01, 0.9)) == [1.0, 0.9, 0.51, 1.99]

    def test_at_most_four_and_lanes_where_there_are_some(self) -> None:
        layers = costing(*(1 + n / 100 for n in range(1, 10)))
        assert self.costs(*layers) == [1.01, 1.02, 1.03, 1.04]
        assert self.costs(*layers, lanes=8) == [1.01, 1.02, 1.03, 1.04, LANES]

    def test_exact_leaves_no_choice_of_algorithms(self) -> None:
        assert self.costs(*costing(1.0), exact=True) == []
        assert self.costs(*costing(1.0), lanes=8, exact=True) == [LANES]

    def test_more_layers_than_a_plan_can_name_are_left_to_the_kernels(self) -> None:
        layers = [Layer(f"{n}x1x3x3@8x8", True, 1.1) for n in range(1000, 1100)]
        assert self.costs(*layers, lanes=8) == [LANES]
        assert len(self.costs(*layers[:60])) == 4

    def test_a_changed_plan_names_all_layers_that_run_by_winograd(self) -> None:
        plan = Plan(threads=3)
        every = f"{CLEAR.name},{FIRST.name},{SECOND.name}"
        assert changed(plan, KERNELS, (SECOND,)) == Plan(threads=3, winograd=every)
        assert changed(plan, KERNELS, (FIRST,)).winograd == CLEAR.name
        assert changed(plan, Kernels(True, "", 0, (FIRST,)), (FIRST,)).winograd == "never"
        assert changed(plan, KERNELS, (LANES,)) == Plan(threads=3, lanes=False)
        assert changed(plan, KERNELS, (LANES, SECOND)) == Plan(threads=3, lanes=False, winograd=every)
        assert changed(plan, KERNELS, ()) == plan


class Pretended:
    """A model whose speed under each choice is made up, on a clock that only its calls move."""

    def __init__(
        self,
        seconds: Callable[[frozenset[str], int], float],
        wrong: Callable[[frozenset[str]], bool] = lambda _: False,
    ) -> None:
        self.now, self.seconds, self.wrong, self.net = 0.0, seconds, wrong, doubling()

    @staticmethod
    def winograd(plan: Plan) -> frozenset[str]:
        if plan.winograd == "auto":
            return frozenset(layer.name for layer in LAYERS if layer.winograd)
        return frozenset(plan.winograd.split(",")) - {"never"}

    def predict(self, plan: Plan, session: Session) -> Callable[..., Any]:
        def call(x: np.ndarray) -> np.ndarray:
            self.now += self.seconds(self.winograd(plan), len(x)) if plan.native else 0.5
            return 2 * x + np.float32(0.1 if plan.native and self.wrong(self.winograd(plan)) else 0)

        return call

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def settle(self, *regimes: Regime, kernels: Kernels = KERNELS) -> list[Regime]:
        subject = Subject(
            self.net._file,
            self.net.signature,
            YARDSTICK,
            Plan(threads=4),
            4,
            True,
            self.predict,
            lambda y: [y],
        )
        timing = partial(race, clock=lambda: self.now, sleep=self.sleep)
        found = settle(Trial(subject, {}), regimes or REGIMES, kernels, 10, timing)
        assert disagreement({regime.batch: regime.chosen for regime in found}) is None
        return found


REGIMES = (
    Regime(1, Plan(threads=1), ()),
    Regime(8, Plan(threads=4), ()),
    Regime(64, Plan(threads=1, workers=4, micro_batch=4), ()),
)


def chosen(found: list[Regime]) -> set[str]:
    """The choice, which the plans differ in nothing else from what they were."""
    for before, after in zip(REGIMES, found, strict=True):
        assert after.chosen == before.chosen.model_copy(update={"winograd": after.chosen.winograd})
    return {regime.chosen.winograd for regime in found}


def test_what_is_faster_at_every_batch_is_taken_at_every_batch() -> None:
    found = Pretended(lambda names, batch: 0.01 if FIRST.name in names else 0.008).settle()
    assert chosen(found) == {CLEAR.name}


def test_layers_that_are_each_faster_are_taken_together() -> None:
    def seconds(names: frozenset[str], batch: int) -> float:
        return 0.01 + 0.002 * (FIRST.name in names) - 0.002 * (SECOND.name in names)

    found = Pretended(seconds).settle()
    assert chosen(found) == {f"{CLEAR.name},{SECOND.name}"}


def test_layers_that_are_faster_alone_and_slower_together_are_left() -> None:
    other = {FIRST.name: False, SECOND.name: True}

    def seconds(names: frozenset[str], batch: int) -> float:
        changes = sum((name in names) is to for name, to in other.items())
        return (0.01, 0.008, 0.02)[changes]

    assert chosen(Pretended(seconds).settle()) == {"auto"}


def test_the_kernels_own_choice_stays_where_nothing_is_faster() -> None:
    assert chosen(Pretended(lambda names, batch: 0.01).settle()) == {"auto"}


@pytest.mark.parametrize("seed", range(8))
def test_what_is_faster_by_luck_alone_is_not_taken(seed: int) -> None:
    """Calls so long that each round times one, and so noisy that some choice looks faster at first."""
    random = np.random.default_rng(seed)
    assert chosen(Pretended(lambda names, batch: random.uniform(0.1, 0.2)).settle()) == {"auto"}


def test_a_layer_whose_costs_are_far_apart_is_not_tried() -> None:
    found = Pretended(lambda names, batch: 0.01 + (CLEAR.name in names)).settle()
    assert chosen(found) == {"auto"}
    assert all(CLEAR.name in Pretended.winograd(one.plan) for one in found[0].tried if one.plan.native)


@pytest.mark.parametrize("batch", [1, 8, 64])
def test_what_is_slower_at_one_batch_is_not_taken_however_fast_it_is_at_the_others(batch: int) -> None:
    def seconds(names: frozenset[str], rows: int) -> float:
        change = FIRST.name not in names
        return 0.01 * (1.1 if rows == batch else 0.5) if change else 0.01

    assert chosen(Pretended(seconds).settle()) == {"auto"}


def test_faster_at_one_batch_and_equal_at_the_others_is_faster() -> None:
    def seconds(names: frozenset[str], rows: int) -> float:
        return 0.008 if rows == 8 and FIRST.name not in names else 0.01

    assert chosen(Pretended(seconds).settle()) == {CLEAR.name}


def test_a_choice_with_other_answers_is_not_taken_and_never_timed() -> None:
    pretended = Pretended(
        lambda names, batch: 0.001 if FIRST.name not in names else 0.01, lambda names: FIRST.name not in names
    )
    found = pretended.settle()
    assert chosen(found) == {"auto"}
    refused = [one for one in found[0].tried if one.plan.winograd == CLEAR.name]
    assert [(one.ratio, "differs by 0.1" in one.outcome) for one in refused] == [(None, True)]


def test_a_batch_that_plain_onnx_runtime_serves_is_left_as_it_is() -> None:
    pretended = Pretended(lambda names, batch: 0.01 if FIRST.name in names else 0.008)
    plain = Regime(64, YARDSTICK, ())
    found = pretended.settle(REGIMES[0], plain)
    assert [regime.chosen.winograd for regime in found] == [CLEAR.name, "auto"]
    assert found[1] is plain
    assert pretended.settle(plain) == [plain]


@pytest.mark.parametrize("layers", [(), (CLEAR,)])
def test_where_there_is_no_choice_nothing_is_tried(layers: tuple[Layer, ...]) -> None:
    pretended = Pretended(lambda names, batch: 0.01)
    assert pretended.settle(kernels=Kernels(True, "", 0, layers)) == list(REGIMES)
    assert pretended.now == 0


def test_samples_leave_the_lanes_at_every_batch_or_at_none() -> None:
    class Lanes(Pretended):
        slow: tuple[int, ...]

        def predict(self, plan: Plan, session: Session) -> Callable[..., Any]:
            call = super().predict(plan, session)

            def with_lanes(x: np.ndarray) -> np.ndarray:
                self.now += 0.01 * plan.lanes if len(x) in self.slow else 0.01 * (not plan.lanes)
                return call(x)

            return with_lanes

    def plans(*slow: int) -> list[bool]:
        pretended = Lanes(lambda names, batch: 0.01)
        pretended.slow = slow
        return [regime.chosen.lanes for regime in pretended.settle(kernels=Kernels(True, "", 8, ()))]

    assert plans(1, 8, 64) == [False] * 3
    assert plans(8, 64) == plans() == [True] * 3


def test_every_choice_is_listed_once_with_how_it_compares() -> None:
    found = Pretended(lambda names, batch: 0.01 if FIRST.name in names else 0.008).settle()
    for before, after in zip(REGIMES, found, strict=True):
        outcomes = {one.plan: (one.outcome, round(one.ratio.value, 2)) for one in after.tried if one.ratio}
        assert len(outcomes) == len(after.tried) == 4
        assert outcomes[YARDSTICK][0] == outcomes[before.chosen][0] == "lost the last rung"
        assert outcomes[after.chosen] == ("chosen", 62.5)
        assert outcomes[before.chosen][1] == 50
        other = changed(before.chosen, KERNELS, (SECOND,))
        assert outcomes[other] == ("dropped early", 50)


def test_what_was_tried_before_stays_listed() -> None:
    before = Tried(Plan(threads=2), Estimate(3, 2, 4), 0.1, 0.2, "dropped early")
    own = Tried(Plan(threads=1), Estimate(5, 4, 6), 0.1, 0.2, "chosen")
    faster = Pretended(lambda names, batch: 0.01 if FIRST.name in names else 0.008)
    (found,) = faster.settle(Regime(1, Plan(threads=1), (before, own)))
    assert found.tried[0] is before
    assert [one.outcome for one in found.tried if one.plan == own.plan] == ["lost the last rung"]
    assert [one.plan for one in found.tried if one.outcome == "chosen"] == [found.chosen]


native = pytest.mark.skipif(installed_library().path is None, reason=installed_library().note)


@pytest.fixture(scope="module")
def contested() -> bytes:
    """A network of which one convolution costs about the same by both algorithms."""
    torch = pytest.importorskip("torch")
    import nncompile

    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(1, 6, 5),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(2),
        torch.nn.Conv2d(6, 16, 5),
        torch.nn.Flatten(),
        torch.nn.Linear(16 * 100, 5),
    )
    return nncompile.compile(net, torch.randn(2, 1, 32, 32), verify=False).artifact


@native
@pytest.mark.usefixtures("without_rest")
class TestForReal:
    def predictor(self, contested: bytes, **options: Any) -> Predictor:
        return Predictor(container.parse(contested, "net.onnx"), device="cpu", **options)

    def test_both_algorithms_are_timed_and_one_is_taken_for_all_batches(self, contested: bytes) -> None:
        net = self.predictor(contested)
        kernels = net.session.kernels
        close = choices(kernels, exact=False)[0]
        assert isinstance(close, Layer)
        x = floats(8, 1, 32, 32)
        answers = {}

        def predict(plan: Plan, session: Session) -> Callable[..., Any]:
            answers[plan] = self.predictor(contested, plan=plan).predict(x[:1])
            return Predictor(net._file, plan=plan, session=session).predict

        subject = Subject(net._file, net.signature, YARDSTICK, Plan(), 1, True, predict, net.flatten_result)
        regimes = (Regime(1, Plan(), ()), Regime(4, Plan(arena=False), ()), Regime(8, YARDSTICK, ()))
        found = settle(Trial(subject, {}), regimes, kernels, 0.1, race)
        assert disagreement({regime.batch: regime.chosen for regime in found}) is None
        other = changed(Plan(), kernels, (close,))
        assert [one.ratio is not None for one in found[0].tried if one.plan == other] == [True]
        assert (answers[other] != answers[Plan()]).any()
        np.testing.assert_allclose(answers[other], answers[Plan()], rtol=1e-3, atol=1e-4)

    @pytest.mark.parametrize(("exact", "batches"), [(False, (1, 4)), (True, (1, 4)), (False, None)])
    def test_tuning_tries_it_and_keeps_plans_that_agree(
        self, contested: bytes, exact: bool, batches: tuple[int, ...] | None
    ) -> None:
        """Not where larger batches take too long: a choice is for them too, and for them it may be wrong."""
        net = self.predictor(contested)
        kernels = net.session.kernels
        other = changed(Plan(), kernels, choices(kernels, exact=False)[:1]).winograd
        now = {"seconds": 0.0}

        def predict(plan: Plan, session: Session) -> Callable[..., Any]:
            """Nothing is as slow as plain ONNX Runtime, so that the native kernels are chosen."""
            call = Predictor(net._file, plan=plan, session=session).predict

            def counted(x: np.ndarray) -> np.ndarray:
                seconds = 0.01 if not plan.native else 0.002 if plan.winograd == other else 0.005
                now["seconds"] += seconds * (1 if batches else len(x))
                return call(x)

            return counted

        subject = Subject(
            net._file,
            net.signature,
            Plan(native=False, exact=exact),
            Plan(exact=exact),
            1,
            True,
            predict,
            net.flatten_result,
        )
        found = tune(subject, 8, batches, clock=lambda: now["seconds"], sleep=lambda _: None)
        tries = not exact and batches is not None
        assert bool(found.left_out) is (batches is None)
        assert 6 < found.seconds < 9  # of 8: the time of what is left out is that of what is measured
        tried = {one.plan.winograd for one in found.regimes[0].tried}
        assert {plan.winograd for plan in found.plans.values()} == {other if tries else "auto"}
        assert (other in tried) is tries
        if batches is not None:
            assert len({one.plan.lanes for one in found.regimes[0].tried}) == 1 + (kernels.lanes > 0)
