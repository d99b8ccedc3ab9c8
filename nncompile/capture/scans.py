"""What each element makes of itself and all before it, in as many steps as the length has bits.

After step i an element stands for itself and the 2**i - 1 before it; the next step takes the one 2**i back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

aten = torch.ops.aten
_Parts = Sequence[torch.Tensor]


def _scan(parts: _Parts, dim: int, combine: Callable[[_Parts, _Parts], _Parts]) -> _Parts:
    """`combine` takes what stands for earlier elements and for later ones; dim has a known size."""
    size = parts[0].shape[dim] if parts[0].dim() else 1
    reach = 1
    while reach < size:
        rest = size - reach
        earlier = [part.narrow(dim, 0, rest) for part in parts]
        later = [part.narrow(dim, reach, rest) for part in parts]
        heads = [part.narrow(dim, 0, reach) for part in parts]
        tails = combine(earlier, later)
        parts = [torch.cat(pair, dim) for pair in zip(heads, tails, strict=True)]
        reach *= 2
    return parts


def _known(x: torch.Tensor, dim: int) -> bool:
    return not x.dim() or isinstance(x.shape[dim], int)


def cumulative(better: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Callable[..., Any]:
    """The extreme so far and its last place; a NaN stays.

    Source: PyTorch, aten/src/ATen/native/ReduceOps.cpp, cummax_cummin_helper.
    """

    def combine(earlier: _Parts, later: _Parts) -> _Parts:
        taken = better(later[0], earlier[0])
        if later[0].is_floating_point():
            taken = later[0].isnan() | (taken & ~earlier[0].isnan())
        return [torch.where(taken, new, old) for new, old in zip(later, earlier, strict=True)]

    def lowered_extreme(x: torch.Tensor, dim: int) -> Any:
        if not _known(x, dim):
            return NotImplemented
        if not x.dim():
            return x.clone(), torch.zeros_like(x, dtype=torch.int64)
        along = [1] * x.dim()
        along[dim] = -1
        places = torch.arange(x.shape[dim]).reshape(along).expand(x.shape)
        values, indices = _scan([x.to(torch.int32) if x.dtype is torch.bool else x, places], dim, combine)
        return values.to(x.dtype), indices

    return lowered_extreme


def logcumsumexp(x: torch.Tensor, dim: int) -> Any:
    """Each sum by its own largest term; by the largest of all, others would underflow."""
    if not _known(x, dim):
        return NotImplemented
    return _scan([x], dim, lambda earlier, later: [torch.logaddexp(earlier[0], later[0])])[0]


def cumprod(x: torch.Tensor, dim: int, dtype: torch.dtype | None = None) -> Any:
    """Of integers and booleans, which wrap."""
    result = dtype or (x.dtype if x.is_floating_point() else torch.int64)
    if result.is_floating_point or not _known(x, dim):
        return NotImplemented
    return _scan([x.to(result)], dim, lambda earlier, later: [earlier[0] * later[0]])[0]


LOWERINGS: dict[Any, Callable[..., Any]] = {
    aten.cummax.default: cumulative(torch.ge),
    aten.cummin.default: cumulative(torch.le),
    aten.logcumsumexp.default: logcumsumexp,
    aten.cumprod.default: cumprod,
}
