"""What the scan finds in a model's bytes, wherever it hides."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from nncompile_runtime.onnx_scan import FLOAT16, scan
from nncompile_runtime.wire import WireError, write_bytes_field, write_varint

from .graphs import build, spec

X, Y = spec("x", 1, 4), spec("y", 1, 4)
MODEL_GRAPH, GRAPH_NODE, GRAPH_INITIALIZER, NODE_ATTRIBUTE, ATTRIBUTE_GRAPH = 7, 1, 5, 5, 6


def branch(name: str, *nodes: onnx.NodeProto) -> onnx.GraphProto:
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, 4])
    return helper.make_graph(nodes, name, [], [out])


def constant(tensor: TensorProto) -> onnx.NodeProto:
    return helper.make_node("Constant", [], ["out"], value=tensor)


def with_node(node: onnx.NodeProto) -> ModelProto:
    return build([node], [X], [Y])


def with_if(*nodes: onnx.NodeProto) -> ModelProto:
    other = branch("else", helper.make_node("Identity", ["x"], ["out"]))
    return with_node(
        helper.make_node("If", ["c"], ["y"], then_branch=branch("then", *nodes), else_branch=other)
    )


def with_initializer(tensor: TensorProto) -> ModelProto:
    model = build([], [X], [Y])
    model.graph.initializer.append(tensor)
    return model


def with_sparse_initializer(tensor: TensorProto, indices: bool) -> ModelProto:
    model = build([], [X], [Y])
    sparse = model.graph.sparse_initializer.add()
    (sparse.indices if indices else sparse.values).CopyFrom(tensor)
    return model


def with_attribute(tensor: TensorProto, kind: str) -> ModelProto:
    node = helper.make_node("Constant", [], ["y"])
    attribute = node.attribute.add(name="value")
    if kind == "tensors":
        attribute.tensors.append(tensor)
    elif kind == "sparse_tensor":
        attribute.sparse_tensor.values.CopyFrom(tensor)
    else:
        attribute.sparse_tensors.add().indices.CopyFrom(tensor)
    return with_node(node)


def with_function(tensor: TensorProto, default: bool) -> ModelProto:
    node = helper.make_node("Relu", ["x"], ["out"]) if default else constant(tensor)
    function = helper.make_function("ours", "F", ["x"], ["out"], [node], [helper.make_opsetid("", 20)])
    if default:
        function.attribute_proto.append(helper.make_attribute("value", tensor))
    return build([helper.make_node("F", ["x"], ["y"], domain="ours")], [X], [Y], functions=[function])


def with_training(tensor: TensorProto) -> ModelProto:
    model = build([], [X], [Y])
    model.training_info.add().algorithm.initializer.append(tensor)
    return model


PLACES: dict[str, Callable[[TensorProto], ModelProto]] = {
    "initializer": with_initializer,
    "Constant.value": lambda t: with_node(constant(t)),
    "attribute tensors": lambda t: with_attribute(t, "tensors"),
    "attribute sparse_tensor": lambda t: with_attribute(t, "sparse_tensor"),
    "attribute sparse_tensors": lambda t: with_attribute(t, "sparse_tensors"),
    "sparse_initializer values": lambda t: with_sparse_initializer(t, indices=False),
    "sparse_initializer indices": lambda t: with_sparse_initializer(t, indices=True),
    "function body": lambda t: with_function(t, default=False),
    "function attribute default": lambda t: with_function(t, default=True),
    "If branch": lambda t: with_if(constant(t)),
    "training info": with_training,
}


def tensor(entry: bool = False, location: bool = False) -> TensorProto:
    made = numpy_helper.from_array(np.ones(4, np.float32), "w")
    if entry:
        made.external_data.add(key="location", value="weights.bin")
    if location:
        made.data_location = TensorProto.EXTERNAL
    return made


@pytest.mark.parametrize("place", PLACES)
def test_external_data_is_found_wherever_a_tensor_can_be(place: str) -> None:
    put = PLACES[place]
    assert not scan(put(tensor()).SerializeToString()).external_data
    assert scan(put(tensor(entry=True)).SerializeToString()).external_data
    assert scan(put(tensor(location=True)).SerializeToString()).external_data


def raw_initializer(data: bytes) -> bytes:
    """A model with one initializer of these bytes, which protobuf's own writer would not produce."""
    return write_bytes_field(MODEL_GRAPH, write_bytes_field(GRAPH_INITIALIZER, data))


@pytest.mark.parametrize(
    ("location", "external"),
    [
        (b"\x00", False),  # DEFAULT, said aloud
        (b"\x01", True),
        (b"\x81\x80\x00", True),  # padded
        (write_varint(2**32 + 1), True),  # protobuf keeps the lower 32 bits of an enumeration
        (write_varint(2), False),
    ],
)
def test_the_data_location_is_read_as_protobuf_reads_it(location: bytes, external: bool) -> None:
    assert scan(raw_initializer(b"\x70" + location)).external_data is external


def test_of_two_data_locations_either_counts() -> None:
    assert scan(raw_initializer(b"\x70\x01\x70\x00")).external_data
    assert scan(raw_initializer(b"\x70\x00\x70\x01")).external_data


@pytest.mark.parametrize("field", [13 << 3 | 2, 14 << 3])
def test_external_data_cannot_hide_behind_an_overlong_tag(field: int) -> None:
    """The tag's upper bits are dropped by ONNX Runtime's parser, which then sees the field."""
    value = b"\x01" if field & 7 == 0 else write_bytes_field(1, b"location")
    payload = value if field & 7 == 0 else write_varint(len(value)) + value
    with pytest.raises(WireError):
        scan(raw_initializer(write_varint(field | 1 << 32) + payload))


def test_operators_are_found_in_subgraphs_and_functions() -> None:
    pad = branch("then", helper.make_node("Pad", ["x"], ["out"]))
    inner = helper.make_node("If", ["c"], ["out"], then_branch=pad, else_branch=branch("else"))
    nested, function = (
        scan(model.SerializeToString()) for model in (with_if(inner), with_function(tensor(), default=True))
    )
    assert nested.operators == {"If": 2, "Pad": 1, "Identity": 1}
    assert function.operators == {"F": 1, "Relu": 1}
    assert (nested.outermost, function.outermost) == ({"If"}, {"F"})


def test_types_of_weights_are_found_wherever_a_tensor_can_be() -> None:
    half, single = (helper.make_tensor("t", kind, [1], [1.0]) for kind in (FLOAT16, TensorProto.FLOAT))
    node = helper.make_node("Constant", [], ["k"], value=half)
    model = build([node, helper.make_node("Relu", ["x"], ["y"])], [X], [Y])
    assert scan(model.SerializeToString()).weight_types == {FLOAT16}
    model.graph.initializer.append(single)
    assert scan(model.SerializeToString()).weight_types == {FLOAT16, TensorProto.FLOAT}


def test_an_operator_name_that_is_no_text_is_survived() -> None:
    node = write_bytes_field(GRAPH_NODE, write_bytes_field(4, b"\xff\xfe"))
    assert scan(write_bytes_field(MODEL_GRAPH, node)).operators == {"\ufffd\ufffd": 1}


def test_whether_there_is_a_graph() -> None:
    assert scan(build([], [X], [Y]).SerializeToString()).has_graph
    assert not scan(b"").has_graph
    assert not scan(ModelProto(ir_version=10, producer_name="p").SerializeToString()).has_graph


def nested(depth: int) -> bytes:
    """A graph within an attribute within a node within a graph, `depth` times."""
    data = b""
    for _ in range(depth):
        attribute = write_bytes_field(ATTRIBUTE_GRAPH, data)
        data = write_bytes_field(GRAPH_NODE, write_bytes_field(NODE_ATTRIBUTE, attribute))
    return write_bytes_field(MODEL_GRAPH, data)


def test_reasonable_nesting_is_walked() -> None:
    assert scan(nested(20)).has_graph


@pytest.mark.parametrize("depth", [22, 1000])
def test_a_depth_bomb_is_refused(depth: int) -> None:
    with pytest.raises(WireError, match="deeper"):
        scan(nested(depth))


def test_a_broken_message_inside_is_refused(model: onnx.ModelProto) -> None:
    graph = model.graph.SerializeToString()
    with pytest.raises(WireError):
        scan(write_bytes_field(MODEL_GRAPH, graph[:-1]))


def test_the_scan_agrees_with_onnx_on_a_compiled_model(artifact: Path) -> None:
    model = onnx.load(artifact)
    nodes = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    facts = scan(artifact.read_bytes())
    assert facts.operators == Counter(node.op_type for node in nodes)
    assert {"Conv", "MaxPool", "Gemm"} <= facts.operators.keys()
    assert facts.has_graph
    assert not facts.external_data
