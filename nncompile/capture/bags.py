"""Bags of embeddings, without the loop over bags that PyTorch's exporter writes.

That one mistakes bags with several `padding_idx`, takes no int32, and ends the process on some.
"""

from __future__ import annotations

import torch

_SUM, _MEAN, _MAX = 0, 1, 2
_NO_PLACE = 2**62  # outside of every table


def embedding_bag(
    weight: torch.Tensor,
    indices: torch.Tensor,
    offsets: torch.Tensor,
    scale_grad_by_freq: bool = False,
    mode: int = _SUM,
    sparse: bool = False,
    per_sample_weights: torch.Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """The sum, mean or maximum of the rows in each bag (torch.nn.EmbeddingBag); 0 for a bag without rows.

    Args:
        weight: The table, of shape (rows, size).
        indices: Of the rows in all bags, of shape (n,).
        offsets: Where each bag starts in them, ascending from 0.
        scale_grad_by_freq: Of training alone.
        mode: 0 sum, 1 mean, 2 maximum.
        sparse: Of training alone.
        per_sample_weights: A factor of each row, of shape (n,).
        include_last_offset: Whether the last offset is the end and no start. It has to be that of the
            indices; where it is not, PyTorch's answers depend on dtype and mode, and the graph gives none.
        padding_idx: The row that is in no bag.

    Returns:
        The result, of shape (bags, size); the bag of each index; how many rows each bag has, twice (the
        fourth output of the operator is what only its gradient reads).
    """
    del scale_grad_by_freq, sparse
    indices, offsets = indices.to(torch.int64), offsets.to(torch.int64)
    count = torch.ones_like(indices).sum()
    closed = offsets + (offsets[-1:] != count) * _NO_PLACE if include_last_offset else offsets
    bag = _bag_of_each(indices, closed)
    # ONNX Runtime's ScatterElements reduces no float16.
    rows = torch.nn.functional.embedding(indices, weight).to(torch.promote_types(weight.dtype, torch.float32))
    if per_sample_weights is not None:
        rows = rows * per_sample_weights.unsqueeze(1)
    nothing = -torch.inf if mode == _MAX else 0.0
    inside = torch.ones_like(indices)
    if padding_idx is not None:
        inside = (indices != padding_idx % weight.shape[0]).to(torch.int64)
        rows = rows.masked_fill(inside.unsqueeze(1) == 0, nothing)
    result = torch.full((offsets.shape[0], weight.shape[1]), nothing, dtype=rows.dtype)
    place = bag.unsqueeze(1).expand_as(rows)
    sizes = torch.zeros_like(offsets).scatter_add(0, bag, inside)
    if mode == _MAX:
        result = result.scatter_reduce(0, place, rows, "amax")
        result = torch.where(sizes.unsqueeze(1) > 0, result, 0.0)
    else:
        result = result.scatter_add(0, place, rows)
    if mode == _MEAN:  # PyTorch's divisor, which differs from `sizes` where offsets do not ascend
        ends = torch.nn.functional.pad(offsets - count, (0, 1))[1:] + count
        padded = torch.zeros_like(offsets).scatter_add(0, bag, 1 - inside)
        result = result / (ends - offsets - padded).clamp(min=1).unsqueeze(1)
    if include_last_offset:  # what follows the end is in no bag
        result, sizes = result[:-1], sizes[:-1]
    return result.to(weight.dtype), bag, sizes, sizes


def _bag_of_each(indices: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    """How many bags have started at each index, less one."""
    ones = torch.ones_like(offsets)
    started = torch.zeros(indices.shape[0] + 1, dtype=torch.int64).scatter_add(0, offsets, ones)
    return started.cumsum(0)[:-1] - 1
