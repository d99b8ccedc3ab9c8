"""What ONNX Runtime's real CUDA provider leaves to the CPU: refused by name, but for arithmetic on shapes.

It runs without a GPU on a CUDA that computes nothing, so no answer here means anything.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from . import stand_in
from .graphs import build, conv_net, spec

pytestmark = pytest.mark.skipif(
    not stand_in.can_be_built(), reason="there is no CUDA provider, or no C compiler"
)


@pytest.mark.parametrize("plan", [{}, {"channels_last": True}, {"cuda_graph": True}])
def test_a_network_is_placed_on_the_gpu_whole(
    cuda_library: Path, tmp_path: Path, plan: dict[str, bool]
) -> None:
    program = f"""
from nncompile_runtime.cuda import placement
say(placement(load(**{plan}).session.native))
"""
    (placed,) = stand_in.run(cuda_library, tmp_path, conv_net()[0], program).said
    assert list(placed) == ["CUDAExecutionProvider"]
    assert {"Conv", "Relu", "MaxPool", "Gemm"} <= placed["CUDAExecutionProvider"].keys()


def test_a_node_without_a_kernel_is_refused_by_name(cuda_library: Path, tmp_path: Path) -> None:
    """Alone, the provider would leave it to the CPU."""
    nodes = [helper.make_node("Det", ["x"], ["d"], name="determinant"), helper.make_node("Neg", ["d"], ["y"])]
    program = """
try:
    load()
except NncompileError as error:
    say([type(error).__name__, str(error)])
"""
    specs = [spec("x", "batch", 3, 3)], [spec("y", "batch")]
    ((kind, said),) = stand_in.run(cuda_library, tmp_path, build(nodes, *specs), program).said
    assert kind == "DeviceError"
    assert "no CUDA kernel for Det 'determinant'" in said


def test_auto_takes_the_gpu_and_else_the_cpu_and_says_why_once(cuda_library: Path, tmp_path: Path) -> None:
    """For a node without a kernel, and for want of memory; where a plan asks for the GPU, it is refused."""
    program = """
import logging
from pathlib import Path
from nncompile_runtime import devices
devices.candidates.__defaults__ = ((Path("/"),),)  # a sign of a driver
told = []
class Handler(logging.Handler):
    def emit(self, record): told.append(record.getMessage())
logging.getLogger("nncompile").addHandler(Handler(logging.WARNING))
def loaded(**options):
    try:
        return runtime.load(model, device="auto", **options).device
    except NncompileError as error:
        return type(error).__name__
say([loaded(plan=CUDA), len(told), loaded(), loaded(), told])
os.environ["STAND_IN_FULL"] = "1"
told.clear()
say([loaded(plan=CUDA), len(told), loaded(), loaded(), told])
"""
    specs = [spec("x", "batch", 3, 3)], [spec("y", "batch", 3, 3)]
    weights = {"w": np.ones((3, 3), np.float32)}
    fits = build([helper.make_node("MatMul", ["x", "w"], ["y"])], *specs, weights)
    determinant = helper.make_node("Det", ["x"], ["d"], name="determinant")
    lacks = build([determinant, helper.make_node("Neg", ["d"], ["y"])], specs[0], [spec("y", "batch")])
    first, second = (tmp_path / name for name in ("fits", "lacks"))
    first.mkdir()
    second.mkdir()
    ready, full = stand_in.run(cuda_library, first, fits, program).said
    assert ready == ["cuda:0", 0, "cuda:0", "cuda:0", []]
    assert full[:4] == ["OutOfMemoryError", 0, "cpu", "cpu"]
    (why,) = full[4]
    assert "running on the CPU, because " in why
    assert "model.onnx could not be started on cuda:0" in why
    lacking, _ = stand_in.run(cuda_library, second, lacks, program).said
    assert lacking[:4] == ["DeviceError", 0, "cpu", "cpu"]
    (why,) = lacking[4]
    assert "running on the CPU, because ONNX Runtime has no CUDA kernel for Det 'determinant'" in why


@pytest.mark.parametrize(
    ("operator", "dtype", "result"),
    [
        ("ReduceProd", "int64", "int64"),
        ("Max", "int8", "int8"),
        ("Equal", "int8", "bool"),
        ("Equal", "uint8", "bool"),
        ("Less", "uint8", "bool"),
    ],
)
def test_data_that_a_shapes_operator_computes_is_refused(
    cuda_library: Path, tmp_path: Path, operator: str, dtype: str, result: str
) -> None:
    """Without a CUDA kernel for the dtype; a like node that computes a shape excuses it not."""
    reduces = operator == "ReduceProd"
    names = ["x"] if reduces else ["x", "x"]
    attributes = {"keepdims": 0} if reduces else {}
    nodes = [helper.make_node(operator, names, ["y"], name="of_data", **attributes)]
    nodes += [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("ReduceProd", ["s"], ["count"], name="of_shape", keepdims=0),
    ]
    shape = () if reduces else ("n", 4)
    outputs = [spec("y", *shape, dtype=result), spec("count", dtype="int64")]
    model = build(nodes, [spec("x", "n", 4, dtype=dtype)], outputs)
    ((kind, said),) = stand_in.run(cuda_library, tmp_path, model, REFUSED).said
    assert kind == "DeviceError"
    assert f"no CUDA kernel for {operator} 'of_data' of" in said


def product(of: str, to: str, name: str) -> onnx.NodeProto:
    return helper.make_node("ReduceProd", [of], [to], name=name, keepdims=0)


def body(outputs: list[str], nodes: list[onnx.NodeProto], inputs: dict[str, int] | None = None) -> Any:
    values = [helper.make_tensor_value_info(name, kind, None) for name, kind in (inputs or {}).items()]
    results = [helper.make_tensor_value_info(name, 9 if name == "c" else 7, None) for name in outputs]
    return helper.make_graph(nodes, "body", values, results)


def nested(read: str) -> dict[str, tuple[list[onnx.NodeProto], str]]:
    """Where a product may lie besides the graph itself, and what ONNX Runtime calls it there."""
    before = [helper.make_node("Shape", ["x"], ["s"])] if read == "s" else []
    calls = [helper.make_node(function, [read], ["y"], domain="own") for function in "FG"]
    branches = {
        "then_branch": body(["t"], [*before, product(read, "t", "hidden")]),
        "else_branch": body(["e"], [helper.make_node("Size", ["x"], ["e"])]),
    }
    step = [*before, product(read, "part", "hidden")]
    looped = body(["c", "part"], step, {"i": 7, "c": 9})
    scanned = body(["part"], [helper.make_node("Add", ["row", "row"], ["twice"]), *step], {"row": 7})
    return {
        "If": ([helper.make_node("If", ["condition"], ["y"], **branches)], "hidden"),
        "constant If": (
            [helper.make_node("If", ["always"], ["y"], name="if", **branches)],
            "_if_then_branch_ReduceProd",
        ),
        "Loop": ([helper.make_node("Loop", ["three", ""], ["y"], body=looped)], "hidden"),
        "Scan": ([helper.make_node("Scan", ["x"], ["y"], body=scanned, num_scan_inputs=1)], "hidden"),
        "function": ([*before, calls[0]], "_inlfunc_F_hidden"),
        "function in one": ([*before, calls[1]], "_inlfunc_F_hidden"),
    }


def hiding(where: str, read: str) -> onnx.ModelProto:
    nodes, _ = nested(read)[where]
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("own", 1)]
    inner = helper.make_node("F", ["a"], ["b"], domain="own")
    functions = [
        helper.make_function("own", "F", ["a"], ["b"], [product("a", "b", "hidden")], opsets),
        helper.make_function("own", "G", ["a"], ["b"], [inner], opsets),
    ]
    inputs = [spec("x", "n", 4, dtype="int64"), spec("condition", dtype="bool")]
    return build(
        nodes,
        inputs,
        [spec("y", "?", dtype="int64") if where in ("Loop", "Scan") else spec("y", dtype="int64")],
        {"always": True, "three": 3},
        functions=functions,
        domains=["own"],
    )


@pytest.mark.parametrize("where", list(nested("")))
def test_data_is_found_wherever_it_hides_and_shapes_are_let_be(
    cuda_library: Path, tmp_path: Path, where: str
) -> None:
    told = []
    for read in ("x", "s"):
        folder = tmp_path / read
        folder.mkdir()
        (said,) = stand_in.run(cuda_library, folder, hiding(where, read), REFUSED).said
        told.append(said)
    assert told[0][0] == "DeviceError"
    assert f"no CUDA kernel for ReduceProd {nested('')[where][1]!r} of" in told[0][1]
    assert told[1] == ["loaded", ""]


def test_shapes_of_all_kinds_may_be_on_the_cpu(cuda_library: Path, tmp_path: Path) -> None:
    """Unnamed as well; sizes that a caller gives are a shape where they meet one."""
    node = helper.make_node
    nodes = [
        node("Shape", ["x"], ["s"], name="shape"),
        node("ReduceProd", ["s"], ["count"], name="product", keepdims=1),
        node("Mul", ["count", "factor"], ["scaled"]),
        node("Max", ["scaled", "one"], ["most"], name="most"),
        node("Div", ["most", "factor"], ["length"]),
        node("Equal", ["length", "one"], ["single"], name="single"),
        node("Where", ["single", "one", "length"], ["flat"]),
        node("Reshape", ["x", "flat"], ["r"]),
        node("Relu", ["r"], ["y"]),
    ]
    inputs = [spec("x", "n", 4), spec("factor", 1, dtype="int64")]
    model = build(nodes, inputs, [spec("y", "m")], {"one": [1]})
    program = """
from nncompile_runtime.cuda import placement
say(placement(load().session.native))
"""
    (placed,) = stand_in.run(cuda_library, tmp_path, model, program).said
    assert {"ReduceProd", "Mul", "Max", "Div", "Equal", "Where"} <= placed["CPUExecutionProvider"].keys()


REFUSED = """
try:
    load()
    say(["loaded", ""])
except NncompileError as error:
    say([type(error).__name__, str(error)])
"""
