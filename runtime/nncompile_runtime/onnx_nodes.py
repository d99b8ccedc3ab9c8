"""The nodes of an ONNX file, with their bodies and functions, read from its bytes; no weights.

Field numbers are those of onnx.proto3 (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto3).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from nncompile_runtime.wire import LENGTH_DELIMITED, VARINT, Field, WireError, fields, read_varint

_INTEGERS = (6, 7)  # int32, int64
_MOST_DEPTH = 64


@dataclass
class Graph:
    """A graph, the body of a node, or a function.

    Attributes:
        inputs: Names, in order.
        sizes: Those of them that are integers of rank 0 or 1.
        outputs: Names, in order.
        constants: Names of the initializers.
        nodes: In order.
    """

    inputs: list[str] = field(default_factory=list)
    sizes: set[str] = field(default_factory=set)
    outputs: list[str] = field(default_factory=list)
    constants: list[str] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)


@dataclass
class Node:
    """A node.

    Attributes:
        operator: Its type.
        name: May be empty.
        domain: Empty for ONNX's own.
        overload: Of a function.
        read: Names of its inputs; empty where one is left out.
        written: Of its outputs, likewise.
        bodies: The graphs among its attributes.
        integers: Its attributes that are one integer.
    """

    operator: str = ""
    name: str = ""
    domain: str = ""
    overload: str = ""
    read: list[str] = field(default_factory=list)
    written: list[str] = field(default_factory=list)
    bodies: list[Graph] = field(default_factory=list)
    integers: dict[str, int] = field(default_factory=dict)


Function = tuple[str, str, str]  # domain, name, overload


def nodes_of(data: bytes) -> tuple[Graph, dict[Function, Graph]]:
    """The graph of a serialised ONNX ModelProto, and its functions.

    Raises:
        WireError: The bytes are not a well-formed message, or nest deeper than 64 bodies.
    """
    graph, functions = Graph(), {}
    for part in fields(data, 0, len(data)):
        if part.number == 7:
            graph = _graph(data, part, 0)
        elif part.number == 25:
            function = _function(data, part)
            functions[function[0]] = function[1]
    return graph, functions


def _graph(data: bytes, message: Field, depth: int) -> Graph:
    if depth > _MOST_DEPTH:
        raise WireError(f"graphs nested deeper than {_MOST_DEPTH}")
    found = Graph()
    for part in _within(data, message):
        if part.number == 1:
            found.nodes.append(_node(data, part, depth))
        elif part.number == 5:
            found.constants += [_text(data, f) for f in _within(data, part) if f.number == 8]
        elif part.number == 11:
            name, is_sizes = _port(data, part)
            found.inputs.append(name)
            found.sizes |= {name} if is_sizes else set()
        elif part.number == 12:
            found.outputs.append(_port(data, part)[0])
    return found


def _function(data: bytes, message: Field) -> tuple[Function, Graph]:
    found, texts = Graph(), {1: "", 10: "", 13: ""}
    for part in _within(data, message):
        if part.number in texts:
            texts[part.number] = _text(data, part)
        elif part.number in (4, 5):
            (found.inputs if part.number == 4 else found.outputs).append(_text(data, part))
        elif part.number == 7:
            found.nodes.append(_node(data, part, 0))
    return (texts[10], texts[1], texts[13]), found


def _node(data: bytes, message: Field, depth: int) -> Node:
    found = Node()
    texts = {3: "name", 4: "operator", 7: "domain", 8: "overload"}
    for part in _within(data, message):
        if part.number in texts:
            setattr(found, texts[part.number], _text(data, part))
        elif part.number in (1, 2):
            (found.read if part.number == 1 else found.written).append(_text(data, part))
        elif part.number == 5:
            _take_attribute(data, part, depth, found)
    return found


def _take_attribute(data: bytes, message: Field, depth: int, node: Node) -> None:
    parts = list(_within(data, message))
    name = "".join(_text(data, part) for part in parts if part.number == 1)
    for part in parts:
        if part.number in (6, 11) and part.wire_type == LENGTH_DELIMITED:
            node.bodies.append(_graph(data, part, depth + 1))
        elif part.number == 3 and part.wire_type == VARINT:
            node.integers[name] = read_varint(data, part.value_start, part.end)[0]


def _port(data: bytes, message: Field) -> tuple[str, bool]:
    """The name of an input or output, and whether it is integers of rank 0 or 1."""
    name, is_sizes = "", False
    for part in _within(data, message):
        if part.number == 1:
            name = _text(data, part)
        elif part.number == 2:
            is_sizes = any(_is_sizes(data, tensor) for tensor in _within(data, part) if tensor.number == 1)
    return name, is_sizes


def _is_sizes(data: bytes, tensor: Field) -> bool:
    kind, rank = 0, None
    for part in _within(data, tensor):
        if part.number == 1:
            kind, _ = read_varint(data, part.value_start, part.end)
        elif part.number == 2:
            rank = sum(1 for dim in _within(data, part) if dim.number == 1)
    return kind in _INTEGERS and rank is not None and rank <= 1


def _within(data: bytes, message: Field) -> Iterator[Field]:
    return fields(data, message.value_start, message.end)


def _text(data: bytes, part: Field) -> str:
    return data[part.value_start : part.end].decode("utf-8", "replace")
