"""Which plan is chosen, and that a stored plan can do no harm."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from nncompile import Plan, PlanError
from nncompile_runtime.machine import Machine, this_machine
from nncompile_runtime.plan import choose, default_plan, disagreement, key, plain_plan, stored_form

from .graphs import doubling, floats

MACHINE = Machine("CPU", ("avx2",), 8, "1.31.1")
OTHER = Machine("Other", ("avx2",), 8, "1.31.1")
STORED = {MACHINE.fingerprint: {"1": {"threads": 3}, "9": {"threads": 1, "micro_batch": 16, "workers": 8}}}
DEFAULT = {1: Plan(threads=8)}


def test_the_default_uses_every_processor() -> None:
    assert default_plan(MACHINE) == Plan(threads=8)
    assert default_plan(MACHINE, "cuda", 1).device == "cuda:1"


def test_the_users_plan_goes_first() -> None:
    mine = Plan(threads=2)
    assert choose(mine, STORED, MACHINE)[1] is mine
    assert choose({"threads": 2}, STORED, MACHINE) == {1: mine}


def test_the_stored_plans_go_before_the_default() -> None:
    plans = choose(None, STORED, MACHINE)
    assert plans == {1: Plan(threads=3), 9: Plan(threads=1, micro_batch=16, workers=8)}
    assert stored_form(plans) == {"1": {"threads": 3}, "9": {"micro_batch": 16, "workers": 8}}
    assert choose(None, {}, MACHINE) == DEFAULT


def test_stored_plans_come_in_the_order_of_their_batches() -> None:
    stored = {MACHINE.fingerprint: {"100": {"threads": 3}, "20": {"threads": 2}, "1": {}}}
    assert list(choose(None, stored, MACHINE)) == [1, 20, 100]


def test_the_plan_of_another_machine_is_not_used(log: pytest.LogCaptureFixture) -> None:
    assert choose(None, STORED, OTHER) == DEFAULT
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
    assert choose(None, STORED, changed) == {1: Plan(threads=changed.processors)}


@pytest.mark.parametrize("share", [{"threads": 9}, {"threads": 3, "workers": 3, "micro_batch": 1}])
def test_a_stored_plan_may_not_use_more_threads_than_there_are_processors(share: dict[str, Any]) -> None:
    at_most = {MACHINE.fingerprint: {"1": {"threads": 4, "workers": 2, "micro_batch": 1}}}
    too_many = {MACHINE.fingerprint: {"1": {"threads": 1}, "2": share}}
    assert choose(None, at_most, MACHINE) == {1: Plan(threads=4, workers=2, micro_batch=1)}
    assert choose(None, too_many, MACHINE) == DEFAULT


def test_a_stored_plan_for_another_device_is_not_used() -> None:
    gpu = Plan(provider="cuda", threads=2)
    stored = {MACHINE.fingerprint: {"1": gpu.model_dump()}, key(MACHINE, gpu): {"1": gpu.model_dump()}}
    assert choose(None, stored, MACHINE) == DEFAULT
    assert choose(None, stored, MACHINE, "cuda", 0) == {1: gpu}
    assert choose(None, stored, MACHINE, "cuda", 1) == {1: Plan(provider="cuda", device_id=1, threads=8)}


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
    assert choose(None, {MACHINE.fingerprint: plans}, MACHINE) == DEFAULT
    (record,) = log.records
    assert "invalid" in record.getMessage()
    assert len(record.getMessage()) < 300


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
    ({"workers": 0, "micro_batch": 1}, "workers"),
    ({"workers": 10**6, "micro_batch": 1}, "workers"),
    ({"workers": 2}, "micro_batch"),
    ({"spin_microseconds": -1}, "spin_microseconds"),
    ({"spin_microseconds": 10**7}, "spin_microseconds"),
    ({"spin_microseconds": "abc"}, "spin_microseconds"),
    ({"dynamic_block_base": "abc"}, "dynamic_block_base"),
    ({"dynamic_block_base": 65}, "dynamic_block_base"),
    ({"pointwise_channels": -1}, "pointwise_channels"),
    ({"pointwise_channels": 7}, "pointwise_channels"),
    ({"pointwise_channels": "128"}, "pointwise_channels"),
    *(({"winograd": text}, "winograd") for text in ("", "fast", "Auto", "auto,never", "never ", "16x6x5x5")),
    *(({"winograd": text}, "winograd") for text in ("0x6x5x5@8x8", "16x6x5x5@8x8,", "16x6x5x5@8x8\n")),
    ({"winograd": ",".join(["16x6x5x5@10x10"] * 100)}, "winograd"),
    ({"winograd": ["16x6x5x5@10x10"]}, "winograd"),
    ({"winograd": None}, "winograd"),
    ({"lanes": "off"}, "lanes"),
    ({"lanes": 8}, "lanes"),
    ({"split": -1}, "split"),
    ({"split": 10**9 + 1}, "split"),
    ({"split": 1e6}, "split"),
    ({"split": False}, "split"),
    ({"arena": 0}, "arena"),
    ({"memory_pattern": "no"}, "memory_pattern"),
    ({"mlas.nchwc_pointwise_conv_max_input_channel_batch": -1}, "mlas"),
    ({"spinning": "yes"}, "spinning"),
    ({"spinning": 1}, "spinning"),
    ({"provider": "tensorrt"}, "provider"),
    ({"provider": None}, "provider"),
    ({"device_id": -1}, "device_id"),
    ({"device_id": 10**6}, "device_id"),
    ({"device_id": 1}, "device_id counts GPUs"),
    ({"cuda_graph": True}, "cuda_graph is for provider='cuda', and this plan's is 'cpu'"),
    ({"channels_last": True}, "channels_last"),
    ({"channels_last": True, "fuse_bias": True}, "channels_last is for provider='cuda'"),
    ({"fuse_bias": True}, "fuse_bias is for provider='cuda'"),
    ({"provider": "cuda", "fuse_bias": True}, "channels_last=True must be given"),
    ({"cudnn_search": "heuristic"}, "cudnn_search"),
    ({"cudnn_search": "default"}, "cudnn_search"),
    ({"cudnn_search": "DEFAULT"}, "cudnn_search"),
    ({"cudnn_max_workspace": False}, "cudnn_max_workspace"),
    ({"arena_strategy": "kSameAsRequested"}, "arena_strategy"),
    ({"arena_strategy": "1"}, "arena_strategy"),
    ({"gpu_memory_limit": 2**30}, "gpu_memory_limit"),
    ({"gpu_memory_limit": 0}, "gpu_memory_limit"),
    ({"gpu_memory_limit": 2**63}, "gpu_memory_limit"),
    ({"provider": "cuda", "blocked_layout": False}, "blocked_layout is for provider='cpu'"),
    ({"provider": "cuda", "arena": False}, "arena"),
    ({"provider": "cuda", "pointwise_channels": 64}, "pointwise_channels"),
    ({"provider": "cuda", "spin_microseconds": 5}, "spin_microseconds"),
    ({"provider": "cuda", "dynamic_block_base": 4}, "dynamic_block_base"),
    ({"user_compute_stream": 1234}, "user_compute_stream"),
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
    net = doubling(plans={this_machine().fingerprint: {"1": plan}})
    (record,) = (r for r in log.records if r.levelno == logging.WARNING)
    assert field in record.getMessage()
    assert net.plan == default_plan(this_machine())
    np.testing.assert_array_equal(net.predict(x), 2 * x)


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
    assert choose(None, {MACHINE.fingerprint: {"1": {}, "64": other}}, MACHINE) == DEFAULT
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
    assert choose(None, {MACHINE.fingerprint: stored_form(plans)}, MACHINE) == plans
    assert log.records == []


def test_a_good_stored_plan_is_used_without_a_word(log: pytest.LogCaptureFixture) -> None:
    net = doubling(plans={this_machine().fingerprint: {"1": {"threads": 1, "micro_batch": 2}}})
    assert net.plans == {1: Plan(threads=1, micro_batch=2)}
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
        Plan(spin_microseconds=0),
        Plan(dynamic_block_base=4, threads=2),
        Plan(blocked_layout=False),
        Plan(arena=False, memory_pattern=False),
        Plan(winograd="always", lanes=False, split=0),
        Plan(winograd=",".join(["16x6x5x5@10x10"] * 60)),
        *(Plan(pointwise_channels=channels) for channels in (32, 64, 128, 256, 512)),
        Plan(threads=1, micro_batch=2, workers=2),
        Plan(threads=2, micro_batch=1, workers=64),
        Plan(threads=2, micro_batch=1),
        Plan(micro_batch=2**20),
    ],
)
def test_every_plan_gives_the_same_answers(plan: Plan) -> None:
    x = floats(5, 4)
    np.testing.assert_array_equal(doubling(plan=plan).predict(x), 2 * x)


def test_the_options_reach_onnx_runtime() -> None:
    """It is asked what it was told: most of what it is told wrongly it accepts without a word."""
    plan = Plan(
        spinning=False,
        spin_microseconds=100,
        dynamic_block_base=4,
        pointwise_channels=64,
        arena=False,
        memory_pattern=False,
    )
    options = doubling(plan=plan).session.native.get_session_options()
    entries = {
        "session.intra_op.allow_spinning": "0",
        "session.intra_op.spin_duration_us": "100",
        "session.dynamic_block_base": "4",
        "mlas.nchwc_pointwise_conv_max_input_channel_batch": "64",
    }
    assert {name: options.get_session_config_entry(name) for name in entries} == entries
    assert (options.enable_cpu_mem_arena, options.enable_mem_pattern) == (False, False)
    plain = doubling(plan=plain_plan(MACHINE)).session.native.get_session_options()
    assert (plain.enable_cpu_mem_arena, plain.enable_mem_pattern) == (True, True)
    for name in entries:
        with pytest.raises(RuntimeError, match="does not have"):
            plain.get_session_config_entry(name)


def test_a_plan_is_written_as_what_is_special_about_it() -> None:
    assert str(Plan(threads=2)) == "cpu threads=2"
    assert str(Plan(provider="cuda", native=False)) == "cuda:0 threads=1 native=False"


def test_a_plan_is_frozen_and_names_its_device() -> None:
    with pytest.raises(ValidationError):
        Plan().threads = 4  # type: ignore[misc]
    assert (Plan().device, Plan(provider="cuda", device_id=2).device) == ("cpu", "cuda:2")
