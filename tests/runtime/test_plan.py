"""Which plan is chosen, and that a stored plan can do no harm."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from nncompile import Plan, PlanError
from nncompile_runtime.machine import Machine, this_machine
from nncompile_runtime.plan import choose, default_plan

from .graphs import doubling, floats

MACHINE = Machine("CPU", ("avx2",), 8, "1.31.1")
OTHER = Machine("Other", ("avx2",), 8, "1.31.1")
STORED = {MACHINE.fingerprint: {"threads": 3, "micro_batch": 16}}


def test_the_default_uses_every_processor() -> None:
    assert default_plan(MACHINE) == Plan(threads=8)
    assert default_plan(MACHINE, "cuda", 1).device == "cuda:1"


def test_the_users_plan_goes_first() -> None:
    mine = Plan(threads=2)
    assert choose(mine, STORED, MACHINE) is mine
    assert choose({"threads": 2}, STORED, MACHINE) == mine


def test_the_stored_plan_goes_before_the_default() -> None:
    assert choose(None, STORED, MACHINE) == Plan(threads=3, micro_batch=16)
    assert choose(None, {}, MACHINE) == Plan(threads=8)


def test_the_plan_of_another_machine_is_not_used(log: pytest.LogCaptureFixture) -> None:
    assert choose(None, STORED, OTHER) == Plan(threads=8)
    assert log.records == []


def test_a_stored_plan_may_not_use_more_threads_than_there_are_processors() -> None:
    at_most = {MACHINE.fingerprint: {"threads": 8, "spinning": False}}
    too_many = {MACHINE.fingerprint: {"threads": 9, "spinning": False}}
    assert choose(None, at_most, MACHINE) == Plan(threads=8, spinning=False)
    assert choose(None, too_many, MACHINE) == Plan(threads=8)


def test_a_stored_plan_for_another_device_is_not_used() -> None:
    stored = {MACHINE.fingerprint: {"provider": "cuda", "threads": 2}}
    assert choose(None, stored, MACHINE) == Plan(threads=8)
    assert choose(None, stored, MACHINE, "cuda", 0) == Plan(provider="cuda", threads=2)
    assert choose(None, stored, MACHINE, "cuda", 1) == Plan(provider="cuda", device_id=1, threads=8)


HOSTILE: list[tuple[dict[str, Any], str]] = [
    ({"threads": 10**6}, "threads"),
    ({"threads": 10**30}, "threads"),
    ({"threads": 0}, "threads"),
    ({"threads": -1}, "threads"),
    ({"threads": "4"}, "threads"),
    ({"threads": 2.0}, "threads"),
    ({"threads": True}, "threads"),
    ({"threads": None}, "threads"),
    ({"threads": [1]}, "threads"),
    ({"threads": {"a": {"b": []}}}, "threads"),
    ({"micro_batch": 0}, "micro_batch"),
    ({"micro_batch": -4}, "micro_batch"),
    ({"micro_batch": 2**21}, "micro_batch"),
    ({"micro_batch": "all"}, "micro_batch"),
    ({"spinning": "yes"}, "spinning"),
    ({"spinning": 1}, "spinning"),
    ({"provider": "tensorrt"}, "provider"),
    ({"provider": None}, "provider"),
    ({"device_id": -1}, "device_id"),
    ({"device_id": 10**6}, "device_id"),
    ({"mlas.disable_kleidiai": "1"}, "mlas.disable_kleidiai"),
    ({"custom_ops_library": "/tmp/evil.so"}, "custom_ops_library"),
    ({"session.enable_profiling": True}, "session.enable_profiling"),
    ({"model_config": {}}, "model_config"),
    ({"__class__": "Plan"}, "__class__"),
]


@pytest.mark.parametrize(("plan", "field"), HOSTILE)
def test_a_hostile_stored_plan_is_ignored_with_a_warning(
    plan: dict[str, Any], field: str, log: pytest.LogCaptureFixture
) -> None:
    x = floats(3, 4)
    net = doubling(plans={this_machine().fingerprint: plan})
    (record,) = (r for r in log.records if r.levelno == logging.WARNING)
    assert field in record.getMessage()
    assert net.plan == default_plan(this_machine())
    np.testing.assert_array_equal(net.predict(x), 2 * x)


def test_a_good_stored_plan_is_used_without_a_word(log: pytest.LogCaptureFixture) -> None:
    net = doubling(plans={this_machine().fingerprint: {"threads": 1, "micro_batch": 2}})
    assert net.plan == Plan(threads=1, micro_batch=2)
    assert [r for r in log.records if r.levelno >= logging.WARNING] == []


@pytest.mark.parametrize(("plan", "field"), HOSTILE)
def test_an_invalid_plan_of_the_user_is_an_error(plan: dict[str, Any], field: str) -> None:
    with pytest.raises(PlanError) as caught:
        doubling(plan=plan)
    assert field in caught.value.problem
    assert "micro_batch" in caught.value.remedy


@pytest.mark.parametrize("plan", ["fast", 4, [1, 2], {1: 2}, object()])
def test_a_plan_that_is_no_mapping_is_an_error(plan: Any) -> None:
    with pytest.raises(PlanError):
        doubling(plan=plan)


def test_the_users_plan_may_use_more_threads_than_there_are_processors() -> None:
    x = floats(3, 4)
    np.testing.assert_array_equal(doubling(plan={"threads": 64}).predict(x), 2 * x)


@pytest.mark.parametrize(
    "plan",
    [
        Plan(spinning=False),
        Plan(blocked_layout=False),
        Plan(threads=2, micro_batch=1),
        Plan(micro_batch=2**20),
    ],
)
def test_every_plan_gives_the_same_answers(plan: Plan) -> None:
    x = floats(5, 4)
    np.testing.assert_array_equal(doubling(plan=plan).predict(x), 2 * x)


def test_a_plan_is_frozen_and_names_its_device() -> None:
    with pytest.raises(ValidationError):
        Plan().threads = 4  # type: ignore[misc]
    assert (Plan().device, Plan(provider="cuda", device_id=2).device) == ("cpu", "cuda:2")
