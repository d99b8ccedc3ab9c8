"""Each node that the native kernels can compute as one instruction; for the others, the reason why not.

An encoder knows one operator. What it refuses stays with ONNX Runtime, so a doubt is a refusal.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

import onnx_ir as ir

from nncompile.passes.region_arithmetic import power, product, quotient, total
from nncompile.passes.region_channels import channel_map, gather, is_channel_map, slice_of_channels, tensors
from nncompile.passes.region_pixels import layer_norm, linear_of_pixels, reduction, transpose
from nncompile.passes.region_planes import place, resize, spread
from nncompile.passes.region_program import (
    Kind,
    Opcode,
    Sample,
    Step,
    sample_of,
    size_fault,
    weight_fault,
)
from nncompile.passes.values import (
    constant,
    float_attribute,
    given_input,
    int_attribute,
    static_shape,
    string_attribute,
)

Encoder = Callable[..., Step | str]

_LEAST_OF_GROUP = 4  # channels that each makes of a transposed convolution: fewer leave the vectors idle
_OF_ALL_INPUTS = frozenset({"Add", "Concat", "Div", "Mul", "Sub"})


def encode(node: ir.Node, known: Mapping[ir.Value, Sample]) -> Step | str:
    """The instruction of a node, or why it has none.

    Args:
        node: A node of the outermost graph.
        known: The results of the nodes that have an instruction; other values are read off their shapes.
    """
    encoder = channel_map if is_channel_map(node) else _ENCODERS.get(node.op_type)
    if encoder is None or node.domain not in ("", "ai.onnx"):
        return f"the kernels have no {node.op_type}"
    if any(value.uses() or value.is_graph_output() for value in node.outputs[1:]):
        return "its second output is used"
    read = node.inputs if node.op_type in _OF_ALL_INPUTS else node.inputs[:1]
    values = tuple(tensors(node) if encoder is channel_map else filter(None, read))
    samples = []
    for value in values:
        sample = known.get(value) or sample_of(value)
        if isinstance(sample, str):
            return sample
        if sample.channels_last and node.op_type not in _IN_EITHER_LAYOUT:
            return "its input has the channels last" if sample.rank == 4 else "its input's rank is 3"
        samples.append(sample)
    others = node.inputs[len(read) :]  # by place: x @ x has one value in both
    if encoder is channel_map:
        others = [value for value in node.inputs if value not in values]
    if any(value is not None and constant(value) is None for value in others):
        return "a weight is not constant"
    step = encoder(node, *samples)
    if isinstance(step, str):
        return step
    recorded, sizes = static_shape(node.outputs[0]), step.result.dimensions[1:]
    if recorded is not None and recorded[1:] != sizes:
        return f"its recorded shape ends in {list(recorded[1:])}, not in {list(sizes)}"
    return size_fault(step.result) or (step if step.values else replace(step, values=values))


def activation(kind: Kind, x: Sample, *constants: float) -> Step:
    """The instruction of an activation, which keeps the shape of its input."""
    return Step(Opcode.ACTIVATION, x, numbers=(kind,), constants=(*constants, None, None)[:2])


def _conv(node: ir.Node, x: Sample) -> Step | str:
    weight, bias = node.inputs[1], given_input(node, 2)
    placed = weight_fault(weight, 4) or weight_fault(bias, 1) or place(node, x)
    if isinstance(placed, str):
        return placed
    view, shape, channels = placed.view, constant(weight).shape, x.shape[0]  # type: ignore[union-attr]
    groups = int_attribute(node, "group", 1)
    if (
        shape[1] * groups != channels
        or shape[0] % groups
        or shape[2:] != view.kernel
        or not _fits(bias, shape[0])
    ):
        return "its weights do not fit its input"
    numbers = (*view.kernel, *view.strides, *view.dilations, *placed.pads, groups)
    return Step(Opcode.CONV, replace(x, shape=(shape[0], *placed.plane)), (), (weight, bias), numbers)


def _conv_transpose(node: ir.Node, x: Sample) -> Step | str:
    weight, bias = node.inputs[1], given_input(node, 2)
    placed = weight_fault(weight, 4) or weight_fault(bias, 1) or spread(node, x)
    if isinstance(placed, str):
        return placed
    view, shape, channels = placed.view, constant(weight).shape, x.shape[0]  # type: ignore[union-attr]
    groups = int_attribute(node, "group", 1)
    outputs = shape[1] * groups
    if groups > 1 and shape[1] < _LEAST_OF_GROUP and shape[:2] != (groups, 1):
        return f"each of its {groups} groups makes only {shape[1]} of its channels"
    if shape[0] != channels or channels % groups or shape[2:] != view.kernel or not _fits(bias, outputs):
        return "its weights do not fit its input"
    numbers = (*view.kernel, *view.strides, *view.dilations, *placed.pads[:2], *placed.plane, groups)
    return Step(
        Opcode.CONV_TRANSPOSE, replace(x, shape=(outputs, *placed.plane)), (), (weight, bias), numbers
    )


def _fits(bias: ir.Value | None, outputs: int) -> bool:
    return bias is None or static_shape(bias) == (outputs,)


def _pool(node: ir.Node, x: Sample) -> Step | str:
    placed = place(node, x)
    if isinstance(placed, str):
        return placed
    if placed.view.dilated:
        return f"it is dilated by {list(placed.view.dilations)}"
    kernel, (top, left, bottom, right) = placed.view.kernel, placed.pads
    if max(top, bottom) >= kernel[0] or max(left, right) >= kernel[1]:
        return "it pads by its kernel or more"
    numbers = (*kernel, *placed.view.strides, *placed.pads, int(placed.ceil))
    result = replace(x, shape=(x.shape[0], *placed.plane))
    if node.op_type == "MaxPool":
        return Step(Opcode.MAX_POOL, result, numbers=numbers)
    include = int_attribute(node, "count_include_pad", 0)
    if include and placed.ceil:
        return "its average counts what rounding up adds to the plane"
    return Step(Opcode.AVERAGE_POOL, result, numbers=(*numbers, int(bool(include))))


def _global_average(node: ir.Node, x: Sample) -> Step | str:
    del node
    if x.rank != 4:
        return f"its input's rank is {x.rank}"
    return Step(Opcode.GLOBAL_AVERAGE, replace(x, shape=(x.shape[0], 1, 1)))


def _linear(node: ir.Node, x: Sample) -> Step | str:
    weight, bias = node.inputs[1], given_input(node, 2)
    if x.rank != 2:
        return linear_of_pixels(node, x)
    if int_attribute(node, "transA", 0):
        return "it transposes its input"
    if float_attribute(node, "alpha", 1.0) != 1 or (bias and float_attribute(node, "beta", 1.0) != 1):
        return "its alpha or beta is not 1"
    fault = weight_fault(weight, 2) or weight_fault(bias, 1)
    if fault is not None:
        return fault
    transposed = bool(int_attribute(node, "transB", 0))
    shape = constant(weight).shape  # type: ignore[union-attr]
    inputs, outputs = reversed(shape) if transposed else shape
    if inputs != x.shape[0] or not _fits(bias, outputs):
        return "its weights do not fit its input"
    return Step(Opcode.LINEAR, replace(x, shape=(outputs, 1, 1)), (), (weight, bias), (int(transposed),))


def _activation(kind: Kind, *parameters: tuple[str, float]) -> Encoder:
    """The encoder of an activation whose constants are attributes with defaults."""
    return lambda node, x: activation(
        kind, x, *(float_attribute(node, *parameter) for parameter in parameters)
    )


def _clip(node: ir.Node, x: Sample) -> Step | str:
    bounds = [-math.inf, math.inf]
    for i in (0, 1):
        bound = constant(given_input(node, 1 + i))
        if bound is not None:
            bounds[i] = float(bound.reshape(()))
    if not bounds[0] <= bounds[1]:
        return f"its bounds are {bounds}"
    return activation(Kind.CLIP, x, *bounds)


def _gelu(node: ir.Node, x: Sample) -> Step | str:
    approximation = string_attribute(node, "approximate", "none")
    if approximation != "none":
        return f"it is approximated by {approximation}"
    return activation(Kind.GELU, x)


def _softmax(opcode: Opcode) -> Encoder:
    def encoder(node: ir.Node, x: Sample) -> Step | str:
        axis = int_attribute(node, "axis", -1)
        if x.rank != 2 or axis not in (-1, 1):
            return f"it is over axis {axis} of a tensor of rank {x.rank}"
        return Step(opcode, x)

    return encoder


def _concat(node: ir.Node, *parts: Sample) -> Step | str:
    first, axis = parts[0], int_attribute(node, "axis", 0)
    if not first.is_channel_axis(axis):
        return f"it joins along axis {axis}"
    for part in parts:
        if not part.goes_with(first) or part.shape[1:] != first.shape[1:]:
            return f"it joins tensors of shape {list(first.dimensions)} and {list(part.dimensions)}"
    return Step(Opcode.CONCAT, replace(first, shape=(sum(p.shape[0] for p in parts), *first.shape[1:])))


def _flatten(node: ir.Node, x: Sample) -> Step | str:
    """Flatten, Reshape, Squeeze or Unsqueeze whose rows are the samples of its input.

    All four keep the elements and their order; where a row of the result has as many elements as a sample,
    there are as many rows as samples. A Squeeze that names no axes would take a batch of 1 with them.
    """
    named = given_input(node, 1) is not None or "axes" in node.attributes
    if node.op_type == "Squeeze" and not named and not isinstance(x.batch, int):
        return "it names no axes, and the batch may be 1"
    sizes, elements = static_shape(node.outputs[0]), math.prod(x.shape)
    if sizes is None or sizes[1:] not in ((elements,), (elements, 1, 1)):
        return f"it makes other rows than one of {elements} elements for each sample"
    return Step(Opcode.FLATTEN, Sample(x.batch, len(sizes), (elements, 1, 1)))


_ACTIVATIONS: Mapping[str, Encoder] = {
    "Relu": _activation(Kind.RELU),
    "Clip": _clip,
    "LeakyRelu": _activation(Kind.LEAKY_RELU, ("alpha", 0.01)),
    "HardSwish": _activation(Kind.HARD_SWISH),
    "Sigmoid": _activation(Kind.SIGMOID),
    "Tanh": _activation(Kind.TANH),
    "Gelu": _gelu,
    "HardSigmoid": _activation(Kind.HARD_SIGMOID, ("alpha", 0.2), ("beta", 0.5)),
}
_ENCODERS: Mapping[str, Encoder] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "MaxPool": _pool,
    "AveragePool": _pool,
    "GlobalAveragePool": _global_average,
    "Gemm": _linear,
    "MatMul": _linear,
    **_ACTIVATIONS,
    "LayerNormalization": layer_norm,
    "Transpose": transpose,
    "Softmax": _softmax(Opcode.SOFTMAX),
    "LogSoftmax": _softmax(Opcode.LOG_SOFTMAX),
    "Add": total,
    "Sub": total,
    "Mul": product,
    "Div": quotient,
    "Pow": power,
    "ReduceL2": reduction,
    "ReduceMean": reduction,
    "Concat": _concat,
    "Resize": resize,
    "Slice": slice_of_channels,
    "Gather": gather,
    "Flatten": _flatten,
    "Reshape": _flatten,
    "Squeeze": _flatten,
    "Unsqueeze": _flatten,
}
_IN_EITHER_LAYOUT = frozenset(_ACTIVATIONS) | {
    "Add",
    "Concat",
    "Div",
    "Gather",
    "LayerNormalization",
    "MatMul",
    "Mul",
    "Pow",
    "ReduceL2",
    "ReduceMean",
    "Slice",
    "Sub",
    "Transpose",
}
