"""What an ONNX file asks for, found by walking its bytes: operators, types of weights, data outside the file.

Field numbers are those of onnx.proto3 (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto3).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from nncompile_runtime.wire import LENGTH_DELIMITED, VARINT, WireError, fields, read_varint

# Messages that can hold a tensor or a node, and the fields that lead on to such messages.
_CHILDREN: dict[str, dict[int, str]] = {
    "ModelProto": {7: "GraphProto", 20: "TrainingInfoProto", 25: "FunctionProto"},
    "TrainingInfoProto": {1: "GraphProto", 2: "GraphProto"},
    "FunctionProto": {7: "NodeProto", 11: "AttributeProto"},
    "GraphProto": {1: "NodeProto", 5: "TensorProto", 15: "SparseTensorProto"},
    "NodeProto": {5: "AttributeProto"},
    "AttributeProto": {
        5: "TensorProto",
        6: "GraphProto",
        10: "TensorProto",
        11: "GraphProto",
        22: "SparseTensorProto",
        23: "SparseTensorProto",
    },
    "SparseTensorProto": {1: "TensorProto", 2: "TensorProto"},
    "TensorProto": {},
}
_NODE_OP_TYPE = 4
_TENSOR_DATA_TYPE, FLOAT16, DOUBLE = 2, 10, 11
_TENSOR_EXTERNAL_DATA, _TENSOR_DATA_LOCATION, _LOCATION_EXTERNAL = 13, 14, 1
_ENUM_BITS = 2**32 - 1  # protobuf drops the bits beyond
_MAX_DEPTH = 64


@dataclass(frozen=True)
class GraphFacts:
    """What a model file asks for.

    Attributes:
        has_graph: Whether the file holds a graph at all.
        external_data: Whether any tensor keeps its data outside the file.
        operators: How often each operator is used, subgraphs and functions included.
        outermost: Those of the graph itself, which is run where functions have kernels of their own.
        weight_types: The numbers of `TensorProto.DataType` of weights and constants.
    """

    has_graph: bool
    external_data: bool
    operators: Mapping[str, int]
    outermost: frozenset[str]
    weight_types: frozenset[int]


def scan(data: bytes) -> GraphFacts:
    """Walk a serialised ONNX ModelProto.

    Raises:
        WireError: The bytes are not a well-formed message, or nest deeper than 64 messages.
    """
    has_graph = external = False
    operators: Counter[str] = Counter()
    outermost: set[str] = set()
    types: set[int] = set()
    pending = [("ModelProto", 0, len(data), 0, False)]
    while pending:
        message, start, end, depth, outer = pending.pop()
        if depth > _MAX_DEPTH:
            raise WireError(f"messages nested deeper than {_MAX_DEPTH}")
        children = _CHILDREN[message]
        for field in fields(data, start, end):
            child = children.get(field.number)
            if child is not None and field.wire_type == LENGTH_DELIMITED:
                graph = message == "ModelProto" and child == "GraphProto"
                has_graph = has_graph or graph
                node = outer and child == "NodeProto"
                pending.append((child, field.value_start, field.end, depth + 1, graph or node))
            elif message == "NodeProto" and field.number == _NODE_OP_TYPE:
                operator = data[field.value_start : field.end].decode("utf-8", "replace")
                operators[operator] += 1
                if outer:
                    outermost.add(operator)
            elif message == "TensorProto":
                if field.number == _TENSOR_EXTERNAL_DATA:
                    external = True
                elif field.number == _TENSOR_DATA_TYPE and field.wire_type == VARINT:
                    types.add(read_varint(data, field.value_start, field.end)[0] & _ENUM_BITS)
                elif field.number == _TENSOR_DATA_LOCATION and field.wire_type == VARINT:
                    location, _ = read_varint(data, field.value_start, field.end)
                    external = external or location & _ENUM_BITS == _LOCATION_EXTERNAL
    return GraphFacts(has_graph, external, operators, frozenset(outermost), frozenset(types))
