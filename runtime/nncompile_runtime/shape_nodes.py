"""Which nodes of an ONNX file compute shapes, found by tracing what they read through the file's bytes.

Field numbers are those of onnx.proto3 (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto3).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

from nncompile_runtime.wire import LENGTH_DELIMITED, Field, fields, read_varint

_GRAPH_OF_MODEL = 7
_NODE, _INITIALIZER, _INPUT = 1, 5, 11
_READ, _WRITTEN, _NAME, _OPERATOR, _ATTRIBUTE = 1, 2, 3, 4, 5
_GRAPHS_OF_ATTRIBUTE = (6, 11)
_TENSOR_NAME = 8
_INTEGERS = (6, 7)  # int32, int64

Key = tuple[str, str]


class _Origin(IntEnum):
    """What a value is made from; of several inputs the highest counts."""

    CONSTANT = 0
    SIZES = 1  # integers of rank 0 or 1 that the caller gives: a shape where they meet one, or else data
    SHAPE = 2
    DATA = 3


@dataclass(frozen=True)
class ShapeNodes:
    """How many nodes of an operator and a name there are; names may be empty or repeated.

    Attributes:
        known: Of any kind, (operator, name) -> how many; those of functions are not counted.
        shapes: Those that compute shapes or constants, or that lie in a subgraph, where nothing is traced.
    """

    known: Counter[Key]
    shapes: Counter[Key]


def shape_nodes(data: bytes) -> ShapeNodes:
    """Trace the values of a serialised ONNX ModelProto, whose nodes are in order.

    Raises:
        WireError: The bytes are not a well-formed message.
    """
    found = ShapeNodes(Counter(), Counter())
    for field in fields(data, 0, len(data)):
        if field.number == _GRAPH_OF_MODEL:
            _trace(data, field, found)
    return found


def _trace(data: bytes, graph: Field, found: ShapeNodes) -> None:
    parts = list(_within(data, graph))
    origins = dict(_given(data, part) for part in parts if part.number == _INPUT)
    for part in parts:
        if part.number == _INITIALIZER:
            origins.update(
                (_text(data, f), _Origin.CONSTANT) for f in _within(data, part) if f.number == _TENSOR_NAME
            )
    for part in parts:
        if part.number != _NODE:
            continue
        key, read, written, holds_graphs = _node(data, part, found)
        origin = max((origins.get(name, _Origin.CONSTANT) for name in read), default=_Origin.CONSTANT)
        found.known[key] += 1
        if key[0] in ("Shape", "Size", "SequenceLength"):
            origin = _Origin.SHAPE
        elif holds_graphs and origin is not _Origin.DATA:
            origin = _Origin.SHAPE  # its branches may compute one
        if origin in (_Origin.CONSTANT, _Origin.SHAPE):
            found.shapes[key] += 1
        origins.update(dict.fromkeys(written, origin))


def _node(data: bytes, node: Field, found: ShapeNodes) -> tuple[Key, list[str], list[str], bool]:
    """Operator and name, the values read and written, and whether there are subgraphs, which are counted."""
    texts: dict[int, list[str]] = {_READ: [], _WRITTEN: [], _NAME: [], _OPERATOR: []}
    holds_graphs = False
    for field in _within(data, node):
        if field.number in texts:
            texts[field.number].append(_text(data, field))
        elif field.number == _ATTRIBUTE:
            for graph in _within(data, field):
                if graph.number in _GRAPHS_OF_ATTRIBUTE and graph.wire_type == LENGTH_DELIMITED:
                    holds_graphs = True
                    _count(data, graph, found)
    key = "".join(texts[_OPERATOR][-1:]), "".join(texts[_NAME][-1:])
    return key, texts[_READ], texts[_WRITTEN], holds_graphs


def _count(data: bytes, graph: Field, found: ShapeNodes) -> None:
    for part in _within(data, graph):
        if part.number == _NODE:
            key = _node(data, part, found)[0]
            found.known[key] += 1
            found.shapes[key] += 1


def _given(data: bytes, port: Field) -> tuple[str, _Origin]:
    """The name of a graph's input, and what it is."""
    name, origin = "", _Origin.DATA
    for field in _within(data, port):
        if field.number == 1:
            name = _text(data, field)
        elif field.number == 2:
            for tensor in _within(data, field):
                if tensor.number == 1 and _is_sizes(data, tensor):
                    origin = _Origin.SIZES
    return name, origin


def _is_sizes(data: bytes, tensor: Field) -> bool:
    kind, rank = 0, None
    for field in _within(data, tensor):
        if field.number == 1:
            kind, _ = read_varint(data, field.value_start, field.end)
        elif field.number == 2:
            rank = sum(1 for dim in _within(data, field) if dim.number == 1)
    return kind in _INTEGERS and rank is not None and rank <= 1


def _within(data: bytes, message: Field) -> Iterator[Field]:
    return fields(data, message.value_start, message.end)


def _text(data: bytes, field: Field) -> str:
    return data[field.value_start : field.end].decode("utf-8", "replace")
