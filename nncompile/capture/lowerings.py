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

from nncompile.capture import attention, losses, quantized
from nncompile.capture.bags import embedding_bag

aten = torch.ops.aten


def lowered(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """The program without the operators of this table; the same object where it has none of them."""
    graphs = [part.graph for part in program.graph_module.modules() if isinstance(part, torch.fx.GraphModule)]
    nodes = (node for graph in graphs for node in graph.nodes)  # those in the branches of torch.cond, too
    needed = any(node.target in LOWERINGS and not _right_as_it_is(node) for node in nodes)
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


def _last_windows(sizes: Sequence[int], *window: Sequence[int]) -> list[int] | None:
    """How far the last window of `ceil_mode` reaches beyond the padding, where ONNX counts windows wrongly.

    ONNX's shape inference counts one that would start in the padding behind, which PyTorch leaves out: the
    graph then declares a result larger than the one that ONNX Runtime computes.

    Args:
        sizes: Of the plane.
        window: Kernel, stride, padding and dilation, each with one number for each axis.

    Returns:
        None where both count alike, or a size is not known.
    """
    if not all(isinstance(size, int) for size in sizes):
        return None
    beyond, differs = [], False
    for n, k, s, p, d in zip(sizes, *window, strict=True):
        reach = d * (k - 1) + 1
        windows = -(-(n + 2 * p - reach) // s) + 1
        if (windows - 1) * s >= n + p:
            windows, differs = windows - 1, True
        beyond.append(max(0, (windows - 1) * s + reach - n - 2 * p))
    return beyond if differs else None


def _each(numbers: Sequence[int], rank: int) -> list[int]:
    return list(numbers) * (rank if len(numbers) == 1 else 1)


def max_pool(rank: int) -> Callable[..., Any]:
    """Maximum pooling whose `ceil_mode` ONNX misunderstands: padded with -inf to full windows."""
    pool = getattr(torch.nn.functional, f"max_pool{rank}d")

    def lowered_pool(
        x: torch.Tensor,
        kernel: Sequence[int],
        stride: Sequence[int] = (),
        padding: Sequence[int] = (0,),
        dilation: Sequence[int] = (1,),
        ceil_mode: bool = False,
    ) -> Any:
        window = [_each(part, rank) for part in (kernel, stride or kernel, padding, dilation)]
        beyond = _last_windows(x.shape[-rank:], *window) if ceil_mode else None
        if beyond is None:
            return NotImplemented
        if any(beyond):
            amounts = [amount for size in reversed(beyond) for amount in (0, size)]
            x = torch.nn.functional.pad(x, amounts, value=-math.inf)
        return pool(x, *window)

    return lowered_pool


def avg_pool(rank: int) -> Callable[..., Any]:
    """Average pooling with `divisor_override`, which the exporter leaves out: a sum over another divisor.

    And `ceil_mode` that ONNX misunderstands, where it adds no window.
    """
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
        kernel, stride, padding = (_each(part, rank) for part in (kernel, stride or kernel, padding))
        if ceil_mode:  # windows over the edge have divisors of their own
            beyond = _last_windows(x.shape[-rank:], kernel, stride, padding, [1] * rank)
            if beyond is None or any(beyond) or divisor_override is not None:
                return NotImplemented
            return pool(x, kernel, stride, padding, False, count_include_pad)
        if divisor_override is None:
            return NotImplemented
        return pool(x, kernel, stride, padding) * (math.prod(kernel) / divisor_override)

    return lowered_pool


def extreme_of_all(whole: Callable[[torch.Tensor], torch.Tensor]) -> Callable[..., Any]:
    """The extreme value over all dimensions, which `amax` and `amin` mean where they are told none."""

    def lowered_extreme(x: torch.Tensor, dim: Sequence[int] = (), keepdim: bool = False) -> Any:
        if dim:
            return NotImplemented
        return whole(x).reshape([1] * x.dim()) if keepdim else whole(x)

    return lowered_extreme


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


def one_hot(index: torch.Tensor, num_classes: int = -1) -> Any:
    """By writing ones, which refuses an index that is no class; comparing with each class gives it zeros."""
    if num_classes < 0:
        return NotImplemented
    return index.new_zeros((*index.shape, num_classes)).scatter(-1, index.unsqueeze(-1), 1)


def rrelu(x: torch.Tensor, lower: float = 1 / 8, upper: float = 1 / 3, *_: Any, **__: Any) -> torch.Tensor:
    """Outside training the slope is the middle of its range."""
    return torch.nn.functional.leaky_relu(x, (lower + upper) / 2)


def celu(x: torch.Tensor, alpha: float = 1.0) -> torch.Tensor:
    """Without ONNX's Celu, for which ONNX Runtime has no kernel on a GPU."""
    if alpha == 1:
        return torch.nn.functional.elu(x)
    return torch.where(x > 0, x, alpha * torch.expm1(x / alpha))


LOWERINGS: dict[Any, Callable[..., Any]] = {
    aten.adaptive_avg_pool3d.default: adaptive_avg_pool,
    aten._adaptive_avg_pool3d.default: adaptive_avg_pool,
    aten.adaptive_max_pool1d.default: adaptive_max_pool,
    aten.adaptive_max_pool2d.default: adaptive_max_pool,
    aten.adaptive_max_pool3d.default: adaptive_max_pool,
    aten.log_sigmoid.default: losses.log_sigmoid,
    aten.binary_cross_entropy_with_logits.default: losses.bce_with_logits,
    aten.cross_entropy_loss.default: losses.cross_entropy,
    aten.nll_loss_nd.default: losses.nll,
    aten.multilabel_margin_loss.default: losses.multilabel_margin,
    aten.avg_pool1d.default: avg_pool(1),
    aten.avg_pool2d.default: avg_pool(2),
    aten.avg_pool3d.default: avg_pool(3),
    aten.amax.default: extreme_of_all(torch.max),
    aten.amin.default: extreme_of_all(torch.min),
    aten.max_pool1d.default: max_pool(1),
    aten.max_pool2d.default: max_pool(2),
    aten.max_pool3d.default: max_pool(3),
    aten.clamp.default: clamp,
    aten.conv3d.default: conv3d,
    aten.lstm.input: projected_lstm,
    aten.embedding_bag.default: embedding_bag,
    aten.embedding_bag.padding_idx: embedding_bag,
    aten.one_hot.default: one_hot,
    aten.rrelu.default: rrelu,
    aten.celu.default: celu,
    aten._transformer_encoder_layer_fwd.default: attention.encoder_layer,
    aten._native_multi_head_attention.default: attention.multi_head_attention,
    **quantized.LOWERINGS,
}


_MAX_POOLS = (aten.max_pool1d.default, aten.max_pool2d.default, aten.max_pool3d.default)
_AVG_POOLS = (aten.avg_pool1d.default, aten.avg_pool2d.default, aten.avg_pool3d.default)


def _right_as_it_is(node: torch.fx.Node) -> bool:
    """Common operators that the exporter has right except with one option: not worth another tracing."""
    if node.target in (aten.amax.default, aten.amin.default):
        return bool((node.args[1:2] and node.args[1]) or node.kwargs.get("dim"))
    if node.target in _MAX_POOLS:
        return len(node.args) <= 5 and "ceil_mode" not in node.kwargs
    if node.target in _AVG_POOLS:
        plain = not node.kwargs.keys() & {"ceil_mode", "divisor_override"}
        return plain and len(node.args) <= 6 and node.args[4:5] != (True,)
    if node.target is aten.clamp.default:
        bounds = [*node.args[1:], *node.kwargs.values()]
        return len(bounds) < 2 or None in bounds or len({isinstance(bound, int) for bound in bounds}) < 2
    if node.target is aten.conv3d.default:
        return len(node.args) > 2 and node.args[2] is not None
    if node.target is aten.lstm.input:
        states: Any = node.args[1]
        return bool(states[0].meta["val"].shape[-1] == states[1].meta["val"].shape[-1])
    return False
