"""Operators that PyTorch's exporter cannot translate, or translates inexactly, in terms of those it can.

Each function computes what its aten operator computes, with ordinary tensor operations; torch.export
traces it into the program before the exporter sees it. Sizes other than the batch are static there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import torch

aten = torch.ops.aten


def lowered(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """The program without the operators of this table; the same object where it has none of them."""
    used = {node.target for node in program.graph.nodes if node.op == "call_function"}
    table = {op: function for op, function in LOWERINGS.items() if op in used}
    return program.run_decompositions(table) if table else program


def adaptive_windows(size: int, outputs: int) -> list[tuple[int, int]]:
    """Start and end of each window of an adaptive pool: floor(i*n/m) to ceil((i+1)*n/m).

    Source: PyTorch, aten/src/ATen/native/AdaptivePooling.h.
    """
    return [(i * size // outputs, -(-(i + 1) * size // outputs)) for i in range(outputs)]


def _windows(x: torch.Tensor, sizes: Sequence[int]) -> tuple[list[torch.Tensor], list[list[int]]]:
    """Every window of an adaptive pool over the last dimensions, flat, with each element's flat position."""
    rank = len(sizes)
    extents = [int(n) for n in x.shape[-rank:]]
    per_dimension = [adaptive_windows(n, m) for n, m in zip(extents, sizes, strict=True)]
    windows, positions = [], []
    for spans in product(*per_dimension):
        window = x
        for axis, (start, end) in zip(range(-rank, 0), spans, strict=True):
            window = window.narrow(axis, start, end - start)
        windows.append(window.flatten(-rank))
        flat = []
        for index in product(*(range(start, end) for start, end in spans)):
            place = 0
            for coordinate, extent in zip(index, extents, strict=True):
                place = place * extent + coordinate
            flat.append(place)
        positions.append(flat)
    return windows, positions


def adaptive_avg_pool(x: torch.Tensor, output_size: Sequence[int]) -> torch.Tensor:
    """The mean of each window, exact for every size."""
    windows, _ = _windows(x, output_size)
    means = torch.stack([window.mean(-1) for window in windows], dim=-1)
    return means.reshape(*x.shape[: -len(output_size)], *output_size)


def adaptive_max_pool(x: torch.Tensor, output_size: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """The maximum of each window, and where it lies in the flattened plane."""
    windows, positions = _windows(x, output_size)
    values, indices = [], []
    for window, flat in zip(windows, positions, strict=True):
        value, place = window.max(-1)
        values.append(value)
        indices.append(torch.tensor(flat)[place])
    shape = (*x.shape[: -len(output_size)], *output_size)
    return torch.stack(values, dim=-1).reshape(shape), torch.stack(indices, dim=-1).reshape(shape)


def log_sigmoid(x: torch.Tensor) -> torch.Tensor:
    """min(x, 0) - log(1 + exp(-|x|)): finite wherever x is; log(sigmoid(x)) underflows below -104."""
    return x.clamp(max=0) - torch.log1p(torch.exp(-x.abs()))


LOWERINGS: dict[Any, Callable[..., Any]] = {
    aten.adaptive_avg_pool3d.default: adaptive_avg_pool,
    aten._adaptive_avg_pool3d.default: adaptive_avg_pool,
    aten.adaptive_max_pool1d.default: adaptive_max_pool,
    aten.adaptive_max_pool2d.default: adaptive_max_pool,
    aten.adaptive_max_pool3d.default: adaptive_max_pool,
    aten.log_sigmoid.default: log_sigmoid,
}
