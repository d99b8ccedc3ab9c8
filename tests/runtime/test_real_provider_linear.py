"""Both forms of a linear layer with Relu on ONNX Runtime's real CUDA provider; see test_real_provider.py."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir
import pytest
from onnx import helper

from nncompile.passes.fuse_linear_relu import Linear, graphs

from . import stand_in
from .graphs import build, floats, spec
from .test_real_provider import linear, pytestmark

__all__ = ["pytestmark"]
LAYER = graphs(Linear(8, 4, transposed=True))
LINEAR = """
from nncompile_runtime.cuda import placement
predictor = load()
say(placement(predictor.session.native))
for rows in (2, 0):
    say(predictor(np.ones((rows, 8), np.float32)).shape)
"""


@pytest.mark.parametrize(
    ("form", "operators"),
    [("Gemm, Relu", {"Gemm", "Relu", "Neg"}), ("FusedConv", {"Unsqueeze", "FusedConv", "Flatten", "Neg"})],
)
def test_a_linear_layer_is_on_the_gpu_in_both_forms(
    cuda_library: Path, tmp_path: Path, form: str, operators: set[str]
) -> None:
    told = stand_in.run(cuda_library, tmp_path, ir.to_proto(LAYER[form]), LINEAR)
    assert told.said == [{"CUDAExecutionProvider": dict.fromkeys(operators, 1)}, [2, 4], [0, 4]]
    assert not any(call.startswith("copy") and call.endswith("kind 3") for call in told.calls)


def test_unsqueeze_and_flatten_copy_only_an_output_of_the_graph(cuda_library: Path, tmp_path: Path) -> None:
    """What fuse-linear-relu leaves alone for it."""
    model = ir.to_proto(LAYER["FusedConv"])
    reader = model.graph.node.pop()
    model.graph.node[-1].output[0] = reader.output[0]
    calls = stand_in.run(cuda_library, tmp_path, model, LINEAR).calls
    assert "copy 32 kind 3" in calls


def test_matmul_and_add_become_a_gemm(cuda_library: Path, tmp_path: Path) -> None:
    """Why they are no third form."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["s"]),
        helper.make_node("Add", ["s", "b"], ["t"]),
        helper.make_node("Relu", ["t"], ["y"]),
    ]
    model = build(
        nodes, [spec("x", "batch", 8)], [spec("y", "batch", 4)], {"w": floats(8, 4), "b": floats(4)}
    )
    said = stand_in.run(cuda_library, tmp_path, model, LINEAR).said
    assert said[0] == {"CUDAExecutionProvider": {"Gemm": 1, "Relu": 1}}


@pytest.mark.parametrize("precision", ["float32", "tf32"])
def test_a_linear_layer_is_measured_in_both_forms(cuda_library: Path, tmp_path: Path, precision: str) -> None:
    """The times are those of kernels that compute nothing."""
    program = f"""
from nncompile.passes import layer_race
from nncompile.passes.fuse_linear_relu import Linear, measured
layer_race._SECONDS = 0.01
say(measured(Linear(8, 4, True), {precision!r}, "cuda:0").said)
say(measured(Linear(8, 4, True), {precision!r}, "cuda:1").said)
"""
    told = stand_in.run(cuda_library, tmp_path, linear(), program)
    first, second = told.said
    ratio, _, each = first.partition("): ")
    assert " times as fast as Gemm, Relu on cuda:0 (" in ratio
    settings = [f"batch {rows}{how}" for rows in (1, 64) for how in ("", " as a CUDA graph")]
    assert [part.split(" at ")[1] for part in each.split(", ")] == settings
    assert second == "nothing was measured: cuda:1 cannot be had: the driver shows 1 GPU"
    assert sum(call.startswith("capture") for call in told.calls) == 4  # two batches, two forms
    assert ("math mode 3" in told.calls) == (precision == "tf32")
    assert not any(call.startswith("BROKEN") for call in told.calls)
