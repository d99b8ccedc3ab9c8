"""Pooling that PyTorch's exporter lacks, or that ONNX counts otherwise, in terms of plain pools.

Sizes other than the batch are static.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import torch


def adaptive_windows(size: int, outputs: int) -> list[tuple[int, int]]:
    """Start and end of each window of an adaptive pool: floor(i*n/m) to ceil((i+1)*n/m).

    Source: PyTorch, aten/src/ATen/native/AdaptivePooling.h.
    """
    return [(i * size // outputs, -(-(i + 1) * size // outputs)) for i in range(outputs)]


def _windows(x: torch.Tensor, sizes: Sequence[int]) -> list[tuple[torch.Tensor, tuple[tuple[int, int], ...]]]:
    """Every window of an adaptive pool over the last dimensions, flat, with its span in each of them."""
    rank = len(sizes)
    extents = [int(n) for n in x.shape[-rank:]]
    spans = product(*(adaptive_windows(n, int(m)) for n, m in zip(extents, sizes, strict=True)))
    windows = []
    for span in spans:
        window = x
        for axis, (start, end) in zip(range(-rank, 0), span, strict=True):
            window = window.narrow(axis, start, end - start)
        windows.append((window.flatten(-rank), span))
    return windows


def adaptive_avg_pool(x: torch.Tensor, output_size: Sequence[int]) -> torch.Tensor:
    """The mean of each window, exact for every size."""
    means = torch.stack([window.mean(-1) for window, _ in _windows(x, output_size)], dim=-1)
    return means.reshape(*x.shape[: -len(output_size)], *output_size)


def adaptive_max_pool(x: torch.Tensor, output_size: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """The maximum of each window, and where it lies in the flattened plane."""
    extents = [int(n) for n in x.shape[-len(output_size) :]]
    values, indices = [], []
    for window, span in _windows(x, output_size):
        value, inside = window.max(-1)
        values.append(value)
        indices.append(_place(inside, span, extents))
    shape = (*x.shape[: -len(output_size)], *output_size)
    return torch.stack(values, dim=-1).reshape(shape), torch.stack(indices, dim=-1).reshape(shape)


def _place(inside: torch.Tensor, span: Sequence[tuple[int, int]], extents: Sequence[int]) -> torch.Tensor:
    """The flat position in the whole plane of a flat position in a window."""
    place = torch.zeros_like(inside)
    stride = 1
    for (start, end), extent in zip(reversed(span), reversed(extents), strict=True):
        place = place + (inside % (end - start) + start) * stride
        inside = inside // (end - start)
        stride *= extent
    return place


def _last_windows(sizes: Sequence[int], *window: Sequence[int]) -> tuple[list[int], bool] | None:
    """How far the last window of `ceil_mode` reaches beyond the padding, and whether ONNX counts otherwise.

    ONNX's shape inference counts one that would start in the padding behind, which PyTorch leaves out: the
    graph then declares a result larger than the one that ONNX Runtime computes.

    Args:
        sizes: Of the plane.
        window: Kernel, stride, padding and dilation, each with one number for each axis.

    Returns:
        None where a size is not known.
    """
    if not all(isinstance(size, int) for size in sizes):
        return None
    beyond, differs = [], False
    for n, k, s, p, d in zip(sizes, *window, strict=True):
        reach = d * (k - 1) + 1
        windows = -(-(n + 2 * p - reach) // s) + 1
        if (windows - 1) * s >= n + p:
            windows, differs = windows - 1, True
        beyond.append(max(0, (windows - 1) * s + reach - n - 2 * p))
    return beyond, differs


def _padded(x: torch.Tensor, amounts: Sequence[tuple[int, int]], value: float = 0.0) -> torch.Tensor:
    """With `value` before and behind the last dimensions, of which the first stands first."""
    return torch.nn.functional.pad(x, [amount for pair in reversed(amounts) for amount in pair], value=value)


def _each(numbers: Sequence[int], rank: int) -> list[int]:
    return list(numbers) * (rank if len(numbers) == 1 else 1)


def max_pool(rank: int) -> Callable[..., Any]:
    """Maximum pooling whose `ceil_mode` ONNX misunderstands: padded with -inf to full windows."""
    pool = getattr(torch.nn.functional, f"max_pool{rank}d")

    def lowered_pool(
        x: torch.Tensor,
        kernel: Sequence[int],
        stride: Sequence[int] = (),
        padding: Sequence[int] = (0,),
        dilation: Sequence[int] = (1,),
        ceil_mode: bool = False,
    ) -> Any:
        window = [_each(part, rank) for part in (kernel, stride or kernel, padding, dilation)]
        last = _last_windows(x.shape[-rank:], *window) if ceil_mode else None
        if last is None or not last[1]:
            return NotImplemented
        if any(last[0]):
            x = _padded(x, [(0, size) for size in last[0]], -math.inf)
        return pool(x, *window)

    return lowered_pool


def avg_pool(rank: int) -> Callable[..., Any]:
    """Average pooling with `divisor_override`, which the exporter leaves out: a sum over another divisor.

    And `ceil_mode` that ONNX misunderstands: the mean of windows padded with zeros, over the share of each
    that counts.
    """
    pool = getattr(torch.nn.functional, f"avg_pool{rank}d")

    def lowered_pool(
        x: torch.Tensor,
        kernel: Sequence[int],
        stride: Sequence[int] = (),
        padding: Sequence[int] = (0,),
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> Any:
        kernel, stride, padding = (_each(part, rank) for part in (kernel, stride or kernel, padding))
        sizes = x.shape[-rank:]
        last = _last_windows(sizes, kernel, stride, padding, [1] * rank) if ceil_mode else ([0] * rank, False)
        if last is None or (divisor_override is None and not last[1]):
            return NotImplemented
        beyond, _ = last
        if any(beyond):
            around, behind = [(p, p) for p in padding], [(0, size) for size in beyond]
            means = pool(_padded(_padded(x, around), behind), kernel, stride)
        else:
            means = pool(x, kernel, stride, padding, False, count_include_pad or divisor_override is not None)
        if divisor_override is not None:
            return means * (math.prod(kernel) / divisor_override)
        if not any(beyond):
            return means
        counted = _padded(x.new_full((1, 1, *sizes), 1), around, float(count_include_pad))
        return means / pool(_padded(counted, behind), kernel, stride)

    return lowered_pool
