"""What the real CUDA provider has in bfloat16: the compiler's tables, asked of its kernels one by one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import pytest

from . import stand_in
from .graphs import build, spec

pytest.importorskip("torch")
pytest.importorskip("ml_dtypes")
from nncompile.passes import bfloat16_kernels as kernels

pytestmark = pytest.mark.skipif(
    not stand_in.can_be_built(), reason="there is no CUDA provider, or no C compiler"
)

# For each operator its inputs (shape, or dtype and shape, or constant integers), attributes, output's dtype.
IMAGE = [2, 8, 6, 6]
SAMPLES: dict[str, tuple[list[Any], dict[str, Any], str]] = {
    "And": ([("BOOL", IMAGE)] * 2, {}, "BOOL"),
    "ArgMax": ([IMAGE], {}, "INT64"),
    "AveragePool": ([IMAGE], {"kernel_shape": [2, 2]}, ""),
    "BatchNormalization": ([IMAGE, [8], [8], [8], [8]], {}, ""),
    "Cast": ([IMAGE], {"to": 7}, "INT64"),
    "Clip": ([IMAGE, [], []], {}, ""),
    "Concat": ([IMAGE, IMAGE], {"axis": 1}, ""),
    "Constant": ([], {"value_float": 1.0}, "FLOAT"),
    "ConstantOfShape": ([(2, 3)], {}, "FLOAT"),
    "Conv": ([IMAGE, [8, 8, 3, 3], [8]], {}, ""),
    "ConvTranspose": ([IMAGE, [8, 8, 3, 3]], {}, ""),
    "CumSum": ([IMAGE, (1,)], {}, ""),
    "DepthToSpace": ([IMAGE], {"blocksize": 2}, ""),
    "Einsum": ([[2, 3], [3, 4]], {"equation": "ij,jk->ik"}, ""),
    "Equal": ([IMAGE, IMAGE], {}, "BOOL"),
    "Expand": ([[1, 8], (4, 8)], {}, ""),
    "Gather": ([[5, 8], ("INT64", [3])], {}, ""),
    "GatherElements": ([[5, 8], ("INT64", [5, 8])], {}, ""),
    "GatherND": ([[5, 8], ("INT64", [3, 1])], {}, ""),
    "Gemm": ([[2, 3], [3, 4], [4]], {}, ""),
    "Greater": ([IMAGE, IMAGE], {}, "BOOL"),
    "GreaterOrEqual": ([IMAGE, IMAGE], {}, "BOOL"),
    "LayerNormalization": ([IMAGE, [6], [6]], {}, ""),
    "Less": ([IMAGE, IMAGE], {}, "BOOL"),
    "LessOrEqual": ([IMAGE, IMAGE], {}, "BOOL"),
    "MatMul": ([[2, 3], [3, 4]], {}, ""),
    "MaxPool": ([IMAGE], {"kernel_shape": [2, 2]}, ""),
    "Mod": ([("INT64", IMAGE)] * 2, {}, "INT64"),
    "Not": ([("BOOL", IMAGE)], {}, "BOOL"),
    "Or": ([("BOOL", IMAGE)] * 2, {}, "BOOL"),
    "PRelu": ([IMAGE, [8, 1, 1]], {}, ""),
    "Pad": ([IMAGE, (0, 0, 1, 1, 0, 0, 1, 1)], {}, ""),
    "Range": ([("INT64", [])] * 3, {}, "INT64"),
    "Reshape": ([IMAGE, (2, -1)], {}, ""),
    "Resize": ([IMAGE, None, None, (2, 8, 12, 12)], {}, ""),
    "ScatterND": ([[5, 8], ("INT64", [2, 1]), [2, 8]], {}, ""),
    "Shape": ([IMAGE], {}, "INT64"),
    "Slice": ([IMAGE, (0,), (5,), (2,), (2,)], {}, ""),
    "Split": ([IMAGE, (8,)], {"axis": 1}, ""),
    "Squeeze": ([[2, 8, 1, 1], (2, 3)], {}, ""),
    "Tile": ([IMAGE, (1, 1, 2, 2)], {}, ""),
    "TopK": ([IMAGE, (2,)], {}, ""),
    "Unsqueeze": ([IMAGE, (1,)], {}, ""),
    "Where": ([("BOOL", IMAGE), IMAGE, IMAGE], {}, ""),
    **{name: ([IMAGE, IMAGE], {}, "") for name in ("Add", "Div", "Max", "Min", "Mul", "Pow", "Sub")},
}
PROGRAM = """
from onnx import TensorProto, helper
samples, asked = json.loads(os.environ["ASKED"])

def model(operator, opset, kind):
    inputs, weights, names = [], [], []
    given, attributes, result = samples.get(operator, ([{"shape": [2, 8, 6, 6]}], {}, ""))
    for number, entry in enumerate(given):
        names.append("" if entry is None else f"i{number}")
        if entry is None:
            continue
        if "const" in entry:
            numbers = entry["const"]
            weights.append(helper.make_tensor(names[-1], TensorProto.INT64, [len(numbers)], numbers))
        else:
            dtype = getattr(TensorProto, entry.get("dtype") or kind)
            inputs.append(helper.make_tensor_value_info(names[-1], dtype, entry["shape"]))
    output = helper.make_tensor_value_info("y", getattr(TensorProto, result or kind), None)
    places = ["places"] if operator == "TopK" else []
    node = helper.make_node(operator, names, ["y", *places], **attributes)
    graph = helper.make_graph([node], "g", inputs, [output], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)

def runs(operator, opset, kind):
    options = ort().SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort().GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    data = model(operator, opset, kind).SerializeToString()
    try:
        ort().InferenceSession(data, options, providers=["CUDAExecutionProvider"], enable_fallback=0)
    except Exception:
        return False
    return True

say([[*case, runs(*case)] for case in asked])
"""


@pytest.fixture(scope="module")
def found(cuda_library: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, int, str], bool]:
    """Whether the provider runs an operator by itself, for each of the tables and each outside of them."""
    followers = sorted(kernels.PRODUCTS | kernels.FOLLOWERS)
    wide = sorted({*followers, *kernels.WIDE_PRODUCTS, *kernels.WIDE_FOLLOWERS})
    asked = [[name, 20, "BFLOAT16"] for name in followers]
    asked += [[name, kernels.WIDE, "BFLOAT16"] for name in wide]
    asked += [[name, kernels.WIDE, "FLOAT"] for name in sorted(kernels.ON_WIDE)]
    asked += [["Conv", 20, "BFLOAT16"], ["MaxPool", 20, "FLOAT"]]
    asked += [[name, opset, kind] for name in ("MaxPool", "Elu") for opset, kind in ((22, "FLOAT"),)]
    asked += [[name, kernels.WIDE, "BFLOAT16"] for name in ("Clip", "LeakyRelu")]
    folder = tmp_path_factory.mktemp("asked")
    (folder / "asked.json").write_text(json.dumps([_plain(), asked]))
    model = build([], [spec("x", 1)], [spec("x", 1)], {})
    program = PROGRAM.replace(
        'json.loads(os.environ["ASKED"])', f"json.load(open({str(folder / 'asked.json')!r}))"
    )
    (answers,) = stand_in.run(cuda_library, folder, model, program).said
    return {(name, opset, kind): runs for name, opset, kind, runs in answers}


def _plain() -> dict[str, Any]:
    def entry(given: Any) -> Any:
        if given is None:
            return None
        if isinstance(given, list):
            return {"shape": given}
        if given and isinstance(given[0], str):
            return {"dtype": given[0], "shape": given[1]}
        return {"const": list(given)}

    return {name: [[*map(entry, inputs)], *rest] for name, (inputs, *rest) in SAMPLES.items()}


def test_what_is_narrowed_has_kernels_of_bfloat16(found: dict[tuple[str, int, str], bool]) -> None:
    wide = kernels.WIDE_PRODUCTS | kernels.WIDE_FOLLOWERS
    for name in kernels.PRODUCTS | kernels.FOLLOWERS:
        assert found[name, 20, "BFLOAT16"], name
        assert found[name, kernels.WIDE, "BFLOAT16"], name
    for name in wide:
        assert found[name, kernels.WIDE, "BFLOAT16"], name


def test_what_may_stand_in_a_wide_graph_runs_on_the_gpu(found: dict[tuple[str, int, str], bool]) -> None:
    assert [name for name in kernels.ON_WIDE if not found[name, kernels.WIDE, "FLOAT"]] == []


def test_what_the_tables_leave_out_is_missing(found: dict[tuple[str, int, str], bool]) -> None:
    """Should one of these run one day, the detour around it can go."""
    assert found["MaxPool", 20, "FLOAT"]
    for case in (("MaxPool", 22, "FLOAT"), ("Elu", 22, "FLOAT"), ("Conv", 20, "BFLOAT16")):
        assert not found[case], case
    for name in ("Clip", "LeakyRelu"):
        assert not found[name, 22, "BFLOAT16"], name


def test_a_compiled_network_runs_on_the_gpu_as_a_whole(cuda_library: Path, tmp_path: Path) -> None:
    import torch

    import nncompile

    net = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3),
        torch.nn.ReLU6(),
        torch.nn.MaxPool2d(3, 2, 1),
        torch.nn.Flatten(),
        torch.nn.Linear(36, 5),
        torch.nn.LogSoftmax(1),
    )
    compiled = nncompile.compile(net, torch.randn(2, 1, 8, 8), target="cuda", precision="bfloat16")
    model = onnx.load_from_string(compiled.artifact)
    told = stand_in.run(cuda_library, tmp_path, model, "say(load().device)")  # strict: no node on the CPU
    assert told.said == ["cuda:0"]
