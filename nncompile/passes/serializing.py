"""A graph as the bytes of an ONNX file, large weights copied once.

Protobuf copies a weight into a message, then into a buffer that doubles as it grows, then out of it:
for a network of hundreds of megabytes that took longer than all passes. Here it writes the graph with
the large weights left empty, and they are put in place as the bytes are joined. The result is, byte for
byte, what protobuf would write. Encoding: https://protobuf.dev/programming-guides/encoding/.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import onnx_ir as ir

from nncompile_runtime.wire import LENGTH_DELIMITED, Field, fields, write_varint

_LARGE = 2**20  # bytes; below, a copy costs less than looking
_PLAIN = frozenset({ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.INT64})
_MODEL_GRAPH, _GRAPH_INITIALIZER, _TENSOR_NAME, _TENSOR_RAW_DATA = 7, 5, 8, 9  # onnx.proto3

Bytes = bytes | memoryview


def serialize(model: ir.Model, limit: int) -> bytes | None:
    """The model as a ModelProto.

    Args:
        model: Left as it is.
        limit: The most bytes that there may be.

    Returns:
        The bytes; None where there would be more.

    Raises:
        ValueError: It is beyond what protobuf itself writes.
    """
    with _emptied(model.graph) as weights:
        frame: bytes = ir.to_proto(model).SerializeToString(deterministic=True)
    parts = [*_model(memoryview(frame), frame, weights)]
    return b"".join(parts) if sum(map(len, parts)) <= limit else None


@contextmanager
def _emptied(graph: ir.Graph) -> Iterator[dict[str, memoryview]]:
    """The large weights' bytes by name; meanwhile they have none in the graph."""
    large = {
        name: value.const_value
        for name, value in graph.initializers.items()
        if value.const_value is not None
        and value.const_value.dtype in _PLAIN
        and value.const_value.nbytes >= _LARGE
        and not isinstance(value.const_value, (ir.ExternalTensor, ir.TensorProtoTensor))
        and sys.byteorder == "little"
    }
    weights = {}
    try:
        for name, tensor in large.items():
            array = np.ascontiguousarray(tensor.numpy())
            weights[name] = array.reshape(-1).view(np.uint8).data
            graph.initializers[name].const_value = ir.Tensor(
                np.empty(0, array.dtype),
                dtype=tensor.dtype,
                shape=tensor.shape,  # type: ignore[arg-type]  # a protocol's own shape
                name=tensor.name,
                doc_string=tensor.doc_string,
                metadata_props=dict(tensor.metadata_props),
            )
        yield weights
    finally:
        for name, tensor in large.items():
            graph.initializers[name].const_value = tensor


def _model(view: memoryview, data: bytes, weights: Mapping[str, memoryview]) -> Iterator[Bytes]:
    for field in fields(data, 0, len(data)):
        if field.number == _MODEL_GRAPH:
            yield from _resized(field, [*_graph(view, data, field, weights)])
        else:
            yield view[field.start : field.end]


def _graph(view: memoryview, data: bytes, graph: Field, weights: Mapping[str, memoryview]) -> Iterator[Bytes]:
    for field in fields(data, graph.value_start, graph.end):
        weight = weights.get(_name(data, field)) if field.number == _GRAPH_INITIALIZER else None
        if weight is None:
            yield view[field.start : field.end]
        else:
            yield from _resized(field, [*_tensor(view, data, field, weight)])


def _tensor(view: memoryview, data: bytes, tensor: Field, weight: memoryview) -> Iterator[Bytes]:
    for field in fields(data, tensor.value_start, tensor.end):
        if field.number == _TENSOR_RAW_DATA:
            yield from _resized(field, [weight])
        else:
            yield view[field.start : field.end]


def _name(data: bytes, tensor: Field) -> str:
    names = (f for f in fields(data, tensor.value_start, tensor.end) if f.number == _TENSOR_NAME)
    return next((data[f.value_start : f.end].decode() for f in names), "")


def _resized(field: Field, parts: list[Bytes]) -> Iterator[Bytes]:
    """The field with another value."""
    yield write_varint(field.number << 3 | LENGTH_DELIMITED)
    yield write_varint(sum(len(part) for part in parts))
    yield from parts
