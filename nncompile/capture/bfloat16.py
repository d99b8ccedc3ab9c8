"""bfloat16 computed as float32: ONNX Runtime's CPU has no bfloat16 kernel for Gemm, Conv and most others.

Every bfloat16 number is a float32 number, so weights and constants keep their values. What is computed is
not rounded to bfloat16 on the way, which brings it nearer to the module in float64 than PyTorch is; what
`forward` casts from another dtype is rounded, for that is its meaning, and then widened again. The
signature still says bfloat16: the runtime hands out tensors of that dtype.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
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
