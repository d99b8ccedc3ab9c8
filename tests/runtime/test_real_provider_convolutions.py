"""What the real CUDA provider makes of a plan's fields for convolutions, on a CUDA that computes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from . import stand_in
from .graphs import build, floats, spec

pytestmark = pytest.mark.skipif(
    not stand_in.can_be_built(), reason="there is no CUDA provider, or no C compiler"
)
CALLS = """
made = ort().InferenceSession(
    model, providers=["CUDAExecutionProvider"], provider_options=[OPTIONS], enable_fallback=0)
for _ in range(2):
    before = len(calls())
    made.run(None, {"x": np.ones((2, 4, 8, 8), np.DTYPE)})
    say(calls()[before:])
"""
TOLD = ("heuristic", "search", "engines", "fill", "addition", "convolution")
FUSED = {"channels_last": True, "fuse_bias": True}


def conv(dtype: str = "float16", operator: str = "Conv", *, bias: bool = True) -> onnx.ModelProto:
    """One convolution of 3 x 3 on [n, 4, 8, 8], with eight channels of output."""
    shape = (4, 8, 3, 3) if operator == "ConvTranspose" else (8, 4, 3, 3)
    weights = {"w": floats(*shape).astype(dtype), **({"b": floats(8).astype(dtype)} if bias else {})}
    own = {"domain": "com.microsoft", "activation": "Relu"} if operator == "FusedConv" else {}
    node = helper.make_node(operator, ["x", *weights], ["y"], pads=[1, 1, 1, 1], **own)
    specs = [spec("x", "n", 4, 8, 8, dtype=dtype)], [spec("y", "n", 8, 8, 8, dtype=dtype)]
    return build([node], *specs, weights, domains=["com.microsoft"])


def calls(library: Path, folder: Path, model: onnx.ModelProto, options: Mapping[str, str]) -> list[list[str]]:
    """What cuDNN is asked for in a first call and in a second one of the same shape."""
    dtype = helper.tensor_dtype_to_np_dtype(model.graph.input[0].type.tensor_type.elem_type)
    program = CALLS.replace("OPTIONS", repr(dict(options))).replace("DTYPE", dtype.name)
    said = stand_in.run(library, folder, model, program).said
    return [[call for call in one if call.startswith(TOLD) or call.endswith("tensors")] for one in said]


def options(precision: str = "float16", **fields: Any) -> dict[str, str]:
    from nncompile_runtime.cuda_options import provider_options
    from nncompile_runtime.plan import Plan

    return provider_options(Plan(provider="cuda", **fields), precision)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_a_bias_is_added_inside_the_convolution(cuda_library: Path, tmp_path: Path, dtype: str) -> None:
    apart = calls(cuda_library, tmp_path, conv(dtype), options("tf32", channels_last=True))
    assert [one[-3:] for one in apart] == [["3 tensors", "convolution", "addition"]] * 2
    fused = calls(cuda_library, tmp_path, conv(dtype), options("tf32", **FUSED))
    assert [one[-2:] for one in fused] == [["4 tensors", "convolution"]] * 2
    assert not any("addition" in one for one in fused)


def test_without_a_bias_there_is_nothing_to_fuse(cuda_library: Path, tmp_path: Path) -> None:
    apart = calls(cuda_library, tmp_path, conv(bias=False), options(channels_last=True))
    assert calls(cuda_library, tmp_path, conv(bias=False), options(**FUSED)) == apart


def test_in_nchw_a_second_call_would_add_an_earlier_answer(cuda_library: Path, tmp_path: Path) -> None:
    """Why a plan cannot ask for it: the fifth tensor is the first call's output, zeroed only then.

    And on no stream, so nothing orders it with the session's. Should this fail one day, the rule can go.
    """
    given = options() | {"fuse_conv_bias": "1"}
    first, second = calls(cuda_library, tmp_path, conv(), given)
    assert first[-3:] == ["fill on no stream", "5 tensors", "convolution"]
    assert second == ["5 tensors", "convolution"]


def test_in_float32_what_cannot_be_fused_would_run_in_tf32(cuda_library: Path, tmp_path: Path) -> None:
    """Why float32 is refused: all engines here need tensor cores, so none is left, and it asks again."""
    given = options("float32", **FUSED)
    assert given["use_tf32"] == "0"
    first, _ = calls(cuda_library, tmp_path, conv("float32"), given)
    assert first.count("engines asked for") == 2
    assert first[-3:] == ["3 tensors", "convolution", "addition"]


def test_a_transposed_convolution_with_a_bias_fails(cuda_library: Path, tmp_path: Path) -> None:
    """Why it is refused; without the option it runs."""
    model = conv(operator="ConvTranspose")
    assert calls(cuda_library, tmp_path, model, options(channels_last=True))
    with pytest.raises(AssertionError, match="CUDNN Frontend"):
        calls(cuda_library, tmp_path, model, options(**FUSED))


@pytest.mark.parametrize(("search", "mode"), [("exhaustive", 1), ("heuristic", 3)])
@pytest.mark.parametrize("last", [False, True])
def test_nothing_is_searched_for_conv(
    cuda_library: Path, tmp_path: Path, search: str, mode: int, last: bool
) -> None:
    """Modes as cuDNN's backend numbers them: A is 3, B is 1."""
    given = options(cudnn_search=search, channels_last=last)
    first, _ = calls(cuda_library, tmp_path, conv(), given)
    assert [call for call in first if call.startswith(("heuristic", "search"))] == [f"heuristic mode {mode}"]


@pytest.mark.parametrize(("search", "times"), [("exhaustive", 1), ("heuristic", 0)])
def test_fused_conv_is_searched_for(cuda_library: Path, tmp_path: Path, search: str, times: int) -> None:
    given = options("float32", cudnn_search=search)
    first, second = calls(cuda_library, tmp_path, conv("float32", "FusedConv"), given)
    assert first.count("search") == times
    assert "search" not in second


def test_float16_runs_with_channels_last_untuned(cuda_library: Path, tmp_path: Path) -> None:
    """And every node of a residual network stays on the GPU, beside few transpositions."""
    from nncompile_runtime.container import append_manifest

    from .graphs import manifest

    half, weights = np.float16, {}
    for name, shape in {"v": (8, 4, 3, 3), "w": (8, 8, 3, 3), "u": (8, 1, 3, 3), "g": (8, 5)}.items():
        weights[name] = floats(*shape).astype(half)
    weights |= {name: floats(8).astype(half) for name in ("b", "scale", "shift", "mean")}
    weights["var"] = np.ones(8, half)
    same = {"pads": [1, 1, 1, 1]}
    nodes = [
        helper.make_node("Cast", ["x"], ["h"], to=10),
        helper.make_node("Conv", ["h", "v", "b"], ["c1"], **same),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("MaxPool", ["r1"], ["p1"], kernel_shape=[3, 3], strides=[2, 2], **same),
        helper.make_node("Conv", ["p1", "w"], ["c2"], **same),
        helper.make_node("BatchNormalization", ["c2", "scale", "shift", "mean", "var"], ["n2"]),
        helper.make_node("Conv", ["n2", "u", "b"], ["c3"], group=8, **same),
        helper.make_node("Sigmoid", ["c3"], ["s3"]),
        helper.make_node("Mul", ["c3", "s3"], ["m3"]),
        helper.make_node("Add", ["m3", "p1"], ["a3"]),
        helper.make_node("AveragePool", ["a3"], ["p3"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Concat", ["p3", "p3"], ["t4"], axis=1),
        helper.make_node("Split", ["t4"], ["q4", "o4"], axis=1, num_outputs=2),
        helper.make_node("Sub", ["q4", "o4"], ["d4"]),
        helper.make_node("GlobalAveragePool", ["d4"], ["e4"]),
        helper.make_node("Flatten", ["e4"], ["f4"]),
        helper.make_node("Gemm", ["f4", "g"], ["z"]),
        helper.make_node("Cast", ["z"], ["y"], to=1),
    ]
    specs = [spec("x", "n", 4, 8, 8)], [spec("y", "n", 5)]
    data = append_manifest(
        build(nodes, *specs, weights).SerializeToString(), manifest(*specs, precision="float16")
    )
    program = """
from nncompile_runtime.cuda import placement
for one in (runtime.load(model, device="cuda"), load()):
    one(np.ones((2, 4, 8, 8), np.float32))
    native = one.session.native
    options = native.get_provider_options()["CUDAExecutionProvider"]
    say([one.plan.channels_last, options["prefer_nhwc"], placement(native)])
"""
    untuned, told = stand_in.run(cuda_library, tmp_path, onnx.load_from_string(data), program).said
    assert untuned[:2] == [True, "1"]
    assert told[:2] == [False, "0"]  # a plan that is given goes first
    assert list(untuned[2]) == list(told[2]) == ["CUDAExecutionProvider"]
    assert untuned[2]["CUDAExecutionProvider"]["Transpose"] == 2  # in front and behind
    assert "Transpose" not in told[2]["CUDAExecutionProvider"]
