"""Quotients and remainders, which the exporter divides first and rounds afterwards.

1.0 // 0.1 is 9 in PyTorch and 10 where 1.0 / 0.1 is rounded first; integers beyond 2**24 lose digits in
float32, by which the exporter divides them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

aten = torch.ops.aten


def _pair(x: Any, y: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Two operands, of which one may be a number, as tensors of the dtype of their result."""
    dtype = torch.result_type(x, y)
    x, y = (
        part.to(dtype) if isinstance(part, torch.Tensor) else torch.scalar_tensor(part, dtype=dtype)
        for part in (x, y)
    )
    return x, y


def _alike(x: Any, y: Any) -> bool:
    return isinstance(x, torch.Tensor) and isinstance(y, torch.Tensor) and x.dtype is y.dtype


def remainder(x: Any, y: Any) -> Any:
    """What is left below the floor of the quotient; it has the divisor's sign.

    Source: PyTorch, aten/src/ATen/native/cpu/BinaryOpsKernel.cpp, remainder_kernel.
    """
    alike = _alike(x, y)
    x, y = _pair(x, y)
    if not x.is_floating_point():
        return NotImplemented if alike else torch.remainder(x, y)
    rest = torch.fmod(x, y)
    return torch.where((rest != 0) & ((rest < 0) != (y < 0)), rest + y, rest)


def fmod(x: Any, y: Any) -> Any:
    """What is left below the truncated quotient; it has the dividend's sign."""
    alike = _alike(x, y)
    x, y = _pair(x, y)
    if not x.is_floating_point():
        return x - truncated(x, y) * y
    return NotImplemented if alike else torch.fmod(x, y)


def floored(x: Any, y: Any) -> Any:
    """The largest whole number that is no larger than the quotient.

    Source: PyTorch, c10/util/generic_math.h, div_floor_floating.
    """
    alike = _alike(x, y)
    x, y = _pair(x, y)
    if not x.is_floating_point():
        return NotImplemented if alike else torch.floor_divide(x, y)
    rest = torch.fmod(x, y)
    quotient = (x - rest) / y - ((rest != 0) & ((rest < 0) != (y < 0))).to(x.dtype)
    below = torch.floor(quotient)
    nearest = below + (quotient - below > 0.5).to(x.dtype)
    return torch.where(y == 0, x / y, nearest)


def truncated(x: Any, y: Any) -> torch.Tensor:
    """The quotient without its fraction."""
    x, y = _pair(x, y)
    if x.is_floating_point():
        return torch.trunc(x / y)
    below = torch.floor_divide(x, y)
    negative_with_rest: torch.Tensor = ((x < 0) != (y < 0)) & (below * y != x)
    return below + negative_with_rest.to(x.dtype)


def divided(x: torch.Tensor, y: Any, rounding_mode: str | None = None) -> torch.Tensor:
    """torch.div with a rounding mode."""
    if rounding_mode is None:
        return torch.true_divide(x, y)
    return torch.floor_divide(x, y) if rounding_mode == "floor" else truncated(x, y)


LOWERINGS: dict[Any, Callable[..., Any]] = {
    aten.remainder.Scalar: remainder,
    aten.remainder.Scalar_Tensor: remainder,
    aten.remainder.Tensor: remainder,
    aten.fmod.Scalar: fmod,
    aten.fmod.Tensor: fmod,
    aten.floor_divide.default: floored,
    aten.floor_divide.Scalar: floored,
    aten.div.Tensor_mode: divided,
    aten.div.Scalar_mode: divided,
}
