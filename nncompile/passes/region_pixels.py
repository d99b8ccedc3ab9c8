"""What reads all channels of a pixel, or all pixels of a channel, as instructions of the native kernels.

PyTorch normalises and multiplies along the last axis, so convolutional networks move their channels there
and back (ConvNeXt: Liu et al., arXiv:2201.03545). The kernels keep channels innermost in any case: such a
Transpose is no instruction, the linear layer between two is a convolution of 1 x 1, and what enters or leaves
a region with its channels last is copied as it is.

Global response normalisation (ConvNeXt V2: Woo et al., arXiv:2301.00808) divides the norm of each channel's
plane by the mean of all channels' norms.
"""

from __future__ import annotations

from dataclasses import replace

import onnx_ir as ir

from nncompile.passes.region_program import Opcode, Sample, Step, weight_fault
from nncompile.passes.values import (
    constant,
    float_attribute,
    given_input,
    int_attribute,
    ints_attribute,
    static_shape,
    weights,
)

_CHANNELS_TO_LAST, _CHANNELS_TO_FIRST = (0, 2, 3, 1), (0, 3, 1, 2)


def transpose(node: ir.Node, x: Sample) -> Step | str:
    """Channels moved behind the plane, or back in front of it."""
    order = ints_attribute(node, "perm")
    if x.rank != 4 or order != (_CHANNELS_TO_FIRST if x.channels_last else _CHANNELS_TO_LAST):
        return f"it orders axes by {None if order is None else list(order)}"
    return Step(None, replace(x, channels_last=not x.channels_last))


def layer_norm(node: ir.Node, x: Sample) -> Step | str:
    """LayerNormalization over the channels of each pixel."""
    axis = int_attribute(node, "axis", -1)
    if x.rank == 4 and not x.channels_last:
        return "it normalises rows of planes"
    if axis not in (-1, x.rank - 1):
        return f"it normalises from axis {axis} of {x.rank} on"
    scale, shift = node.inputs[1], given_input(node, 2)
    fault = weight_fault(scale, 1) or weight_fault(shift, 1)
    if fault is not None:
        return fault
    if any(weight is not None and static_shape(weight) != x.shape[:1] for weight in (scale, shift)):
        return "its weights do not fit its input"
    if int_attribute(node, "stash_type", 1) != 1:
        return "it does not normalise in float32"
    epsilon = float_attribute(node, "epsilon", 1e-5)
    return Step(Opcode.LAYER_NORM, x, (), (scale, shift), (), (epsilon,))


def linear_of_pixels(node: ir.Node, x: Sample) -> Step | str:
    """MatMul of each pixel's channels and a constant matrix."""
    weight = node.inputs[1]
    if node.op_type != "MatMul" or not x.channels_last:
        return f"its input's rank is {x.rank}"
    fault = weight_fault(weight, 2)
    if fault is not None:
        return fault
    inputs, outputs = weights(weight).shape
    if inputs != x.shape[0]:
        return "its weights do not fit its input"
    return Step(Opcode.LINEAR, replace(x, shape=(outputs, *x.shape[1:])), (), (weight, None), (0,))


def reduction(node: ir.Node, x: Sample) -> Step | str:
    """The norm or mean of each plane or sequence, or the mean of each pixel's channels."""
    axes = constant(given_input(node, 1))
    listed = ints_attribute(node, "axes") if axes is None else axes.reshape(-1).tolist()
    kept = bool(int_attribute(node, "keepdims", 1))
    if x.rank < 3 or listed is None:
        return f"it reduces axes {listed} of {x.rank}"
    reduced = {int(axis) % x.rank for axis in listed}
    channels = {x.channel_axis}
    plane = set(range(1, x.rank)) - channels
    if reduced == plane:
        opcode = Opcode.PLANE_NORM if node.op_type == "ReduceL2" else Opcode.GLOBAL_AVERAGE
        result = replace(x, shape=(x.shape[0], 1, 1))
        return Step(opcode, result if kept else Sample(x.batch, 2, result.shape))
    if reduced == channels and kept and node.op_type == "ReduceMean":
        return Step(Opcode.CHANNEL_MEAN, replace(x, shape=(1, *x.shape[1:])))
    return f"it reduces axes {sorted(reduced)} of {x.rank}"
