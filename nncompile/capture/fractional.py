"""Fractional max pooling with given samples: its regions are known, so it is a gather and a maximum.

Without samples the layer draws its regions anew at every call, in evaluation too; such a module is
refused by verification.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

Index = npt.NDArray[np.int64]


def region_starts(sample: float, size: int, outputs: int, kernel: int) -> Index:
    """Where each region begins along one dimension.

    Source: PyTorch, aten/src/ATen/native/FractionalMaxPooling.h, generate_intervals; after Graham,
    "Fractional Max-Pooling", arXiv:1412.6071.
    """
    starts = np.full(outputs, size - kernel, np.int64)
    if outputs > 1:
        alpha = (size - kernel) / (outputs - 1)
        steps = np.arange(outputs - 1)
        starts[:-1] = ((steps + sample) * alpha).astype(np.int64) - int(sample * alpha)
    return starts


def regions(
    samples: npt.NDArray[Any], sizes: Sequence[int], outputs: Sequence[int], kernel: Sequence[int]
) -> Index:
    """Flat positions in the plane, shape (batch, channels, prod(outputs), prod(kernel))."""
    rank = len(sizes)
    # In two dimensions PyTorch uses the first sample for the width.
    order = (1, 0) if rank == 2 else tuple(range(rank))
    planes = samples.reshape(-1, samples.shape[-1])
    result = np.zeros((len(planes), int(np.prod(outputs)), int(np.prod(kernel))), np.int64)
    for i, plane in enumerate(planes):
        flat = np.zeros((1, 1), np.int64)
        for axis in range(rank):
            starts = region_starts(float(plane[order[axis]]), sizes[axis], outputs[axis], kernel[axis])
            covered = starts[:, None] + np.arange(kernel[axis])
            grid = flat[:, None, :, None] * sizes[axis] + covered[None, :, None, :]
            flat = grid.reshape(flat.shape[0] * len(starts), -1)
        result[i] = flat
    return result.reshape(*samples.shape[:2], *result.shape[1:])


_samples: dict[nn.Module, npt.NDArray[Any]] = {}


@contextmanager
def samples_at_hand(module: nn.Module) -> Iterator[None]:
    """Remember the samples of each pool in a module: while it is traced, its buffers have no values."""
    for part in module.modules():
        given = getattr(part, "_random_samples", None) if type(part) in _ORIGINALS else None
        if isinstance(given, torch.Tensor):
            _samples[part] = given.detach().to(torch.promote_types(given.dtype, torch.float32)).numpy()
    try:
        yield
    finally:
        _samples.clear()


def fractional_max_pool(self: Any, x: torch.Tensor) -> Any:
    """What FractionalMaxPool2d and FractionalMaxPool3d compute with `_random_samples` given."""
    rank = 2 if isinstance(self, nn.FractionalMaxPool2d) else 3
    if self not in _samples:
        return _ORIGINALS[type(self)](self, x)
    batched = x if x.dim() == rank + 2 else x.unsqueeze(0)
    sizes = [int(n) for n in batched.shape[2:]]
    kernel = _each(self.kernel_size, rank)
    if self.output_size is not None:
        outputs = _each(self.output_size, rank)
    else:
        ratios = _each(self.output_ratio, rank)
        outputs = [int(n * ratio) for n, ratio in zip(sizes, ratios, strict=True)]
    samples = _samples[self][: int(batched.shape[0])]
    index = torch.from_numpy(regions(samples, sizes, outputs, kernel))
    picked = batched.flatten(2).gather(2, index.flatten(2)).reshape(index.shape)
    values, inside = picked.max(-1)
    shape = (*batched.shape[:2], *outputs)
    places = index.gather(3, inside.unsqueeze(-1)).reshape(shape)
    results = (values.reshape(shape), places)
    if x.dim() == rank + 1:
        results = (results[0].squeeze(0), results[1].squeeze(0))
    return results if self.return_indices else results[0]


def _each(value: Any, rank: int) -> list[Any]:
    return list(value) if isinstance(value, (tuple, list)) else [value] * rank


_ORIGINALS = {kind: kind.forward for kind in (nn.FractionalMaxPool2d, nn.FractionalMaxPool3d)}
