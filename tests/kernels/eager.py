"""What a program of a FusedRegion means, in PyTorch and in double precision.

Values are N x C x H x W. A program that has no meaning raises one of `MEANINGLESS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from nncompile.passes.region_program import Kind, Opcode, Resizing

MEANINGLESS = (IndexError, ValueError, RuntimeError, AssertionError, TypeError)

SEQUENCE, LAST = 3, 5  # the layouts of N x H x C and N x H x W x C

ACTIVATIONS = {
    Kind.RELU: lambda x, a, b: x.relu(),
    Kind.CLIP: lambda x, a, b: x.clamp(a, b),
    Kind.LEAKY_RELU: lambda x, a, b: torch.where(x < 0, x * a, x),
    Kind.SILU: lambda x, a, b: F.silu(x),
    Kind.HARD_SWISH: lambda x, a, b: F.hardswish(x),
    Kind.SIGMOID: lambda x, a, b: x.sigmoid(),
    Kind.TANH: lambda x, a, b: x.tanh(),
    Kind.GELU: lambda x, a, b: F.gelu(x),
    Kind.HARD_SIGMOID: lambda x, a, b: (a * x + b).clamp(0, 1),
    Kind.STAR_RELU: lambda x, a, b: a * x.relu().square() + b,
}


class Answer(NamedTuple):
    """Outputs, and the largest finite number among all values: what rounding errors are measured against."""

    outputs: list[np.ndarray]
    largest: float


def interpret(
    code: Sequence[int],
    constants: Sequence[float],
    weights: Sequence[np.ndarray],
    inputs: Sequence[np.ndarray],
) -> Answer:
    """What a program computes, float64."""
    rest = iter(code)
    values = []
    for i in range(next(rest)):
        layout, *shape = (next(rest) for _ in range(4))
        x = torch.from_numpy(inputs[i]).double()
        values.append((x.movedim(-1, 1) if layout in (SEQUENCE, LAST) else x).reshape(-1, *shape))
        assert values[i].shape[1:] == torch.Size(shape)
    doubles = [torch.from_numpy(weight).double() for weight in weights]
    for _ in range(next(rest)):
        opcode, count = next(rest), next(rest)
        fields = [next(rest) for _ in range(count)]
        values.append(evaluate(opcode, fields, values, doubles, constants))
    outputs = []
    for _ in range(next(rest)):
        value, layout = values[next(rest)], next(rest)
        last = value.movedim(1, -1)
        layouts = {2: value.flatten(1), SEQUENCE: last.flatten(1, 2), 4: value, LAST: last}
        assert layout != SEQUENCE or value.shape[3] == 1
        outputs.append(layouts[layout].numpy())
    largest = max(
        (value[value.isfinite()].abs().amax().item() for value in values if value.isfinite().any()),
        default=0.0,
    )
    return Answer(outputs, largest)


def evaluate(
    opcode: int,
    fields: Sequence[int],
    values: Sequence[Tensor],
    weights: Sequence[Tensor],
    constants: Sequence[float],
) -> Tensor:
    """The value of one instruction."""
    x, *rest = fields
    match Opcode(opcode):
        case Opcode.CONV:
            return _conv(values[x], rest, weights)
        case Opcode.CONV_TRANSPOSE:
            return _conv_transpose(values[x], rest, weights)
        case Opcode.MAX_POOL | Opcode.AVERAGE_POOL:
            return _pool(values[x], rest, average=opcode == Opcode.AVERAGE_POOL)
        case Opcode.GLOBAL_AVERAGE:
            return values[x].mean((2, 3), keepdim=True)
        case Opcode.ADD:
            return values[x] + values[rest[0]]
        case Opcode.SUBTRACT:
            return values[x] - values[rest[0]]
        case Opcode.MULTIPLY:
            gate = values[rest[0]]
            outer = values[x].shape[2:] == (1, 1) and gate.shape[1] == 1
            assert outer or (values[x] * gate).shape == values[x].shape
            return values[x] * gate
        case Opcode.DIVIDE:
            return values[x] / values[rest[0]]
        case Opcode.PLANE_NORM:
            return values[x].square().sum((2, 3), keepdim=True).sqrt()
        case Opcode.CHANNEL_MEAN:
            return values[x].mean(1, keepdim=True)
        case Opcode.LINEAR:
            weight, bias, transposed = rest
            matrix = weights[weight] if transposed else weights[weight].T
            return _of_pixels(lambda v: F.linear(v, matrix, None if bias < 0 else weights[bias]), values[x])
        case Opcode.LAYER_NORM:
            scale, shift, epsilon = rest
            parts = weights[scale], None if shift < 0 else weights[shift]
            return _of_pixels(lambda v: F.layer_norm(v, v.shape[-1:], *parts, constants[epsilon]), values[x])
        case Opcode.ACTIVATION:
            kind, *indices = rest
            return ACTIVATIONS[Kind(kind)](values[x], *(None if i < 0 else constants[i] for i in indices))
        case Opcode.SOFTMAX:
            return values[x].softmax(1)
        case Opcode.LOG_SOFTMAX:
            return values[x].log_softmax(1)
        case Opcode.CONCAT:
            return torch.cat([values[i] for i in rest], 1)
        case Opcode.RESIZE:
            return _resized(values[x], rest)
        case Opcode.FLATTEN:
            return _column(values[x].flatten(1))
        case Opcode.SELECT:
            count, *channels = rest
            assert count == len(channels) > 0
            assert min(channels) >= 0
            return values[x][:, channels]


def _resized(x: Tensor, fields: Sequence[int]) -> Tensor:
    *plane, how = fields
    if Resizing(how) is Resizing.NEAREST:  # PyTorch's own is off by one where its float32 scale is
        rows, columns = (
            torch.arange(count) * size // count for size, count in zip(x.shape[2:], plane, strict=True)
        )
        return x[:, :, rows][:, :, :, columns]
    return F.interpolate(x, plane, mode="bilinear", align_corners=how == Resizing.CORNERS)


def _of_pixels(layer: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return layer(x.movedim(1, -1)).movedim(-1, 1)


def _column(rows: Tensor) -> Tensor:
    return rows[:, :, None, None]


def _conv(x: Tensor, fields: Sequence[int], weights: Sequence[Tensor]) -> Tensor:
    weight, bias, _, _, sh, sw, dh, dw, top, left, bottom, right, groups = fields
    padded = F.pad(x, (left, right, top, bottom))
    return F.conv2d(
        padded, weights[weight], None if bias < 0 else weights[bias], (sh, sw), 0, (dh, dw), groups
    )


def _conv_transpose(x: Tensor, fields: Sequence[int], weights: Sequence[Tensor]) -> Tensor:
    """All that the kernel reaches; of it, and of what lies behind, the plane that is asked for."""
    weight, bias, _, _, sh, sw, dh, dw, top, left, height, width, groups = fields
    whole = F.conv_transpose2d(x, weights[weight], None, (sh, sw), 0, 0, groups, (dh, dw))
    behind = max(0, top + height - whole.shape[2]), max(0, left + width - whole.shape[3])
    plane = F.pad(whole, (0, behind[1], 0, behind[0]))[:, :, top : top + height, left : left + width]
    return plane if bias < 0 else plane + weights[bias][:, None, None]


def _pool(x: Tensor, fields: Sequence[int], *, average: bool) -> Tensor:
    kernel, stride, (top, left, bottom, right) = fields[:2], fields[2:4], fields[4:8]
    ceil, include = bool(fields[8]), average and bool(fields[9])
    pads, symmetric = (top, left), (top, left) == (bottom, right)
    if symmetric and all(2 * pad <= size for pad, size in zip(pads, kernel, strict=True)):
        if average:
            return F.avg_pool2d(x, kernel, stride, pads, ceil, include)
        return F.max_pool2d(x, kernel, stride, pads, 1, ceil)
    # PyTorch's pools pad both sides alike. What `ceil` adds behind the padded plane is never counted.
    behind = [
        _beyond(size, k, s, before, after, ceil)
        for size, k, s, before, after in zip(x.shape[2:], kernel, stride, pads, (bottom, right), strict=True)
    ]
    inner, outer = (left, right, top, bottom), (0, behind[1], 0, behind[0])
    if not average:
        return F.max_pool2d(F.pad(F.pad(x, inner, value=-math.inf), outer, value=-math.inf), kernel, stride)
    counted = F.pad(F.pad(torch.ones_like(x), inner, value=float(include)), outer)
    total = F.avg_pool2d(F.pad(F.pad(x, inner), outer), kernel, stride)
    return total / F.avg_pool2d(counted, kernel, stride)


def _beyond(size: int, kernel: int, stride: int, before: int, after: int, ceil: bool) -> int:
    """How far the last window reaches behind the padded axis; negative where it ends before."""
    span = size + before + after - kernel
    windows = (-(-span // stride) if ceil else span // stride) + 1
    if ceil and (windows - 1) * stride >= size + before:
        windows -= 1
    return (windows - 1) * stride - span
