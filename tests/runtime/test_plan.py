"""What a plan may say, that it reaches ONNX Runtime, and that a stored one can do no harm."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from nncompile import Plan, PlanError
from nncompile_runtime.machine import Machine, this_machine
from nncompile_runtime.plan import default_plan, plain_plan

from .graphs import doubling, floats

MACHINE = Machine("CPU", ("avx2",), 8, "1.31.1")


def test_the_default_uses_every_processor() -> None:
    assert default_plan(MACHINE) == Plan(threads=8)
    assert default_plan(MACHINE, "cuda", 1).device == "cuda:1"


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
