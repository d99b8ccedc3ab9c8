"""Tensors at other sizes than the example's, made of the example's own entries."""

from __future__ import annotations

from collections.abc import Mapping

import torch


def resized(x: torch.Tensor, sizes: Mapping[int, int]) -> torch.Tensor:
    """A tensor whose entries along some axes are repeated, or cut off, until these have other sizes.

    Args:
        x: Any dtype; not empty along an axis that is to grow.
        sizes: Axis -> the size that it is to have.
    """
    for axis, size in sizes.items():
        x = x.index_select(axis, torch.arange(size) % x.shape[axis])
    return x
