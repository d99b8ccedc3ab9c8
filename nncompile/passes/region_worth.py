"""Whether a region saves more than its borders cost.

The kernels keep channels innermost: what enters and leaves a region is transposed, element by element. What
they save is the way through memory of the values between two layers, which stay in cache, most
multiplications of a convolution that Winograd's algorithm computes, most of the time of a linear Resize,
for which ONNX Runtime takes as long as for three transpositions, and the columns of a transposed convolution,
which ONNX Runtime writes to memory and then sums. All are counted in elements: to transpose one takes as long
as `_FLOPS_AN_ELEMENT` operations (40 to 60, measured on a core of Zen 4 at 118 GFLOP/s). A single convolution
without Winograd's algorithm never pays: ONNX Runtime's own is as fast. Nor does a transposed one whose kernel
is as large as its stride.

Linear layers alone have no layout to change: two of them pay (measured from 64 x 64 to 4096 x 4096
weights), as long as keeping their weights twice, in the graph and packed, is no matter. Of sequences they
must save the way of what lies between them, too.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

import onnx_ir as ir

from nncompile.passes.region_program import Opcode, Sample, Step

_FLOPS_AN_ELEMENT = 50
# Share of the operations that F(4x4, 3x3) and F(4x4, 5x5) save, their transforms counted.
_SAVED = {3: 0.6, 5: 0.7}
_LEAST_CHANNELS = 8  # below, the transforms cost what the products save
# What `cost.cpp` of the kernels says of transformed weights: how many bytes are too many, how many come from
# memory and not from a cache, and how many uses of a weight take as long as that.
_TOO_MANY_BYTES, _STREAMED_BYTES, _READ_COST = 40e6, 1e6, 9
_MOST_LINEAR_BYTES = 64e6
_COPIED = 0.25  # of the time of transposing an element: what keeps its layout
_SAVED_OF_INTERPOLATION = 2  # elements, for each that a linear Resize computes
_SAVED_OF_COLUMNS = 1  # likewise, for each that ONNX Runtime's transposed convolution sums; measured


def pays(steps: Mapping[ir.Value, Step], entering: Collection[Sample], leaving: Collection[ir.Value]) -> bool:
    """Whether a region of these steps, by the value that each computes, is worth its borders."""
    layers = [step for step in steps.values() if step.of_planes and not step.scales_channels]
    convolves = any(step.opcode is not Opcode.LINEAR for step in layers)
    if not convolves and _linear_bytes(steps) > _MOST_LINEAR_BYTES:
        return False
    if not any(step.of_planes for step in steps.values()):
        return True
    kept = {
        value for step in steps.values() if not step.elementwise for value in step.values if value in steps
    }
    saved = sum(_elements(steps[value].result) for value in kept)
    saved += _SAVED_OF_INTERPOLATION * sum(_elements(s.result) for s in steps.values() if s.interpolates)
    saved += _SAVED_OF_COLUMNS * sum(map(_columns, steps.values()))
    multiplications = sum(_saved_flops(step) for step in steps.values())
    cost = sum(map(_border, (*entering, *(steps[value].result for value in leaving))))
    return saved + multiplications / _FLOPS_AN_ELEMENT >= cost


def _linear_bytes(steps: Mapping[ir.Value, Step]) -> int:
    layers = [step.weights[0] for step in steps.values() if step.opcode is Opcode.LINEAR]
    shapes = [weight.shape.numpy() for weight in layers if weight is not None and weight.shape is not None]
    return 4 * sum(map(math.prod, shapes))


def _saved_flops(step: Step) -> float:
    """Operations that Winograd's algorithm saves of a convolution; see `cost.cpp` of the kernels."""
    if step.opcode is not Opcode.CONV:
        return 0.0
    (kh, kw, *steps), groups, weight = step.numbers[:6], step.numbers[-1], step.weights[0]
    if (
        kh != kw
        or kh not in _SAVED
        or steps != [1, 1, 1, 1]
        or groups != 1
        or weight is None
        or not weight.shape
    ):
        return 0.0
    outputs, inputs = weight.shape[0], weight.shape[1]
    if not isinstance(outputs, int) or not isinstance(inputs, int) or min(outputs, inputs) < _LEAST_CHANNELS:
        return 0.0
    points, pixels = (kh + 3) ** 2, math.prod(step.result.shape[1:])
    transformed = 4 * points * outputs * inputs
    served_by_few = transformed > _STREAMED_BYTES and points * _READ_COST >= kh**2 * max(pixels, _READ_COST)
    if transformed > _TOO_MANY_BYTES or served_by_few:
        return 0.0
    return _SAVED[kh] * 2 * _elements(step.result) * inputs * kh * kw


def _columns(step: Step) -> int:
    """What ONNX Runtime's transposed convolution computes of a sample before it sums it.

    The plane that it reads follows from that which it makes, with as much padding behind as in front.
    """
    if step.opcode is not Opcode.CONV_TRANSPOSE:
        return 0
    kernel, strides, dilations, pads = (step.numbers[i : i + 2] for i in (0, 2, 4, 6))
    read = (
        max(0, size + 2 * pad - (k - 1) * d - 1) // stride + 1
        for size, pad, k, d, stride in zip(
            step.result.shape[1:], pads, kernel, dilations, strides, strict=True
        )
    )
    return step.result.shape[0] * math.prod(kernel) * math.prod(read)


def _border(sample: Sample) -> float:
    return _elements(sample) * (_COPIED if sample.channels_last else 1)


def _elements(sample: Sample) -> int:
    return math.prod(sample.shape)
