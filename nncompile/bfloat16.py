"""bfloat16 on a CPU: ONNX Runtime's has no kernel of it for Gemm, Conv and most others.

Every bfloat16 number is a float32 number, so weights and constants keep their values. `widen` makes a
captured graph float32. What is computed is then not rounded to bfloat16 on the way, which brings it nearer
to the module in float64 than PyTorch is; what `forward` casts from another dtype is rounded, for that is its
meaning, and then widened again. The signature still says bfloat16: the runtime hands out tensors of that
dtype.

`emulated` is for files that compute in bfloat16 on a GPU (passes/compute_in_bfloat16.py): on the CPU the
results are rounded as they are there, after a sum in float32.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
import onnx_ir as ir

_DTYPE_ATTRIBUTES = ("to", "dtype", "output_dtype")  # of Cast, EyeLike and DequantizeLinear, say


def widen(graph: ir.Graph) -> None:
    """Make every bfloat16 value, weight, constant and cast of a graph and its subgraphs float32."""
    narrowing = [node for node in graph.all_nodes() if _narrows(node)]
    for part in (graph, *graph.subgraphs()):
        for weight in part.initializers.values():
            if weight.const_value is not None:
                weight.const_value = _widened(weight.const_value)
        for value in _values(part):
            if value.dtype is ir.DataType.BFLOAT16:
                value.dtype = ir.DataType.FLOAT
    for node in graph.all_nodes():
        for name, attribute in list(node.attributes.items()):
            if attribute.type is ir.AttributeType.TENSOR:
                node.attributes[name] = ir.AttrTensor(name, _widened(attribute.as_tensor()))
            elif (
                attribute.type is ir.AttributeType.INT
                and name in _DTYPE_ATTRIBUTES
                and attribute.as_int() == ir.DataType.BFLOAT16
            ):
                node.attributes[name] = ir.AttrInt64(name, ir.DataType.FLOAT)

    for node in narrowing:
        _round_first(node)


def emulated(model: bytes) -> bytes:
    """A model that answers on the CPU as one of bfloat16 does on a GPU, but for the order of sums."""
    graph = ir.from_proto(onnx.load_from_string(model))
    computed = [value for node in graph.graph.all_nodes() if node.op_type != "Cast" for value in node.outputs]
    results = [value for value in computed if value.dtype is ir.DataType.BFLOAT16]
    if not results:
        return model
    graph.metadata_props.clear()  # the digest would no longer be right
    widen(graph.graph)
    for value in results:
        _round(value)
    plain: bytes = ir.to_proto(graph).SerializeToString()
    return plain


def _round(value: ir.Value) -> None:
    """Let those that read a float32 value read it rounded to bfloat16."""
    producer, readers = value.producer(), list(value.uses())
    rounded = ir.node("Cast", [value], {"to": ir.DataType.BFLOAT16})
    widened = ir.node("Cast", rounded.outputs, {"to": ir.DataType.FLOAT})
    rounded.outputs[0].dtype, widened.outputs[0].dtype = ir.DataType.BFLOAT16, ir.DataType.FLOAT
    assert producer is not None  # noqa: S101 - results have one
    assert producer.graph is not None  # noqa: S101
    producer.graph.insert_after(producer, [rounded, widened])
    for user, index in readers:
        user.replace_input_with(index, widened.outputs[0])


def _narrows(node: ir.Node) -> bool:
    source = node.inputs[0].dtype if node.op_type == "Cast" and node.inputs[0] is not None else None
    return source not in (None, ir.DataType.BFLOAT16) and (
        node.attributes["to"].as_int() == ir.DataType.BFLOAT16
    )


def _round_first(node: ir.Node) -> None:
    """Put a cast to bfloat16, which ONNX Runtime has, in front of one to float32."""
    rounded = ir.node("Cast", [node.inputs[0]], {"to": ir.DataType.BFLOAT16})
    rounded.outputs[0].dtype, rounded.outputs[0].shape = ir.DataType.BFLOAT16, node.outputs[0].shape
    rounded.metadata_props.update(node.metadata_props)
    assert node.graph is not None  # noqa: S101 - it was found in one
    node.graph.insert_before(node, rounded)
    node.replace_input_with(0, rounded.outputs[0])


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.inputs
    yield from graph.initializers.values()
    for node in graph:
        yield from node.outputs


def _widened(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    if tensor.dtype is not ir.DataType.BFLOAT16:
        return tensor
    return ir.Tensor(tensor.numpy().astype(np.float32), name=tensor.name)
