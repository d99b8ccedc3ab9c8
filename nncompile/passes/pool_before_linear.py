"""A layer that works on each position by itself, moved behind the average pool.

Patterns: `Pool(f(x))`, where Pool is GlobalAveragePool or AveragePool, and f a Conv with a kernel of 1 x 1
(of any rank), stride 1 and no padding, or a BatchNormalization.

Algebra: a pool is one linear map P of the plane, in every channel alike; f is one linear map W of the
channels and a bias b, at every position alike. Maps of different axes commute, so

    P(W x + b)  =  W (P x) + P(b)        P(b) = b  where the elements of each window weigh 1 together

They do in a mean of the elements that a window has. Where padding counts as elements (`count_include_pad`),
and where `ceil_mode` lets a window reach beyond the plane, P(b) = b only for b = 0. Only the order of
summation changes.

Why: f then computes what the pool leaves. With C channels in, K out, k elements in a window and s the
product of the strides, a result of every channel costs `s C K + k K` before and `k C + C K` after; the rule
fires where that is less. For GlobalAveragePool both k and s are the plane, and the rule fires always. An
AveragePool of more channels than before must have a multiple of 16, or it falls out of ONNX Runtime's blocked
layout. (One core, ONNX Runtime 1.31, AVX-512, one row: 512 to 1000 channels of 7 x 7 in 1/11 of the time, 256
to 4 of 14 x 14 in 1/1.6, 256 to 128 with DenseNet's 2 x 2 pool in 1/2.7; 24 to 12 with it would take 1/0.8.)
"""

from __future__ import annotations

from math import prod
from typing import Any, ClassVar

import onnx_ir as ir

from nncompile.passes.affine import in_training
from nncompile.passes.contract import Pass
from nncompile.passes.rewriting import NOTHING_TO_DO, Match, Rule, apply_rules
from nncompile.passes.values import (
    Window,
    constant,
    given_input,
    int_attribute,
    ints_attribute,
    static_shape,
    string_attribute,
    window,
)

_BLOCK = 16  # channels that ONNX Runtime computes together where it has AVX-512; 8 elsewhere


class _PoolFirst(Rule):
    """Shared by both layers and both pools."""

    layer: ClassVar[str]
    pool: ClassVar[str]

    def pattern(self, op: Any, x: ir.Value) -> Any:
        inner = getattr(op, self.layer)(x, _allow_other_inputs=True, _outputs=["y"])
        return getattr(op, self.pool)(inner, _outputs=["pooled"])

    def refusal(self, match: Match) -> str | None:
        layer, pool = match.node("y"), match.node("pooled")
        reason = _conv_fault(layer) if self.layer == "Conv" else _norm_fault(layer)
        if reason is not None or self.pool == "GlobalAveragePool":
            return reason
        return _pool_fault(layer, pool)

    def replacement(self, op: Any, match: Match) -> Any:
        layer, pool, x = match.node("y"), match.node("pooled"), match["x"]
        first = getattr(op, self.pool)(x, **pool.attributes)
        first.type = x.type
        channels, plane = list(x.shape or ())[1:2], list(match["pooled"].shape or ())[2:]
        if channels and plane:
            first.shape = ir.Shape([x.shape[0], *channels, *plane])  # type: ignore[index]
        return getattr(op, self.layer)(first, *layer.inputs[1:], **layer.attributes)


class GlobalPoolBeforeConv(_PoolFirst):
    """`GlobalAveragePool(Conv(x))` to `Conv(GlobalAveragePool(x))`."""

    layer, pool = "Conv", "GlobalAveragePool"


class PoolBeforeConv(_PoolFirst):
    """`AveragePool(Conv(x))` to `Conv(AveragePool(x))`."""

    layer, pool = "Conv", "AveragePool"


class GlobalPoolBeforeBatchNorm(_PoolFirst):
    """`GlobalAveragePool(BatchNormalization(x))` to `BatchNormalization(GlobalAveragePool(x))`."""

    layer, pool = "BatchNormalization", "GlobalAveragePool"


class PoolBeforeBatchNorm(_PoolFirst):
    """`AveragePool(BatchNormalization(x))` to `BatchNormalization(AveragePool(x))`."""

    layer, pool = "BatchNormalization", "AveragePool"


def _conv_fault(conv: ir.Node) -> str | None:
    """Why a convolution does more than map the channels of each position; None where it does not."""
    kernel = (static_shape(conv.inputs[1]) or (None, None, None))[2:]
    if any(size != 1 for size in kernel):
        return f"the kernel is {' x '.join('?' if size is None else str(size) for size in kernel)}"
    strides, pads = (ints_attribute(conv, name) or () for name in ("strides", "pads"))
    if any(step != 1 for step in strides):
        return f"the convolution has strides {list(strides)}"
    if any(pads):
        return f"the convolution pads by {list(pads)}"
    mode = string_attribute(conv, "auto_pad", "NOTSET")
    return None if mode in ("NOTSET", "VALID") else f"the convolution pads as {mode}"


def _norm_fault(norm: ir.Node) -> str | None:
    """Why a batch norm is not the same map at every position; None where it is."""
    if in_training(norm):
        return "the batch norm is in training mode"
    return None if int_attribute(norm, "spatial", 1) else "the batch norm differs by position"


def _pool_fault(layer: ir.Node, pool: ir.Node) -> str | None:
    """Why the layer must not, or had better not, stand behind an AveragePool; None where it may."""
    view = window(pool)
    if view is None:
        return "the pool's kernel is not known"
    if not _weighs_one(view, pool) and not _has_no_bias(layer):
        return "the elements of a window may not weigh 1 together, and the layer has a bias"
    step, elements = prod(view.strides), prod(view.kernel)
    if layer.op_type != "Conv":
        return NOTHING_TO_DO if step == 1 else None
    outputs, inputs = (static_shape(layer.inputs[1]) or (None, None))[:2]
    if outputs is None or inputs is None:
        return "the number of channels is not known"
    channels = inputs * int_attribute(layer, "group", 1)
    before, after = step * inputs * outputs + elements * outputs, elements * channels + inputs * outputs
    if after >= before:
        return f"a result would cost {after} operations instead of {before}"
    if channels > outputs and channels % _BLOCK:
        return f"the pool would have {channels} channels instead of {outputs}, and no multiple of {_BLOCK}"
    return None


def _weighs_one(view: Window, pool: ir.Node) -> bool:
    """Whether a pool is certain to leave a constant plane as it is."""
    if view.ceil:
        return False
    if not view.padded:
        return True
    if int_attribute(pool, "count_include_pad", 0) or view.dilated:  # a dilated window may miss the plane
        return False
    return all(
        pad < size for pads in (view.before, view.after) for pad, size in zip(pads, view.kernel, strict=True)
    )


def _has_no_bias(layer: ir.Node) -> bool:
    if layer.op_type != "Conv":
        return False
    bias = given_input(layer, 2)
    added = constant(bias)
    return bias is None or (added is not None and not added.any())


POOL_BEFORE_LINEAR = Pass(
    "pool-before-linear",
    "a 1 x 1 convolution or batch norm moved behind the average pool, to fewer elements",
    apply_rules(GlobalPoolBeforeConv, PoolBeforeConv, GlobalPoolBeforeBatchNorm, PoolBeforeBatchNorm),
)
