from __future__ import annotations

import onnx
import pytest
from onnx import helper

from nncompile_runtime.shape_nodes import shape_nodes
from nncompile_runtime.wire import WireError

from .graphs import build, spec


def model(*nodes: onnx.NodeProto) -> bytes:
    inputs = [spec("x", "n", 4), spec("size", 1, dtype="int64"), spec("tokens", "n", 4, dtype="int64")]
    inputs.append(spec("mask", 1, dtype="int8"))
    return build(list(nodes), inputs, [spec("y", "m")], {"one": [1]}).SerializeToString()


SHAPE = helper.make_node("Shape", ["x"], ["s"], name="shape")


@pytest.mark.parametrize(
    ("names", "of_shapes"),
    [
        (["s", "s"], True),
        (["s", "one"], True),
        (["one", "one"], True),
        (["s", "size"], True),
        (["size", "one"], False),
        (["tokens", "s"], False),
        (["mask", "s"], False),
        (["x", "one"], False),
    ],
)
def test_what_reads_only_shapes_computes_one(names: list[str], of_shapes: bool) -> None:
    nodes = [
        SHAPE,
        helper.make_node("Max", names, ["t"], name="near"),
        helper.make_node("Cast", ["t"], ["y"], name="far", to=7),
    ]
    found = shape_nodes(model(*nodes))
    assert found.known == {("Shape", "shape"): 1, ("Max", "near"): 1, ("Cast", "far"): 1}
    assert (("Max", "near") in found.shapes) is of_shapes
    assert (("Cast", "far") in found.shapes) is of_shapes
    assert ("Shape", "shape") in found.shapes


def test_nodes_of_one_name_are_counted() -> None:
    nodes = [SHAPE, *(helper.make_node("Max", [read, "one"], [f"t{read}"]) for read in ("s", "x", "tokens"))]
    found = shape_nodes(model(*nodes))
    assert found.known["Max", ""] == 3
    assert found.shapes["Max", ""] == 1


def test_nothing_is_traced_in_a_subgraph() -> None:
    inner = helper.make_node("Max", ["x", "x"], ["z"], name="inner")
    output = helper.make_tensor_value_info("z", 1, None)
    branch = helper.make_graph([inner], "branch", [], [output])
    node = helper.make_node("If", ["mask"], ["y"], name="if", then_branch=branch, else_branch=branch)
    found = shape_nodes(model(node))
    assert found.shapes == {("Max", "inner"): 2}
    assert found.known == {("Max", "inner"): 2, ("If", "if"): 1}


def test_bytes_that_are_no_model_are_an_error() -> None:
    with pytest.raises(WireError):
        shape_nodes(model(SHAPE)[:-3])
