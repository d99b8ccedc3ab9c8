"""Writing at places of a tensor: reductions that ONNX's ScatterElements lacks or begins otherwise."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

aten = torch.ops.aten


def scatter_reduce(
    x: torch.Tensor,
    dim: int,
    index: torch.Tensor,
    source: torch.Tensor,
    reduce: str,
    include_self: bool = True,
) -> Any:
    """Means, and extremes without the element that is written to."""
    if reduce == "mean":
        return _mean(x, dim, index, source, include_self)
    if reduce not in ("amax", "amin") or include_self:
        return NotImplemented
    start = torch.where(
        _written(x, dim, index), _least(x.dtype) if reduce == "amax" else _largest(x.dtype), x
    )
    return torch.scatter_reduce(start.to(x.dtype), dim, index, source, reduce)


def _mean(
    x: torch.Tensor, dim: int, index: torch.Tensor, source: torch.Tensor, include_self: bool
) -> torch.Tensor:
    ones = torch.ones_like(source)
    if include_self:
        count = torch.ones_like(x).scatter_add(dim, index, ones)
        total = x.scatter_add(dim, index, source)
    else:
        count = torch.zeros_like(x).scatter_add(dim, index, ones)
        total = torch.where(count > 0, 0, x).to(x.dtype).scatter_add(dim, index, source)
        count = torch.where(count > 0, count, 1).to(x.dtype)
    return total / count if x.is_floating_point() else torch.div(total, count, rounding_mode="floor")


def _written(x: torch.Tensor, dim: int, index: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(x).scatter(dim, index, 1) != 0


def _least(dtype: torch.dtype) -> float:
    return -math.inf if dtype.is_floating_point else torch.iinfo(dtype).min


def _largest(dtype: torch.dtype) -> float:
    return math.inf if dtype.is_floating_point else torch.iinfo(dtype).max


def put(x: torch.Tensor, index: torch.Tensor, source: torch.Tensor, accumulate: bool = False) -> torch.Tensor:
    """At places of the flattened tensor, which may be counted from its end."""
    flat, places, values = x.reshape(-1), index.reshape(-1), source.reshape(-1)
    places = torch.where(places < 0, places + flat.shape[0], places)
    written = flat.scatter_add(0, places, values) if accumulate else flat.scatter(0, places, values)
    return written.reshape(x.shape)


LOWERINGS: dict[Any, Callable[..., Any]] = {
    aten.scatter_reduce.two: scatter_reduce,
    aten.put.default: put,
}
