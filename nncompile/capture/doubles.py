"""Operators of float64 whose ONNX keeps a Python number in float32, in terms of operators that do not.

ONNX's attributes are float32, and some translations of the exporter compute with numbers of that width: its
log10 divides by a logarithm of 10 of 8 digits. torch's own decompositions name their numbers one by one
beside a tensor, where they are exact (`constants`). ONNX Runtime's CPU has no float64 kernel for several of
these operators either (LeakyRelu, Elu, HardSwish).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch._decomp import get_decompositions

aten = torch.ops.aten

# Decomposed by torch's tables.
_BY_TABLE = (
    aten.leaky_relu.default,
    aten.elu.default,
    aten.softplus.default,
    aten.hardsigmoid.default,
    aten.hardswish.default,
    aten.softshrink.default,
    aten.mish.default,
    aten.addcmul.default,
    aten.addcdiv.default,
    aten.smooth_l1_loss.default,
    aten.huber_loss.default,
    aten.native_layer_norm.default,
    aten.native_group_norm.default,
    aten._fused_rms_norm.default,
    aten.linalg_vector_norm.default,
    aten.dist.default,
    aten.addmm.default,
    aten.baddbmm.default,
    aten.addr.default,
    aten.nan_to_num.default,
    aten.linspace.default,
    aten.logspace.default,
    aten.sinc.default,
    aten._prelu_kernel.default,
    aten.norm.ScalarOpt_dim,
    aten.norm.Scalar,
    aten.rsub.Scalar,
)
# Composed of others by torch itself.
_BY_PARTS = (
    aten.layer_norm.default,
    aten.group_norm.default,
    aten.rms_norm.default,
    aten.selu.default,
    aten.prelu.default,
    aten.pairwise_distance.default,
    aten.cosine_similarity.default,
)


def in_float64(*args: Any, **named: Any) -> bool:
    """Whether an operator takes or makes tensors of float64."""
    given = (*args, *named.values())
    return any(
        value is torch.float64 or (isinstance(value, torch.Tensor) and value.dtype is torch.float64)
        for value in given
    )


def added(sign: int) -> Callable[..., Any]:
    """The sum x + alpha * y, or the difference x - alpha * y."""

    def lowered_sum(x: torch.Tensor, y: Any, alpha: float = 1) -> Any:
        if alpha == 1:
            return NotImplemented
        scaled = y * alpha
        return x + scaled if sign > 0 else x - scaled

    return lowered_sum


def number(value: float, like: torch.Tensor) -> torch.Tensor:
    """A Python number as a tensor without dimensions."""
    return torch.scalar_tensor(value, dtype=like.dtype)


def power(base: float, exponent: torch.Tensor) -> torch.Tensor:
    """A number to the power of a tensor."""
    return torch.pow(number(base, exponent), exponent)


def addmv(
    x: torch.Tensor, matrix: torch.Tensor, vector: torch.Tensor, beta: float = 1, alpha: float = 1
) -> torch.Tensor:
    """The sum beta * x + alpha * (matrix @ vector)."""
    return x * beta + torch.mv(matrix, vector) * alpha


def full_like(x: torch.Tensor, value: float, dtype: torch.dtype | None = None, **_: Any) -> torch.Tensor:
    """One number in the shape of a tensor."""
    return torch.full(x.shape, value, dtype=dtype or x.dtype)


def new_full(
    x: torch.Tensor, size: Sequence[int], value: float, dtype: torch.dtype | None = None, **_: Any
) -> torch.Tensor:
    """One number in a given shape."""
    return torch.full(size, value, dtype=dtype or x.dtype)


def hardtanh(x: torch.Tensor, low: float = -1, high: float = 1) -> torch.Tensor:
    """Between two bounds."""
    return x.clamp(low, high)


def logit(x: torch.Tensor, eps: float | None = None) -> torch.Tensor:
    """log(x / (1 - x)), of x between eps and 1 - eps."""
    inside = x if eps is None else x.clamp(eps, 1 - eps)
    return torch.log(inside / (1 - inside))


def arange(start: float, end: float, step: float = 1, dtype: torch.dtype | None = None, **_: Any) -> Any:
    """Numbers start + i * step, for sizes that do not depend on others."""
    if not all(isinstance(number, (int, float)) for number in (start, end, step)):
        return NotImplemented
    return torch.arange(math.ceil((end - start) / step)).to(dtype or torch.float64) * step + start


def lerp(x: torch.Tensor, end: torch.Tensor, weight: Any) -> torch.Tensor:
    """From the nearer end.

    Source: PyTorch, aten/src/ATen/native/Lerp.h.
    """
    weight = weight if isinstance(weight, torch.Tensor) else number(weight, x)
    far = end - (end - x) * (1 - weight)
    return torch.where(weight.abs() < 0.5, x + weight * (end - x), far)


def index_fill(x: torch.Tensor, dim: int, index: torch.Tensor, value: float) -> torch.Tensor:
    """A number at places of one dimension."""
    return torch.index_fill(x, dim, index, number(value, x))


def masked_fill(x: torch.Tensor, mask: torch.Tensor, value: float) -> torch.Tensor:
    """A number where a mask is true."""
    return torch.masked_fill(x, mask, number(value, x))


def scaled(factor: float) -> Callable[..., torch.Tensor]:
    """A multiple."""
    return lambda x: x * factor


def logarithm(base: float) -> Callable[..., torch.Tensor]:
    """To a base."""
    return lambda x: torch.log(x) / torch.log(number(base, x))


def batch_norm(
    x: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    mean: torch.Tensor,
    variance: torch.Tensor,
    momentum: float,
    eps: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """With the statistics that it was trained to; those of the batch, which are not asked for, are empty."""
    del momentum  # of training
    empty = x.new_empty(0)
    return _normalized(x, mean, variance, weight, bias, eps), empty, empty


def instance_norm(
    x: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    mean: torch.Tensor | None,
    variance: torch.Tensor | None,
    own: bool,
    momentum: float,
    eps: float,
    *_: Any,
) -> torch.Tensor:
    """With the statistics of each plane, or with those that it was trained to."""
    del momentum
    if own or mean is None or variance is None:
        variance, mean = torch.var_mean(x, list(range(2, x.dim())), correction=0)
    return _normalized(x, mean, variance, weight, bias, eps)


def _normalized(
    x: torch.Tensor,
    mean: torch.Tensor,
    variance: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    eps: float,
) -> torch.Tensor:
    """Statistics of shape (channels,) or (batch, channels); weights of shape (channels,)."""
    behind = [1] * (x.dim() - 2)
    result = (x - mean.reshape(-1, mean.shape[-1], *behind)) * torch.rsqrt(
        variance.reshape(-1, mean.shape[-1], *behind) + eps
    )
    result = result if weight is None else result * weight.reshape(-1, *behind)
    return result if bias is None else result + bias.reshape(-1, *behind)


def gelu(x: torch.Tensor, approximate: str = "none") -> Any:
    """Its approximation by a hyperbolic tangent, whose numbers are not those of float32."""
    if approximate != "tanh":
        return NotImplemented
    inner = (2 / torch.pi) ** 0.5 * (x + 0.044715 * x * x * x)
    return 0.5 * x * (1 + torch.tanh(inner))


def _guarded(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def only_float64(*args: Any, **named: Any) -> Any:
        return function(*args, **named) if in_float64(*args, **named) else NotImplemented

    return only_float64


_OWN: dict[Any, Callable[..., Any]] = {
    aten.add.Tensor: added(1),
    aten.sub.Tensor: added(-1),
    aten.pow.Scalar: power,
    aten.addmv.default: addmv,
    aten.full_like.default: full_like,
    aten.new_full.default: new_full,
    aten.hardtanh.default: hardtanh,
    aten.logit.default: logit,
    aten.arange.start: arange,
    aten.arange.start_step: arange,
    aten.lerp.Scalar: lerp,
    aten.lerp.Tensor: lerp,
    aten.index_fill.int_Scalar: index_fill,
    aten.masked_fill.Scalar: masked_fill,
    aten.fill.Scalar: full_like,
    aten.deg2rad.default: scaled(torch.pi / 180),
    aten.rad2deg.default: scaled(180 / torch.pi),
    aten.log10.default: logarithm(10),
    aten.log2.default: logarithm(2),
    aten._native_batch_norm_legit_no_training.default: batch_norm,
    aten.instance_norm.default: instance_norm,
    aten.gelu.default: gelu,
}
_composed = torch.export.default_decompositions()
LOWERINGS: dict[Any, Callable[..., Any]] = {
    operator: _guarded(function)
    for operator, function in (
        *get_decompositions(_BY_TABLE).items(),
        *((operator, _composed[operator]) for operator in _BY_PARTS),
        *_OWN.items(),
    )
}
