"""Booleans and integers, where ONNX's operators or ONNX Runtime's kernels take floats alone.

A sum of booleans is their disjunction, a power wraps as its products do, 8 or 16 bits are shifted among 32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

aten = torch.ops.aten
_WHOLE = frozenset({torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8})
_BOOL = frozenset({torch.bool})
_SHORT = frozenset({torch.int16, torch.uint8})  # those without a kernel of BitShift for both directions
_BITS = 7  # of an exponent: even numbers to the power of 64 and beyond are 0, as they are after wrapping


def add(x: torch.Tensor, y: Any, alpha: Any = 1) -> Any:
    """Whether either is true; a multiple of a boolean is one, too."""
    if torch.result_type(x, y) is not torch.bool:
        return NotImplemented
    y = y if isinstance(y, torch.Tensor) else torch.scalar_tensor(y, dtype=torch.bool)
    return torch.logical_or(x, y if alpha else torch.zeros_like(y))


def where(condition: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> Any:
    """One boolean or the other."""
    if not x.dtype is y.dtype is torch.bool:
        return NotImplemented
    return (condition & x) | (~condition & y)


def masked_fill(x: torch.Tensor, mask: torch.Tensor, value: Any) -> Any:
    """Booleans, replaced where a mask is true."""
    if x.dtype is not torch.bool:
        return NotImplemented
    return (x & ~mask) | (
        mask & value if isinstance(value, torch.Tensor) else mask if value else mask & ~mask
    )


def extreme(function: Callable[..., Any]) -> Callable[..., Any]:
    """The largest or smallest boolean along a dimension, and where it is."""

    def lowered_extreme(x: torch.Tensor, dim: int, keepdim: bool = False) -> Any:
        if x.dtype is not torch.bool:
            return NotImplemented
        values, indices = function(x.to(torch.int32), dim, keepdim)
        return values.to(torch.bool), indices

    return lowered_extreme


def negative(x: torch.Tensor) -> Any:
    """Of unsigned integers, which wrap."""
    return torch.zeros_like(x) - x if x.dtype is torch.uint8 else NotImplemented


def shifted(function: Callable[..., torch.Tensor]) -> Callable[..., Any]:
    """Bits of 8 or 16, shifted among 32."""

    def lowered_shift(x: torch.Tensor, by: Any) -> Any:
        if not isinstance(x, torch.Tensor) or x.dtype not in _SHORT:
            return NotImplemented
        by = by if isinstance(by, torch.Tensor) else torch.scalar_tensor(by, dtype=torch.int32)
        return function(x.to(torch.int32), by.to(torch.int32)).to(x.dtype)

    return lowered_shift


def power(x: Any, exponent: Any) -> Any:
    """By squaring, which wraps as PyTorch does; ONNX Runtime computes in float64.

    Source: PyTorch, aten/src/ATen/native/Pow.h, powi: a negative exponent leaves 0 of all but 1 and -1.
    """
    dtype = torch.result_type(x, exponent)
    if dtype not in _WHOLE:
        return NotImplemented
    x = x.to(dtype) if isinstance(x, torch.Tensor) else torch.scalar_tensor(x, dtype=dtype)
    if not isinstance(exponent, torch.Tensor):
        return _to_the(x, exponent)
    exponent = exponent.to(torch.int64)
    parity = exponent & 1
    beyond = 2**_BITS
    steps = torch.where(exponent < 0, parity, torch.where(exponent < beyond, exponent, beyond - 2 + parity))
    result, square = torch.ones_like(x), x
    for bit in range(_BITS):
        result = result * torch.where((steps & (1 << bit)) != 0, square, 1)
        square = square * square
    return torch.where((exponent < 0) & (x != 1) & (x != -1), 0, result).to(dtype)


def _to_the(x: torch.Tensor, exponent: int) -> torch.Tensor:
    if exponent < 2:
        return x if exponent else torch.ones_like(x)
    half = _to_the(x, exponent // 2)
    return half * half * x if exponent % 2 else half * half


_SHIFTS = {
    aten.bitwise_left_shift.Tensor: shifted(torch.bitwise_left_shift),
    aten.bitwise_left_shift.Tensor_Scalar: shifted(torch.bitwise_left_shift),
    aten.bitwise_right_shift.Tensor: shifted(torch.bitwise_right_shift),
    aten.bitwise_right_shift.Tensor_Scalar: shifted(torch.bitwise_right_shift),
}
_POWERS = dict.fromkeys((aten.pow.Tensor_Scalar, aten.pow.Tensor_Tensor, aten.pow.Scalar), power)
LOWERINGS: dict[Any, Callable[..., Any]] = {
    aten.add.Tensor: add,
    aten.where.self: where,
    aten.masked_fill.Scalar: masked_fill,
    aten.masked_fill.Tensor: masked_fill,
    aten.max.dim: extreme(torch.max),
    aten.min.dim: extreme(torch.min),
    aten.neg.default: negative,
    **_SHIFTS,
    **_POWERS,
}
# Results of other dtypes are right as the exporter has them.
DTYPES: dict[Any, frozenset[torch.dtype]] = {
    **dict.fromkeys(LOWERINGS, _BOOL),
    aten.neg.default: frozenset({torch.uint8}),
    **dict.fromkeys(_SHIFTS, _SHORT),
    **dict.fromkeys(_POWERS, _WHOLE),
}
ALWAYS: dict[Any, Callable[..., Any]] = {
    aten.__lshift__.Tensor: torch.bitwise_left_shift,
    aten.__lshift__.Scalar: torch.bitwise_left_shift,
    aten.__rshift__.Tensor: torch.bitwise_right_shift,
    aten.__rshift__.Scalar: torch.bitwise_right_shift,
}
