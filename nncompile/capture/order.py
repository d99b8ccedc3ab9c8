"""What stands where once elements are sorted: medians, k-th smallest values, and places between boundaries.

ONNX Runtime's TopK passes over NaN by its place, so NaN is sorted as infinity and put in afterwards.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

aten = torch.ops.aten


def _sorted(x: torch.Tensor, dim: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Values in order with NaN at the end as infinity, their places, and how many are no NaN."""
    nan = x.isnan() if x.is_floating_point() else torch.zeros_like(x, dtype=torch.bool)
    ordered = x.masked_fill(nan, math.inf) if x.is_floating_point() else x
    values, places = torch.sort(ordered, dim)
    return values, places, (~nan).sum(dim, keepdim=True)


def _picked(
    x: torch.Tensor, dim: int, keepdim: bool, at: int, passes_over_nan: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """The value at a place of the order, and its place in x; the first NaN unless those are passed over."""
    if not x.dim():
        return x.clone(), torch.zeros_like(x, dtype=torch.int64)
    values, places, numbers = _sorted(x, dim)
    index = (numbers - 1).clamp(min=0) // 2 if passes_over_nan else torch.full_like(numbers, at)
    value, place = values.gather(dim, index), places.gather(dim, index)
    if x.is_floating_point():
        size = x.shape[dim]
        hidden = numbers == 0 if passes_over_nan else numbers < size
        value = torch.where(hidden, math.nan, value).to(x.dtype)
        place = torch.where(hidden, x.isnan().to(torch.int32).argmax(dim, keepdim=True), place)
    return (value, place) if keepdim else (value.squeeze(dim), place.squeeze(dim))


def median(x: torch.Tensor, dim: int, keepdim: bool = False) -> Any:
    """The lower of two in the middle, and where it is."""
    return _picked(x, dim, keepdim, (x.shape[dim] - 1) // 2 if x.dim() else 0, False)


def nanmedian(x: torch.Tensor, dim: int, keepdim: bool = False) -> Any:
    """The same of those that are no NaN."""
    return _picked(x, dim, keepdim, 0, True)


def over_all(function: Callable[..., Any]) -> Callable[..., Any]:
    """Over all elements, without the place."""
    return lambda x: function(x.reshape(-1), 0)[0]


def kthvalue(x: torch.Tensor, k: int, dim: int = -1, keepdim: bool = False) -> Any:
    """The k-th smallest value, of which NaN are the largest, and where it is."""
    if not x.dim():
        return x.clone(), torch.zeros_like(x, dtype=torch.int64)
    values, places, numbers = _sorted(x, dim)
    value, place = values.narrow(dim, k - 1, 1), places.narrow(dim, k - 1, 1)
    if x.is_floating_point():
        value = torch.where(numbers < k, math.nan, value).to(x.dtype)
    return (value, place) if keepdim else (value.squeeze(dim), place.squeeze(dim))


def searchsorted(
    boundaries: torch.Tensor,
    x: Any,
    out_int32: bool = False,
    right: bool = False,
    side: str | None = None,
    sorter: torch.Tensor | None = None,
) -> torch.Tensor:
    """How many boundaries lie before each value; a NaN has all of them before it.

    Each value is compared with each boundary of its row.
    """
    if sorter is not None:
        boundaries = boundaries.gather(-1, sorter)
    x = x if isinstance(x, torch.Tensor) else torch.scalar_tensor(x, dtype=boundaries.dtype)
    if not boundaries.shape[-1]:
        return torch.zeros_like(x, dtype=torch.int32 if out_int32 else torch.int64)
    row = boundaries if boundaries.dim() == 1 else boundaries.unsqueeze(-2)
    value = x.unsqueeze(-1)
    not_before: torch.Tensor = row > value if right or side == "right" else row >= value
    return (~not_before).sum(-1, dtype=torch.int32 if out_int32 else torch.int64)


def bucketize(x: Any, boundaries: torch.Tensor, out_int32: bool = False, right: bool = False) -> torch.Tensor:
    """The same, asked the other way round."""
    return searchsorted(boundaries, x, out_int32, right)


def isin(
    x: torch.Tensor, wanted: torch.Tensor, assume_unique: bool = False, invert: bool = False
) -> torch.Tensor:
    """Whether each element is one of those that are wanted."""
    del assume_unique
    found = (x.unsqueeze(-1) == wanted.reshape(-1)).any(-1)
    return ~found if invert else found


def stable_sort(
    x: torch.Tensor, stable: bool | None = None, dim: int = -1, descending: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """As any sort: ONNX's TopK puts the first of equal elements first."""
    del stable
    return torch.sort(x, dim, descending)


def stable_argsort(x: torch.Tensor, stable: bool, dim: int = -1, descending: bool = False) -> torch.Tensor:
    """Its places."""
    return stable_sort(x, stable, dim, descending)[1]


LOWERINGS: dict[Any, Callable[..., Any]] = {
    aten.median.dim: median,
    aten.median.default: over_all(median),
    aten.nanmedian.dim: nanmedian,
    aten.nanmedian.default: over_all(nanmedian),
    aten.kthvalue.default: kthvalue,
    aten.searchsorted.Tensor: searchsorted,
    aten.searchsorted.Scalar: searchsorted,
    aten.bucketize.Tensor: bucketize,
    aten.bucketize.Scalar: bucketize,
    aten.isin.Tensor_Tensor: isin,
    aten.sort.stable: stable_sort,
    aten.argsort.stable: stable_argsort,
}
