"""Which plans serve a model here, and which may not serve it together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from nncompile import Plan, PlanError
from nncompile_runtime.machine import Machine
from nncompile_runtime.plan import default_plan
from nncompile_runtime.plans import choose, disagreement, key, stored_form

from .graphs import doubling

MACHINE = Machine("CPU", ("avx2",), 8, "1.31.1")
OTHER = Machine("Other", ("avx2",), 8, "1.31.1")
STORED = {MACHINE.fingerprint: {"1": {"threads": 3}, "9": {"threads": 1, "micro_batch": 16, "workers": 8}}}
DEFAULT = {1: Plan(threads=8)}


def chosen(user: Any, stored: Mapping[str, Any], machine: Machine, *device: Any) -> dict[int, Plan]:
    return choose(user, stored, machine, default_plan(machine, *device))


def test_the_users_plan_goes_first() -> None:
    mine = Plan(threads=2)
    assert chosen(mine, STORED, MACHINE)[1] is mine
    assert chosen({"threads": 2}, STORED, MACHINE) == {1: mine}


def test_the_stored_plans_go_before_the_default() -> None:
    plans = chosen(None, STORED, MACHINE)
    assert plans == {1: Plan(threads=3), 9: Plan(threads=1, micro_batch=16, workers=8)}
    assert stored_form(plans) == {"1": {"threads": 3}, "9": {"micro_batch": 16, "workers": 8}}
    assert chosen(None, {}, MACHINE) == DEFAULT


def test_stored_plans_come_in_the_order_of_their_batches() -> None:
    stored = {MACHINE.fingerprint: {"100": {"threads": 3}, "20": {"threads": 2}, "1": {}}}
    assert list(chosen(None, stored, MACHINE)) == [1, 20, 100]


def test_the_plan_of_another_machine_is_not_used(log: pytest.LogCaptureFixture) -> None:
    assert chosen(None, STORED, OTHER) == DEFAULT
    assert log.records == []


@pytest.mark.parametrize(
    "change",
    [
        {"vector_flags": ("avx2", "fma")},
        {"processors": 16},
        {"onnxruntime": "1.32.0"},
        {"kernels": "0.2.0"},
        {"gpus": ("A GPU",), "driver": "550.1"},
        {"quota": 7.5},
    ],
)
def test_the_plan_of_another_version_or_quota_is_not_used(change: dict[str, Any]) -> None:
    changed = replace(MACHINE, **change)
    assert chosen(None, STORED, changed) == {1: Plan(threads=changed.processors)}


@pytest.mark.parametrize("share", [{"threads": 9}, {"threads": 3, "workers": 3, "micro_batch": 1}])
def test_a_stored_plan_may_not_use_more_threads_than_there_are_processors(share: dict[str, Any]) -> None:
    at_most = {MACHINE.fingerprint: {"1": {"threads": 4, "workers": 2, "micro_batch": 1}}}
    too_many = {MACHINE.fingerprint: {"1": {"threads": 1}, "2": share}}
    assert chosen(None, at_most, MACHINE) == {1: Plan(threads=4, workers=2, micro_batch=1)}
    assert chosen(None, too_many, MACHINE) == DEFAULT


def test_a_stored_plan_for_another_device_is_not_used() -> None:
    gpu = Plan(provider="cuda", threads=2)
    stored = {MACHINE.fingerprint: {"1": gpu.model_dump()}, key(MACHINE, gpu): {"1": gpu.model_dump()}}
    assert chosen(None, stored, MACHINE) == DEFAULT
    assert chosen(None, stored, MACHINE, "cuda", 0) == {1: gpu}
    assert chosen(None, stored, MACHINE, "cuda", 1) == {1: Plan(provider="cuda", device_id=1, threads=8)}


@pytest.mark.parametrize(
    "plans",
    [
        {},
        {"2": {}},
        {"0": {}, "1": {}},
        {"1": {}, "-1": {}},
        {"1": {}, "01": {}},
        {"1": {}, "\u0661": {}},
        {"1": {}, str(2**20 + 1): {}},
        {"1": {}, "9" * 5000: {}},
        {"1": {}, "8": "fast"},
        {"1": None},
        {"1": [1]},
        {"threads": 3},
        {str(n): {} for n in range(1, 100)},
    ],
)
def test_stored_plans_of_another_form_are_ignored_with_a_warning(
    plans: dict[str, Any], log: pytest.LogCaptureFixture
) -> None:
    assert chosen(None, {MACHINE.fingerprint: plans}, MACHINE) == DEFAULT
    (record,) = log.records
    assert "invalid" in record.getMessage()
    assert len(record.getMessage()) < 300


LAYER = "16x6x5x5@10x10"


@pytest.mark.parametrize(
    "other",
    [
        {"winograd": "never"},
        {"winograd": LAYER},
        {"exact": True},
        {"exact": True, "winograd": "auto"},
        {"winograd": "always", "threads": 2},
        {"lanes": False},
    ],
)
def test_plans_that_would_round_a_sample_differently_are_not_used_together(
    other: dict[str, Any], log: pytest.LogCaptureFixture
) -> None:
    fault = disagreement({1: Plan(), 8: Plan(threads=2), 64: Plan(**other)})
    assert fault is not None
    assert "would be 'auto' at batch 1 and" in fault
    assert "at batch 64" in fault
    assert chosen(None, {MACHINE.fingerprint: {"1": {}, "64": other}}, MACHINE) == DEFAULT
    (record,) = log.records
    assert "algorithms would be 'auto' at batch 1" in record.getMessage()
    net = doubling()
    with pytest.raises(PlanError, match="do not go together") as caught:
        net._run_as({1: Plan(), 64: Plan(**other)}, net._regimes.sessions)
    assert "one `winograd`" in caught.value.remedy


@pytest.mark.parametrize(
    "plans",
    [
        {1: Plan(winograd=LAYER), 8: Plan(winograd=LAYER, split=0, threads=2)},
        {1: Plan(winograd=LAYER, lanes=False), 8: Plan(winograd=LAYER, lanes=False, arena=False)},
        {1: Plan(exact=True, lanes=False), 8: Plan(winograd="never")},
        {1: Plan(winograd="never", lanes=False), 8: Plan(winograd="never")},
        {1: Plan(winograd=LAYER), 8: Plan(native=False)},
        {1: Plan(winograd="always", native=False), 8: Plan(winograd="never")},
        {1: Plan(exact=True), 8: Plan(winograd="never")},
        {1: Plan(exact=True, winograd="always"), 8: Plan(exact=True)},
    ],
)
def test_plans_of_one_algorithm_serve_together(plans: dict[int, Plan], log: pytest.LogCaptureFixture) -> None:
    assert disagreement(plans) is None
    assert chosen(None, {MACHINE.fingerprint: stored_form(plans)}, MACHINE) == plans
    assert log.records == []
