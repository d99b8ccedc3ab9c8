"""Tuning a model: what is run, kept and refused."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest

from nncompile import InputError, Plan, PlanError, Predictor
from nncompile_runtime import container
from nncompile_runtime.machine import this_machine
from nncompile_runtime.manifest import Argument
from nncompile_runtime.plan import default_plan, plain_plan
from nncompile_runtime.plans import key
from nncompile_runtime.session import Session
from nncompile_runtime.structure import TensorLeaf

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


@pytest.mark.usefixtures("without_rest")
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


def test_a_key_names_the_device() -> None:
    gpu = default_plan(this_machine(), "cuda", 1)
    assert key(this_machine(), gpu) == this_machine().fingerprint + " | cuda:1"
    assert key(this_machine(), PLAIN) == this_machine().fingerprint
