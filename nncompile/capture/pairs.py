"""Functions of two numbers that the exporter lacks, or that lose a NaN in it; distances between rows."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

aten = torch.ops.aten


def over_nan(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """The other one where one is NaN."""

    def lowered_extreme(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        result = function(x, y)
        if not result.is_floating_point():
            return result
        x, y = x.to(result.dtype), y.to(result.dtype)
        return torch.where(x.isnan(), y, torch.where(y.isnan(), x, result))

    return lowered_extreme


def hypot(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """By the larger one, whose square may overflow; infinity beside a NaN, too."""
    x, y = x.abs(), y.abs()
    larger, smaller = torch.maximum(x, y), torch.minimum(x, y)
    share = smaller / larger
    length = torch.where(larger == 0, larger, larger * torch.sqrt(1 + share * share))
    return torch.where(torch.isinf(x) | torch.isinf(y), math.inf, length).to(length.dtype)


def negative(x: torch.Tensor) -> torch.Tensor:
    """Whether the sign is a minus, which 0 may have."""
    return torch.where(x == 0, 1 / x, x) < 0


def copysign(x: torch.Tensor, y: Any) -> torch.Tensor:
    """The absolute value with another number's sign; that of a NaN counts as a plus."""
    x = x if x.is_floating_point() else x.to(torch.get_default_dtype())
    minus = negative(y) if isinstance(y, torch.Tensor) else math.copysign(1, y) < 0
    if isinstance(minus, bool):
        return -x.abs() if minus else x.abs()
    return torch.where(minus, -x.abs(), x.abs())


def atan2(y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """The angle of (x, y); by the smaller share, so that infinities have one, and NaN stays."""
    dtype = torch.result_type(y, x)
    dtype = dtype if dtype.is_floating_point else torch.get_default_dtype()
    y, x = y.to(dtype), x.to(dtype)
    larger, smaller = torch.maximum(x.abs(), y.abs()), torch.minimum(x.abs(), y.abs())
    share = torch.where(larger == 0, larger, torch.where(larger == smaller, 1, smaller / larger)).to(dtype)
    angle = torch.atan(share)
    angle = torch.where(y.abs() > x.abs(), math.pi / 2 - angle, angle)
    angle = torch.where(negative(x), math.pi - angle, angle).to(dtype)
    return torch.where(negative(y), -angle, angle)


def heaviside(x: torch.Tensor, at_zero: torch.Tensor) -> torch.Tensor:
    """1 above 0; PyTorch answers 0 for NaN."""
    return torch.where(x == 0, at_zero, (x > 0).to(x.dtype))


def cdist(x: torch.Tensor, y: torch.Tensor, p: float = 2, compute_mode: int | None = None) -> torch.Tensor:
    """Distances between rows, from their differences, which lose nothing where rows are alike.

    Args:
        x: Shape (..., rows, width).
        y: Shape (..., others, width).
        p: Of the norm.
        compute_mode: By products or by differences: the latter.

    Returns:
        Shape (..., rows, others); on the way, one of (..., rows, others, width).
    """
    del compute_mode
    apart = (x.unsqueeze(-2) - y.unsqueeze(-3)).abs()
    if p == 0:
        return (apart != 0).to(x.dtype).sum(-1)
    if p == 1:
        return apart.sum(-1)
    if p == 2:
        return (apart * apart).sum(-1).sqrt()
    return apart.amax(-1) if p == math.inf else (apart**p).sum(-1) ** (1 / p)


LOWERINGS: dict[Any, Callable[..., Any]] = {
    aten.fmax.default: over_nan(torch.maximum),
    aten.fmin.default: over_nan(torch.minimum),
    aten.hypot.default: hypot,
    aten.copysign.Tensor: copysign,
    aten.copysign.Scalar: copysign,
    aten.atan2.default: atan2,
    aten.heaviside.default: heaviside,
    aten.cdist.default: cdist,
    aten._cdist_forward.default: cdist,
}
