"""What picks, scales or shifts channels, as instructions of the native kernels.

A batch norm that no layer took, or arithmetic with a constant for each channel, is a depthwise convolution of
1 x 1: y[c] = scale[c] x[c] + shift[c] (`affine.py`). Its weights are no values of the graph yet; the region
that takes the instruction gives them a place there.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir

from nncompile.passes import affine
from nncompile.passes.region_program import Opcode, Sample, Step, made_weight
from nncompile.passes.values import Array, constant, given_input, int_attribute, weights

_ARITHMETIC = frozenset({"Add", "Sub", "Mul", "Div"})
MOST_CHANNELS = 2**13  # of a selection: the kernels read an instruction of at most 2^14 numbers


def is_channel_map(node: ir.Node) -> bool:
    """Whether a node is a batch norm, or arithmetic of a tensor and a constant."""
    if node.op_type == "BatchNormalization":
        return True
    constants = [constant(value) is not None for value in node.inputs]
    return node.op_type in _ARITHMETIC and len(constants) == 2 and constants[0] != constants[1]


def tensors(node: ir.Node) -> list[ir.Value]:
    """What a channel map reads beside its constants."""
    read = node.inputs[:1] if node.op_type == "BatchNormalization" else node.inputs
    return [value for value in read if value is not None and constant(value) is None]


def channel_map(node: ir.Node, x: Sample) -> Step | str:
    """A scale and shift of each channel, as a depthwise convolution of 1 x 1."""
    found = _batch_norm(node) if node.op_type == "BatchNormalization" else _arithmetic(node, x)
    if isinstance(found, str):
        return found
    channels = x.shape[0]
    if any(part.shape != (channels,) for part in found):
        return "its constant is not one number for each channel"
    with np.errstate(over="ignore"):
        scale, shift = (part.astype(np.float32) for part in found)
    if not (np.isfinite(scale).all() and np.isfinite(shift).all()):
        return "its scale or shift is not finite"
    name = node.name or node.op_type
    made = (
        made_weight(f"{name}_scale", scale.reshape(channels, 1, 1, 1)),
        made_weight(f"{name}_shift", shift),
    )
    return Step(Opcode.CONV, x, (), made, (1, 1, 1, 1, 1, 1, 0, 0, 0, 0, channels))


def _batch_norm(norm: ir.Node) -> tuple[Array, Array] | str:
    return affine.batch_norm_fault(norm) or affine.batch_norm(norm)


def _arithmetic(node: ir.Node, x: Sample) -> tuple[Array, Array] | str:
    first = constant(node.inputs[0]) is not None
    if first and node.op_type == "Div":
        return "it divides a constant"
    k = weights(node.inputs[0 if first else 1])
    sizes, axis = (1,) * (x.rank - k.ndim) + k.shape, x.channel_axis
    one = all(size == 1 for i, size in enumerate(sizes) if i != axis)
    if k.dtype != np.float32 or len(sizes) != x.rank or not one or sizes[axis] not in (1, x.shape[0]):
        return f"its constant is {k.dtype} of shape {list(k.shape)}"
    each = np.broadcast_to(k.astype(np.float64).reshape(-1), x.shape[:1])
    return affine.arithmetic(node.op_type, each, constant_first=first)


def slice_of_channels(node: ir.Node, x: Sample) -> Step | str:
    """Slice along the channels."""
    starts, ends, axes, steps = (constant(given_input(node, i)) for i in range(1, 5))
    if starts is None or ends is None or starts.size != 1:
        return "it does not slice the channels alone"
    axis = 0 if axes is None else int(axes[0])
    if not x.is_channel_axis(axis):
        return f"it slices axis {axis}"
    step = 1 if steps is None else int(steps[0])
    if step < 1:
        return f"it slices in steps of {step}"
    return _select(x, list(range(x.shape[0])[int(starts[0]) : int(ends[0]) : step]))


def gather(node: ir.Node, x: Sample) -> Step | str:
    """Gather of channels by constant indices."""
    axis, indices = int_attribute(node, "axis", 0), weights(node.inputs[1])
    if not x.is_channel_axis(axis) or indices.ndim != 1:
        return f"it gathers along axis {axis} by indices of rank {indices.ndim}"
    channels = x.shape[0]
    if not all(-channels <= index < channels for index in indices.tolist()):
        return "an index lies outside its channels"
    return _select(x, [index % channels for index in indices.tolist()])


def _select(x: Sample, channels: list[int]) -> Step | str:
    if not 0 < len(channels) <= MOST_CHANNELS:
        return f"it takes {len(channels)} channels"
    result = replace(x, shape=(len(channels), *x.shape[1:]))
    return Step(Opcode.SELECT, result, (), (), (len(channels), *channels))
