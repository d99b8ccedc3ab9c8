"""Operators that PyTorch's exporter cannot translate, or translates inexactly, in terms of those it can.

Each function computes what its aten operator computes, with ordinary tensor operations; torch.export
traces it into the program before the exporter sees it. Sizes other than the batch are static there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import torch
import torch._decomp.decompositions

from nncompile.capture import losses

aten = torch.ops.aten


def lowered(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """The program without the operators of this table; the same object where it has none of them."""
    needed = any(node.target in LOWERINGS and not _right_as_it_is(node) for node in program.graph.nodes)
    # The whole table: one of these operators may decompose into another.
    return program.run_decompositions(LOWERINGS) if needed else program


def adaptive_windows(size: int, outputs: int) -> list[tuple[int, int]]:
    """Start and end of each window of an adaptive pool: floor(i*n/m) to ceil((i+1)*n/m).

    Source: PyTorch, aten/src/ATen/native/AdaptivePooling.h.
    """
    return [(i * size // outputs, -(-(i + 1) * size // outputs)) for i in range(outputs)]


def _windows(x: torch.Tensor, sizes: Sequence[int]) -> list[tuple[torch.Tensor, tuple[tuple[int, int], ...]]]:
    """Every window of an adaptive pool over the last dimensions, flat, with its span in each of them."""
    rank = len(sizes)
    extents = [int(n) for n in x.shape[-rank:]]
    spans = product(*(adaptive_windows(n, int(m)) for n, m in zip(extents, sizes, strict=True)))
    windows = []
    for span in spans:
        window = x
        for axis, (start, end) in zip(range(-rank, 0), span, strict=True):
            window = window.narrow(axis, start, end - start)
        windows.append((window.flatten(-rank), span))
    return windows


def adaptive_avg_pool(x: torch.Tensor, output_size: Sequence[int]) -> torch.Tensor:
    """The mean of each window, exact for every size."""
    means = torch.stack([window.mean(-1) for window, _ in _windows(x, output_size)], dim=-1)
    return means.reshape(*x.shape[: -len(output_size)], *output_size)


def adaptive_max_pool(x: torch.Tensor, output_size: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """The maximum of each window, and where it lies in the flattened plane."""
    extents = [int(n) for n in x.shape[-len(output_size) :]]
    values, indices = [], []
    for window, span in _windows(x, output_size):
        value, inside = window.max(-1)
        values.append(value)
        indices.append(_place(inside, span, extents))
    shape = (*x.shape[: -len(output_size)], *output_size)
    return torch.stack(values, dim=-1).reshape(shape), torch.stack(indices, dim=-1).reshape(shape)


def _place(inside: torch.Tensor, span: Sequence[tuple[int, int]], extents: Sequence[int]) -> torch.Tensor:
    """The flat position in the whole plane of a flat position in a window."""
    place = torch.zeros_like(inside)
    stride = 1
    for (start, end), extent in zip(reversed(span), reversed(extents), strict=True):
        place = place + (inside % (end - start) + start) * stride
        inside = inside // (end - start)
        stride *= extent
    return place


def avg_pool(rank: int) -> Callable[..., Any]:
    """Average pooling with `divisor_override`, which the exporter leaves out: a sum over another divisor."""
    pool = getattr(torch.nn.functional, f"avg_pool{rank}d")

    def lowered_pool(
        x: torch.Tensor,
        kernel: Sequence[int],
        stride: Sequence[int] = (),
        padding: Sequence[int] = (0,),
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> Any:
        if divisor_override is None or ceil_mode:
            return NotImplemented  # as it is; windows over the edge have divisors of their own
        del count_include_pad
        kernel = list(kernel) * (rank if len(kernel) == 1 else 1)
        elements = math.prod(kernel)
        return pool(x, kernel, list(stride) or None, list(padding)) * (elements / divisor_override)

    return lowered_pool


def clamp(x: torch.Tensor, low: float | None = None, high: float | None = None) -> Any:
    """Bounds of which one is an integer and one is not, for which the exporter finds no operator."""
    if low is None or high is None or isinstance(low, int) == isinstance(high, int):
        return NotImplemented
    return x.clamp(float(low), float(high))


def conv3d(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None, *more: Any) -> Any:
    """Without bias; the exporter would give it one of rank 2 (onnxscript issue 2931), which nothing runs."""
    if bias is not None:
        return NotImplemented
    zeros = weight.new_full((weight.shape[0],), 0)  # fold-constants leaves new_zeros as it is
    return torch.conv3d(x, weight, zeros, *more)


def projected_lstm(
    x: torch.Tensor,
    hx: Sequence[torch.Tensor],
    params: Sequence[torch.Tensor],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> Any:
    """An LSTM with `proj_size`, which ONNX's LSTM does not have, unrolled by torch's own decomposition."""
    if len(params) % (5 if has_biases else 3) or hx[0].shape[-1] == hx[1].shape[-1]:
        return NotImplemented
    unrolled: Callable[..., Any] = torch._decomp.decompositions.lstm_impl
    return unrolled(x, hx, params, has_biases, num_layers, dropout, train, bidirectional, batch_first)


def rrelu(x: torch.Tensor, lower: float = 1 / 8, upper: float = 1 / 3, *_: Any, **__: Any) -> torch.Tensor:
    """Outside training the slope is the middle of its range."""
    return torch.nn.functional.leaky_relu(x, (lower + upper) / 2)


LOWERINGS: dict[Any, Callable[..., Any]] = {
    aten.adaptive_avg_pool3d.default: adaptive_avg_pool,
    aten._adaptive_avg_pool3d.default: adaptive_avg_pool,
    aten.adaptive_max_pool1d.default: adaptive_max_pool,
    aten.adaptive_max_pool2d.default: adaptive_max_pool,
    aten.adaptive_max_pool3d.default: adaptive_max_pool,
    aten.log_sigmoid.default: losses.log_sigmoid,
    aten.binary_cross_entropy_with_logits.default: losses.bce_with_logits,
    aten.cross_entropy_loss.default: losses.cross_entropy,
    aten.multilabel_margin_loss.default: losses.multilabel_margin,
    aten.avg_pool2d.default: avg_pool(2),
    aten.avg_pool3d.default: avg_pool(3),
    aten.clamp.default: clamp,
    aten.conv3d.default: conv3d,
    aten.lstm.input: projected_lstm,
    aten.rrelu.default: rrelu,
}


def _right_as_it_is(node: torch.fx.Node) -> bool:
    """Common operators that the exporter has right except with one option: not worth another tracing."""
    if node.target in (aten.avg_pool2d.default, aten.avg_pool3d.default):
        return len(node.args) <= 6 and "divisor_override" not in node.kwargs
    if node.target is aten.clamp.default:
        bounds = [*node.args[1:], *node.kwargs.values()]
        return len(bounds) < 2 or None in bounds or len({isinstance(bound, int) for bound in bounds}) < 2
    if node.target is aten.conv3d.default:
        return len(node.args) > 2 and node.args[2] is not None
    if node.target is aten.lstm.input:
        states: Any = node.args[1]
        return bool(states[0].meta["val"].shape[-1] == states[1].meta["val"].shape[-1])
    return False
