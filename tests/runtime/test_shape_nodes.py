from __future__ import annotations

from collections.abc import Callable

import onnx
import pytest
from onnx import helper

from nncompile_runtime.shape_nodes import shape_nodes
from nncompile_runtime.wire import WireError

from .graphs import build, spec


def model(*nodes: onnx.NodeProto) -> bytes:
    inputs = [spec("x", "n", 4), spec("size", 1, dtype="int64"), spec("tokens", "n", 4, dtype="int64")]
    inputs.append(spec("mask", 1, dtype="int8"))
    return build(list(nodes), inputs, [spec("y", "m")], {"one": [1], "always": True}).SerializeToString()


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


NODE = helper.make_node
DATA, SHAPES = "x", "s"


def body(inputs: list[str], outputs: list[str], *nodes: onnx.NodeProto) -> onnx.GraphProto:
    def values(names: list[str]) -> list[onnx.ValueInfoProto]:
        return [helper.make_tensor_value_info(name, 7, None) for name in names]

    return helper.make_graph(list(nodes), "body", values(inputs), values(outputs))


def branching(read: str, condition: str = "always") -> list[onnx.NodeProto]:
    then = body([], ["t"], NODE("Max", [read, "one"], ["t"], name="inner"))
    other = body([], ["e"], NODE("Min", ["one", "one"], ["e"], name="inner"))
    return [NODE("If", [condition], ["v"], name="if", then_branch=then, else_branch=other)]


def looping(read: str, *, step: str = "one") -> list[onnx.NodeProto]:
    """Its state is `read` at first, and the Max of that and `step` after each step."""
    steps = body(
        ["i", "c", "state"],
        ["c", "next", "part"],
        NODE("Max", ["state", step], ["next"], name="inner"),
        NODE("Add", ["i", "one"], ["part"], name="number"),
    )
    return [NODE("Loop", ["one", "", read], ["v", "parts"], name="loop", body=steps)]


def scanning(read: str, *, state: str = "one") -> list[onnx.NodeProto]:
    steps = body(["state", "part"], ["next"], NODE("Max", ["state", "part"], ["next"], name="inner"))
    return [NODE("Scan", [state, read], ["v"], name="scan", body=steps, num_scan_inputs=1)]


@pytest.mark.parametrize("outer", [branching, looping, scanning])
@pytest.mark.parametrize(("read", "of_shapes"), [(SHAPES, True), (DATA, False), ("tokens", False)])
def test_bodies_are_traced(outer: Callable[[str], list[onnx.NodeProto]], read: str, of_shapes: bool) -> None:
    found = shape_nodes(model(SHAPE, *outer(read), NODE("Max", ["v", "one"], ["y"], name="after")))
    for name in ("inner", "after"):
        assert found.known["Max", name] == 1
        assert (("Max", name) in found.shapes) is of_shapes


def test_what_a_condition_of_data_chooses_is_data_and_the_branches_are_what_they_read() -> None:
    nodes = [SHAPE, *branching(SHAPES, condition="mask"), NODE("Max", ["v", "one"], ["y"], name="after")]
    found = shape_nodes(model(*nodes))
    assert ("Max", "inner") in found.shapes
    assert ("Max", "after") not in found.shapes


@pytest.mark.parametrize(("step", "of_shapes"), [("one", True), (SHAPES, True), (DATA, False)])
def test_what_a_step_makes_the_next_one_reads(step: str, of_shapes: bool) -> None:
    nodes = [SHAPE, *looping(SHAPES, step=step), NODE("Max", ["v", "one"], ["y"], name="after")]
    found = shape_nodes(model(*nodes))
    assert (("Max", "inner") in found.shapes) is of_shapes
    assert (("Max", "after") in found.shapes) is of_shapes
    assert ("Add", "number") in found.shapes


def test_the_number_of_steps_is_data_where_data_says_it() -> None:
    (loop,) = looping(SHAPES)
    loop.input[0] = "tokens"
    after = [NODE("Max", [name, "one"], [f"after_{name}"], name=name) for name in ("v", "parts")]
    found = shape_nodes(model(SHAPE, loop, *after))
    assert {("Max", "inner"), ("Add", "number")} <= found.shapes.keys()
    assert not {("Max", "v"), ("Max", "parts")} & found.shapes.keys()


def test_what_a_condition_of_data_ends_is_data() -> None:
    (loop,) = looping(SHAPES)
    steps = loop.attribute[0].g
    steps.node.append(NODE("Greater", ["x", "x"], ["go_on"], name="condition"))
    steps.output[0].name = "go_on"
    found = shape_nodes(model(SHAPE, loop, NODE("Max", ["v", "one"], ["y"], name="after")))
    assert ("Max", "inner") in found.shapes
    assert not {("Greater", "condition"), ("Max", "after")} & found.shapes.keys()


def test_data_that_comes_into_the_state_after_some_steps_is_found() -> None:
    steps = body(
        ["i", "c", "first", "second"],
        ["c", "second", "x"],
        NODE("Max", ["first", "one"], ["unused"], name="inner"),
    )
    loop = NODE("Loop", ["one", "", "s", "s"], ["v", "w"], name="loop", body=steps)
    assert ("Max", "inner") not in shape_nodes(model(SHAPE, loop)).shapes


def test_what_a_step_makes_is_no_part_of_a_sequence() -> None:
    inner = NODE("Max", ["part", "one"], ["m"], name="inner")
    of_data = NODE("Max", ["part", "x"], ["made"], name="of_data")
    scan = NODE("Scan", ["s"], ["v"], body=body(["part"], ["made"], inner, of_data), num_scan_inputs=1)
    found = shape_nodes(model(SHAPE, scan))
    assert ("Max", "inner") in found.shapes
    assert ("Max", "of_data") not in found.shapes


def with_functions(*nodes: onnx.NodeProto, most: str = "most") -> bytes:
    """`F(a) = max(a, 1)`, and G, which is F of F."""
    one = NODE("Constant", [], ["one"], value_ints=[1])
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("own", 1)]
    maximum = NODE("Max", ["a", "one"], ["b"], name=most)
    twice = [NODE("F", [a], [b], domain="own", name="call") for a, b in (("a", "h"), ("h", "b"))]
    made = onnx.load_from_string(model(*nodes))
    made.functions.append(helper.make_function("own", "F", ["a"], ["b"], [one, maximum], opsets))
    made.functions.append(helper.make_function("own", "G", ["a"], ["b"], twice, opsets))
    return made.SerializeToString()


def call(function: str, read: str, written: str = "v") -> onnx.NodeProto:
    return NODE(function, [read], [written], domain="own")


INLINED = ("Max", "_inlfunc_F_most")


@pytest.mark.parametrize(("function", "times"), [("F", 1), ("G", 2)])
@pytest.mark.parametrize(("read", "of_shapes"), [(SHAPES, True), (DATA, False)])
def test_functions_are_traced_where_they_are_called(
    function: str, times: int, read: str, of_shapes: bool
) -> None:
    after = NODE("Max", ["v", "one"], ["y"], name="after")
    found = shape_nodes(with_functions(SHAPE, call(function, read), after))
    assert found.known[INLINED] == times
    assert found.shapes[INLINED] == (times if of_shapes else 0)
    assert (("Max", "after") in found.shapes) is of_shapes


def test_a_call_on_shapes_excuses_none_on_data() -> None:
    found = shape_nodes(with_functions(SHAPE, call("F", SHAPES), call("F", DATA, "w")))
    names = ("_inlfunc_F_most", "_inlfunc_F_token_0_most")  # as ONNX Runtime calls them
    assert found.of_data([("Max", names[0])]) == []
    assert found.of_data([("Max", name) for name in names]) == [("Max", names[1])]


def test_a_function_whose_nodes_have_no_names() -> None:
    found = shape_nodes(with_functions(call("F", DATA), most=""))
    assert found.of_data([("Max", "")]) == [("Max", "")]


def test_functions_that_call_one_another_without_end_are_an_error() -> None:
    made = onnx.load_from_string(with_functions(call("G", DATA)))
    made.functions[0].node.append(call("G", "a", "z"))
    with pytest.raises(WireError, match="functions called by more than 64"):
        shape_nodes(made.SerializeToString())


@pytest.mark.parametrize(("read", "of_data"), [(SHAPES, []), (DATA, [("Max", "_if_then_branch_Max")])])
def test_a_branch_that_is_always_taken_is_found_under_its_new_name(
    read: str, of_data: list[tuple[str, str]]
) -> None:
    found = shape_nodes(model(SHAPE, *branching(read)))
    assert found.of_data([("Max", "_if_then_branch_Max")]) == of_data


def test_a_node_that_onnx_runtime_made_is_told_by_its_operator() -> None:
    found = shape_nodes(model(SHAPE, NODE("Gather", ["x", "one"], ["y"], name="Gather")))
    assert found.of_data([("Gather", "Gather_token_0"), ("FusedMatMul", "made")]) == [("FusedMatMul", "made")]


def test_an_operator_that_computes_no_shapes_is_of_data_wherever_it_is() -> None:
    found = shape_nodes(model(SHAPE, NODE("Softmax", ["s"], ["y"], name="soft")))
    assert found.of_data([("Softmax", "soft")]) == [("Softmax", "soft")]


def test_bytes_that_are_no_model_are_an_error() -> None:
    with pytest.raises(WireError):
        shape_nodes(model(SHAPE)[:-3])
