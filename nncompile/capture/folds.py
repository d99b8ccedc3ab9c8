"""torch.nn.Fold without ONNX's Col2Im, for which ONNX Runtime has no kernel on a GPU."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import torch
from torch.nn.functional import pad


def fold(
    x: torch.Tensor,
    output_size: Sequence[int],
    kernel: Sequence[int],
    dilation: Sequence[int],
    padding: Sequence[int],
    stride: Sequence[int],
) -> torch.Tensor:
    """Windows added up where they overlap: along the columns first, then along the rows.

    A transposed convolution with ones and zeros would do it too, and make NaN of infinity times 0.

    Args:
        x: Windows of shape (batch, channels * height * width, count), or without the batch.
        output_size: Height and width of the planes.
        kernel: Of a window.
        dilation: Between the elements of a window.
        padding: Around the planes.
        stride: Between windows.

    Returns:
        Planes of shape (batch, channels, height, width), or without the batch.
    """
    axes = list(zip(output_size, dilation, padding, stride, strict=True))
    counts = [(n + 2 * p - d * (k - 1) - 1) // s + 1 for k, (n, d, p, s) in zip(kernel, axes, strict=True)]
    parts = torch.unflatten(torch.unflatten(x, -1, counts), -3, (-1, *kernel))
    if all((d, p, s) == (1, 0, k) and n % k == 0 for k, (n, d, p, s) in zip(kernel, axes, strict=True)):
        # Side by side.
        return parts.movedim(-2, -4).transpose(-1, -2).flatten(-2).flatten(-3, -2)
    for axis in (-1, -2):
        parts = _added(parts, axis, *axes[axis])
    return parts


def _added(
    parts: torch.Tensor, axis: int, size: int, dilation: int, padding: int, stride: int
) -> torch.Tensor:
    """The windows' elements in dimension -3, each at its place along an axis, added up."""
    end = (0, 0) if axis == -2 else ()  # of the dimension behind the axis, which stays
    whole = size + 2 * padding
    placed = []
    for number, part in enumerate(parts.unbind(-3)):
        if stride > 1:
            part = pad(part.unsqueeze(axis), (*end, 0, stride - 1)).flatten(axis - 1, axis)
        before = number * dilation
        placed.append(pad(part, (*end, before, whole - before - part.shape[axis])))
    total = reduce(torch.add, placed)
    return total.narrow(axis, padding, size) if padding else total
