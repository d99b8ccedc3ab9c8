"""Operators that PyTorch's exporter cannot translate, or translates inexactly, in terms of those it can.

Each function computes what its aten operator computes, with ordinary tensor operations; torch.export
traces it into the program before the exporter sees it. A size that one
needs as a number is fixed by that, and refused where it was to be free (`free_sizes`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch._decomp.decompositions

from nncompile.capture import (
    attention,
    division,
    doubles,
    elementary,
    integers,
    losses,
    order,
    pairs,
    pools,
    quantized,
    row_kernels,
    scans,
    scatters,
    special,
)
from nncompile.capture.bags import embedding_bag
from nncompile.capture.folds import fold
from nncompile_runtime.manifest import Target

aten = torch.ops.aten
_Table = Mapping[Any, Callable[..., Any]]


def lowered(program: torch.export.ExportedProgram, target: Target) -> torch.export.ExportedProgram:
    """The program without the operators of this table; the same object where it has none of them."""
    table: _Table = {**_either(LOWERINGS, integers.LOWERINGS), **(FOR_CUDA if target == "cuda" else {})}
    graphs = [part.graph for part in program.graph_module.modules() if isinstance(part, torch.fx.GraphModule)]
    nodes = [node for graph in graphs for node in graph.nodes]  # those in the branches of torch.cond, too
    in_doubles = any(map(_is_double, nodes))
    if in_doubles:
        table = _either(table, doubles.LOWERINGS)
    needed = in_doubles or any(node.target in table and not _right_as_it_is(node) for node in nodes)
    # The whole table: one of these operators may decompose into another.
    return program.run_decompositions(dict(table)) if needed else program


def _either(first: _Table, second: _Table) -> _Table:
    """Both tables; an operator that is in both is what the first makes of it, or else the second."""

    def tried(operator: Any) -> Callable[..., Any]:
        def lowered_operator(*args: Any, **named: Any) -> Any:
            result = first[operator](*args, **named)
            return second[operator](*args, **named) if result is NotImplemented else result

        return lowered_operator

    return {**first, **second, **{operator: tried(operator) for operator in first.keys() & second.keys()}}


def _is_double(node: torch.fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and value.dtype is torch.float64


def extreme_of_all(whole: Callable[[torch.Tensor], torch.Tensor]) -> Callable[..., Any]:
    """The extreme value over all dimensions, which `amax` and `amin` mean where they are told none."""

    def lowered_extreme(x: torch.Tensor, dim: Sequence[int] = (), keepdim: bool = False) -> Any:
        if dim:
            return NotImplemented
        return whole(x).reshape([1] * x.dim()) if keepdim else whole(x)

    return lowered_extreme


def cast_first(function: Callable[..., torch.Tensor]) -> Callable[..., Any]:
    """In the dtype that is asked for; the exporter casts what came out of the dtype of what went in."""

    def lowered_function(x: torch.Tensor, *args: Any, **named: Any) -> Any:
        dtype = _asked_dtype(args, named)
        if dtype in (None, x.dtype):
            return NotImplemented
        others = {name: value for name, value in named.items() if name != "dtype"}
        return function(x.to(dtype), *(arg for arg in args if not isinstance(arg, torch.dtype)), **others)

    return lowered_function


def _asked_dtype(args: Sequence[Any], named: Mapping[str, Any]) -> torch.dtype | None:
    return next((arg for arg in (*args, named.get("dtype")) if isinstance(arg, torch.dtype)), None)


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


def diagonal(x: torch.Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Any:
    """By picking its elements; the exporter adds up rows times 0 and 1, so that one infinity makes NaN."""
    planes = x.movedim((dim1, dim2), (-2, -1))
    rows, columns = planes.shape[-2:]
    if not (isinstance(rows, int) and isinstance(columns, int)):
        return NotImplemented
    count = max(0, min(rows + min(offset, 0), columns - max(offset, 0)))
    first = max(-offset, 0) * columns + max(offset, 0)
    places = first + torch.arange(count) * (columns + 1)
    return planes.flatten(-2).index_select(-1, places)


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
    aten.adaptive_avg_pool3d.default: pools.adaptive_avg_pool,
    aten._adaptive_avg_pool3d.default: pools.adaptive_avg_pool,
    aten.adaptive_max_pool1d.default: pools.adaptive_max_pool,
    aten.adaptive_max_pool2d.default: pools.adaptive_max_pool,
    aten.adaptive_max_pool3d.default: pools.adaptive_max_pool,
    aten.expm1.default: elementary.expm1,
    aten.log1p.default: elementary.log1p,
    aten.logaddexp.default: elementary.logaddexp,
    aten.logaddexp2.default: elementary.logaddexp2,
    aten.mean.default: cast_first(torch.mean),
    aten.mean.dim: cast_first(torch.mean),
    aten.softmax.int: cast_first(torch.softmax),
    aten.log_softmax.int: cast_first(torch.log_softmax),
    aten.log_sigmoid.default: losses.log_sigmoid,
    aten.binary_cross_entropy_with_logits.default: losses.bce_with_logits,
    aten.cross_entropy_loss.default: losses.cross_entropy,
    aten.nll_loss_nd.default: losses.nll,
    aten.multilabel_margin_loss.default: losses.multilabel_margin,
    **losses.COMPOSED,
    aten.avg_pool1d.default: pools.avg_pool(1),
    aten.avg_pool2d.default: pools.avg_pool(2),
    aten.avg_pool3d.default: pools.avg_pool(3),
    aten.amax.default: extreme_of_all(torch.max),
    aten.amin.default: extreme_of_all(torch.min),
    aten.max_pool1d.default: pools.max_pool(1),
    aten.max_pool2d.default: pools.max_pool(2),
    aten.max_pool3d.default: pools.max_pool(3),
    aten.clamp.default: clamp,
    aten.conv1d.default: row_kernels.conv1d,
    aten.conv2d.default: row_kernels.conv2d,
    aten.conv_transpose2d.input: row_kernels.conv_transpose2d,
    aten.conv3d.default: conv3d,
    aten.lstm.input: projected_lstm,
    aten.embedding_bag.default: embedding_bag,
    aten.embedding_bag.padding_idx: embedding_bag,
    aten.diagonal.default: diagonal,
    aten.one_hot.default: one_hot,
    aten.rrelu.default: rrelu,
    aten.celu.default: celu,
    aten.scaled_dot_product_attention.default: attention.scaled_dot_product,
    aten._transformer_encoder_layer_fwd.default: attention.encoder_layer,
    aten._native_multi_head_attention.default: attention.multi_head_attention,
    **division.LOWERINGS,
    **integers.ALWAYS,
    **order.LOWERINGS,
    **pairs.LOWERINGS,
    **scans.LOWERINGS,
    **scatters.LOWERINGS,
    **special.LOWERINGS,
    **quantized.LOWERINGS,
}
# Slower than ONNX Runtime's own kernels on the CPU, which have no equals on a GPU.
FOR_CUDA: dict[Any, Callable[..., Any]] = {aten.col2im.default: fold}


_WITH_DTYPE = (aten.mean.default, aten.mean.dim, aten.softmax.int, aten.log_softmax.int)
_MAX_POOLS = (aten.max_pool1d.default, aten.max_pool2d.default, aten.max_pool3d.default)
_IN_GROUPS = (aten.conv1d.default, aten.conv2d.default, aten.conv_transpose2d.input)
_AVG_POOLS = (aten.avg_pool1d.default, aten.avg_pool2d.default, aten.avg_pool3d.default)


def _right_as_it_is(node: torch.fx.Node) -> bool:
    """Common operators that the exporter has right except with one option: not worth another tracing."""
    if node.target in integers.DTYPES:
        made = node.meta.get("val")
        made = made[0] if isinstance(made, (tuple, list)) else made
        return not isinstance(made, torch.Tensor) or made.dtype not in integers.DTYPES[node.target]
    if node.target in (aten.amax.default, aten.amin.default):
        return bool((node.args[1:2] and node.args[1]) or node.kwargs.get("dim"))
    if node.target in _WITH_DTYPE:
        return _asked_dtype(node.args, node.kwargs) is None
    if node.target in _MAX_POOLS:
        return len(node.args) <= 5 and "ceil_mode" not in node.kwargs
    if node.target in _AVG_POOLS:
        plain = not node.kwargs.keys() & {"ceil_mode", "divisor_override"}
        return plain and len(node.args) <= 6 and node.args[4:5] != (True,)
    if node.target is aten.clamp.default:
        bounds = [*node.args[1:], *node.kwargs.values()]
        return len(bounds) < 2 or None in bounds or len({isinstance(bound, int) for bound in bounds}) < 2
    if node.target in _IN_GROUPS:
        return not row_kernels.has_free_groups(node, 6)
    if node.target is aten.scaled_dot_product_attention.default:
        query: Any = node.args[0]
        mask: Any = node.args[3] if len(node.args) > 3 else node.kwargs.get("attn_mask")
        scaled = node.kwargs.get("scale") is not None
        return attention.fits_as_it_is(query.meta["val"], mask and mask.meta["val"], scaled)
    if node.target is aten.conv3d.default:
        return len(node.args) > 2 and node.args[2] is not None
    if node.target is aten.lstm.input:
        states: Any = node.args[1]
        return bool(states[0].meta["val"].shape[-1] == states[1].meta["val"].shape[-1])
    return False
