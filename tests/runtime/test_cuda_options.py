"""A plan as options of the CUDA provider, and the plans that do not suit a graph."""

from __future__ import annotations

import logging
import re
from typing import Any

import numpy as np
import pytest
from onnx import helper

from nncompile import Plan, PlanError
from nncompile_runtime.cuda_options import channels_last, provider_options, unsuited
from nncompile_runtime.machine import this_machine
from nncompile_runtime.plan import Plan as RuntimePlan
from nncompile_runtime.plan import default_plan
from nncompile_runtime.plans import choose, key

from .fake_gpu import FakeGpu, gpu
from .graphs import build, conv_net, manifest, predictor, spec

__all__ = ["gpu"]


def options(**fields: Any) -> dict[str, str]:
    return provider_options(Plan(provider="cuda", **fields), "float32")


def test_the_default() -> None:
    assert options(device_id=1) == {
        "device_id": "1",
        "use_tf32": "0",
        "cudnn_conv_algo_search": "EXHAUSTIVE",
        "cudnn_conv_use_max_workspace": "1",
        "arena_extend_strategy": "kNextPowerOfTwo",
        "prefer_nhwc": "0",
        "fuse_conv_bias": "0",
    }


@pytest.mark.parametrize(
    ("field", "value", "option", "text"),
    [
        ("cudnn_search", "heuristic", "cudnn_conv_algo_search", "HEURISTIC"),
        ("cudnn_max_workspace", False, "cudnn_conv_use_max_workspace", "0"),
        ("arena_strategy", "kSameAsRequested", "arena_extend_strategy", "kSameAsRequested"),
        ("channels_last", True, "prefer_nhwc", "1"),
        ("gpu_memory_limit", 2**30, "gpu_mem_limit", "1073741824"),
    ],
)
def test_a_field_changes_its_option_alone(field: str, value: object, option: str, text: str) -> None:
    assert options(**{field: value}) == options() | {option: text}


def test_a_bias_is_fused_in_its_layout_alone() -> None:
    fused = options(channels_last=True, fuse_bias=True)
    assert fused == options(channels_last=True) | {"fuse_conv_bias": "1"}
    with pytest.raises(PlanError, match=r"fuse_bias answers wrongly in NCHW, so channels_last=True must be"):
        choose({"provider": "cuda", "fuse_bias": True}, {}, this_machine(), default_plan(this_machine()))


@pytest.mark.parametrize(
    ("precision", "operators", "last"),
    [
        ("float16", ["Conv", "Relu"], True),
        ("float16", ["Gemm"], False),
        ("float16", ["Conv", "FusedConv"], False),
        ("bfloat16", ["Conv"], False),
        ("tf32", ["Conv"], False),
        ("float32", ["Conv"], False),
    ],
)
def test_what_runs_with_channels_last_untuned(precision: str, operators: list[str], last: bool) -> None:
    graph = dict.fromkeys(operators, 1)
    assert channels_last(precision, graph) is last
    plan = default_plan(this_machine(), "cuda", channels_last=last)
    assert plan.channels_last is last
    assert unsuited(plan, graph, precision, in_bfloat16=precision == "bfloat16") is None
    assert not default_plan(this_machine(), channels_last=last).channels_last


def test_a_graph_is_captured_only_by_the_session_that_is_made_for_it() -> None:
    assert options(cuda_graph=True) == options()
    plan = Plan(provider="cuda", cuda_graph=True)
    assert provider_options(plan, "float32", capture=True) == options() | {"enable_cuda_graph": "1"}
    assert not plan.session.cuda_graph


@pytest.mark.parametrize(
    ("precision", "tf32"), [("float32", "0"), ("float16", "1"), ("tf32", "1"), ("bfloat16", "1")]
)
def test_only_what_allows_tf32_gets_it(precision: str, tf32: str) -> None:
    assert provider_options(Plan(provider="cuda"), precision)["use_tf32"] == tf32


def test_the_stream_is_ours() -> None:
    handle = 0x7F00DEADBEEF
    assert provider_options(Plan(provider="cuda"), "float32", handle)["user_compute_stream"] == str(handle)


@pytest.mark.parametrize(
    ("fields", "operators", "says"),
    [
        ({"channels_last": True}, ["Conv", "FusedConv"], "channels_last=True .* FusedConv"),
        ({"channels_last": True, "fuse_bias": True}, ["Conv", "ConvTranspose"], "fuse_bias=True .* ConvTr"),
        ({"cuda_graph": True}, ["Conv", "Loop"], "cuda_graph=True .* Loop"),
        ({"cuda_graph": True}, ["If"], "cannot branch"),
        ({"cuda_graph": True}, ["Scan"], "cannot branch"),
    ],
)
def test_plans_that_do_not_suit_a_graph(fields: dict[str, Any], operators: list[str], says: str) -> None:
    plan = Plan(provider="cuda", **fields)
    why = unsuited(plan, dict.fromkeys(operators, 1), "tf32")
    assert why is not None
    assert re.search(says, why)
    assert unsuited(plan, {"Conv": 3}, "tf32") is None
    assert unsuited(Plan(provider="cuda"), dict.fromkeys(operators, 1), "tf32") is None


@pytest.mark.parametrize("precision", ["float16", "tf32"])
def test_a_bias_is_not_fused_where_that_would_change_the_precision(precision: str) -> None:
    plan = Plan(provider="cuda", channels_last=True, fuse_bias=True)
    why = unsuited(plan, {"Conv": 3}, "float32")
    assert why is not None
    assert "would run in TF32" in why
    assert unsuited(plan, {"Conv": 3}, precision) is None
    assert unsuited(plan.model_copy(update={"fuse_bias": False}), {"Conv": 3}, "float32") is None


def test_convolutions_of_bfloat16_have_no_nhwc_kernel() -> None:
    plan = Plan(provider="cuda", channels_last=True)
    why = unsuited(plan, {"Conv": 3}, "bfloat16", in_bfloat16=True)
    assert why is not None
    assert "bfloat16" in why
    assert unsuited(plan, {"Gemm": 3}, "bfloat16", in_bfloat16=True) is None
    assert unsuited(Plan(provider="cuda"), {"Conv": 3}, "bfloat16", in_bfloat16=True) is None


def fused() -> Any:
    node = helper.make_node(
        "FusedConv", ["x", "w", "b"], ["y"], domain="com.microsoft", kernel_shape=[1, 1], activation="Relu"
    )
    specs = [spec("x", "batch", 1, 2, 2)], [spec("y", "batch", 1, 2, 2)]
    weights = {"w": np.full((1, 1, 1, 1), 2, np.float32), "b": np.zeros(1, np.float32)}
    return build([node], *specs, weights, domains=["com.microsoft"]), specs


def test_the_users_unsuited_plan_is_an_error(gpu: FakeGpu) -> None:
    model, specs = fused()
    with pytest.raises(PlanError, match="channels_last=True does not suit a graph with FusedConv"):
        predictor(model, manifest(*specs), device="cuda", plan={"provider": "cuda", "channels_last": True})
    fuses = {"provider": "cuda", "channels_last": True, "fuse_bias": True}
    model, *specs = conv_net()
    with pytest.raises(PlanError, match="fuse_bias=True does not suit float32"):
        predictor(model, manifest(*specs), device="cuda", plan=fuses)
    assert predictor(model, manifest(*specs, precision="tf32"), device="cuda", plan=fuses).plan.fuse_bias
    assert gpu.created[-1]["fuse_conv_bias"] == "1"


def test_float16_has_its_channels_last_where_no_plan_is_stored(gpu: FakeGpu) -> None:
    model, *specs = conv_net()
    for precision in ("float16", "float32"):
        loaded = predictor(model, manifest(*specs, precision=precision), device="cuda")
        assert loaded.plan.channels_last is (precision == "float16")
        assert not predictor(model, manifest(*specs, precision=precision)).plan.channels_last
    stored = RuntimePlan(provider="cuda", cudnn_search="heuristic")
    plans = {key(this_machine(), stored): {"1": stored.model_dump(exclude_defaults=True)}}
    loaded = predictor(model, manifest(*specs, precision="float16", plans=plans), device="cuda")
    assert loaded.plan == stored


def test_a_stored_unsuited_plan_is_ignored_with_a_warning(
    gpu: FakeGpu, log: pytest.LogCaptureFixture
) -> None:
    model, specs = fused()
    stored = RuntimePlan(provider="cuda", channels_last=True)
    plans = {key(this_machine(), stored): {"1": stored.model_dump(exclude_defaults=True)}}
    loaded = predictor(model, manifest(*specs, plans=plans), device="cuda")
    assert not loaded.plan.channels_last
    (warning,) = [record for record in log.records if record.levelno == logging.WARNING]
    assert "invalid for this graph" in warning.getMessage()


def test_a_stored_plan_that_suits_is_used(gpu: FakeGpu) -> None:
    model, *specs = conv_net()
    stored = RuntimePlan(provider="cuda", channels_last=True, cuda_graph=True)
    plans = {key(this_machine(), stored): {"1": stored.model_dump(exclude_defaults=True)}}
    loaded = predictor(model, manifest(*specs, plans=plans), device="cuda")
    assert loaded.plan == stored
    assert gpu.created[0]["prefer_nhwc"] == "1"
