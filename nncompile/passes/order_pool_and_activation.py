"""A MaxPool or Reshape and its activation in the order that is cheaper.

Patterns: `Relu(MaxPool(c))` to `MaxPool(Relu(c))` where c is the result of a Conv that nothing else reads;
`Relu(Reshape(c))` and `Relu(Flatten(c))` likewise, where c is that of a Conv, Gemm or MaxPool; and
`MaxPool(f(x))` to `f(MaxPool(x))` where the pool has strides and f is Clip, Elu, HardSigmoid, LeakyRelu,
Sigmoid, Softplus or Tanh, or a BatchNormalization with no negative scale.

Algebra: `f(max(a, b)) = max(f(a), f(b))` for every f that is monotone non-decreasing, so

    f(MaxPool(x)) = MaxPool(f(x))

because a pool only chooses among its elements. Clip is monotone for any bounds, Elu, HardSigmoid and
LeakyRelu where alpha >= 0. (Gelu, Mish, HardSwish and SiLU are not monotone.) Padding counts as -inf, which
is not chosen where the window holds an element of x. It may hold none, and then f(-inf) and -inf differ,
where the padding is no smaller than the kernel, where a padded window is dilated, and where `ceil_mode`
starts a window behind the last element; with stride s, kernel k and padding p behind, the last start is below
size + p - k + s, so `p + s <= k` rules that out. Relu, LeakyRelu, Clip and HardSigmoid give the same bits,
since rounding is monotone too; the others do to within the last bit of ONNX Runtime's approximations. NaN:
which of a window's elements a MaxPool takes when one is NaN differs between implementations (ONNX Runtime's
drops or keeps it by its place); of nothing but -inf, ONNX Runtime's float32 MaxPool makes the lowest finite
number.

A Relu sees each element by itself, and a Reshape only renames them. A batch norm is `x * s + t`, channel by
channel: monotone where s >= 0.

Why these orders: ONNX Runtime computes a Relu directly behind a Conv or Gemm for nothing (its
ConvActivationFusion; 1 to 2% gained, and up to 13% behind a Reshape). The other activations cost time even
there, so a 2 x 2 pool in front saves three quarters of it (Conv 3 x 3 of 1 to 32 channels, 28 x 28, batch 32,
one core, ONNX Runtime 1.31: Clip 280 to 221, LeakyRelu 313 to 229, HardSigmoid 301 to 230, Tanh 387 to 251,
Sigmoid 403 to 258 microseconds). A batch norm costs little, but behind the pool the next layer can take it.
"""

from __future__ import annotations

from math import prod
from typing import Any, ClassVar

import onnx_ir as ir

from nncompile.passes.affine import batch_norm, batch_norm_fault
from nncompile.passes.contract import Pass
from nncompile.passes.rewriting import NOTHING_TO_DO, Match, Rule, apply_rules
from nncompile.passes.values import (
    Window,
    float_attribute,
    window,
)

_TAKES_RELU = ("Conv", "Gemm", "MaxPool")


class ReluBeforePool(Rule):
    """`Relu(MaxPool(conv))` to `MaxPool(Relu(conv))`."""

    def pattern(self, op: Any, x: ir.Value) -> Any:
        return op.Relu(op.MaxPool(x, _outputs=["pooled"]))

    def refusal(self, match: Match) -> str | None:
        pool, layer = match.node("pooled"), match["x"].producer()
        if layer is None or layer.op_type != "Conv" or layer.graph is not pool.graph:
            return "the pool does not follow a convolution"
        if match["x"].is_graph_output() or len(match["x"].uses()) > 1:
            return "the convolution's result is used elsewhere or is a graph output"
        return _does_more_than_choose(pool)

    def replacement(self, op: Any, match: Match) -> Any:
        first = op.Relu(match["x"])
        first.type, first.shape = match["x"].type, match["x"].shape
        return op.MaxPool(first, **match.node("pooled").attributes)


class ReluBeforeReshape(Rule):
    """`Relu(Reshape(x))` to `Reshape(Relu(x))` where x is computed by what a Relu is fused with."""

    operator: ClassVar[str] = "Reshape"

    def pattern(self, op: Any, x: ir.Value) -> Any:
        return op.Relu(getattr(op, self.operator)(x, _allow_other_inputs=True, _outputs=["reshaped"]))

    def refusal(self, match: Match) -> str | None:
        layer, x = match["x"].producer(), match["x"]
        if (
            layer is None
            or layer.op_type not in _TAKES_RELU
            or layer.graph is not match.node("reshaped").graph
        ):
            return NOTHING_TO_DO
        if len(layer.outputs) > 1:
            return "the pool returns the places of its maxima"
        if x.is_graph_output() or len(x.uses()) > 1:
            return f"the result of the {layer.op_type} is used elsewhere or is a graph output"
        return None

    def replacement(self, op: Any, match: Match) -> Any:
        reshape = match.node("reshaped")
        first = op.Relu(match["x"])
        first.type, first.shape = match["x"].type, match["x"].shape
        return getattr(op, self.operator)(first, *reshape.inputs[1:], **reshape.attributes)


class ReluBeforeFlatten(ReluBeforeReshape):
    """`Relu(Flatten(x))` to `Flatten(Relu(x))`, likewise."""

    operator = "Flatten"


class _PoolFirst(Rule):
    """`MaxPool(f(x))` to `f(MaxPool(x))`."""

    operator: ClassVar[str]
    alpha: ClassVar[float | None] = None

    def pattern(self, op: Any, x: ir.Value) -> Any:
        activated = getattr(op, self.operator)(x, _allow_other_inputs=True, _outputs=["activated"])
        return op.MaxPool(activated, _outputs=["y"])

    def refusal(self, match: Match) -> str | None:
        view = window(match.node("y"))
        if view is None or prod(view.strides) == 1:
            return NOTHING_TO_DO
        if self.alpha is not None:
            alpha = float_attribute(match.node("activated"), "alpha", self.alpha)
            if not alpha >= 0:
                return f"with alpha {alpha:g} the activation is not monotone"
        return _does_more_than_choose(match.node("y"))

    def replacement(self, op: Any, match: Match) -> Any:
        activation, x = match.node("activated"), match["x"]
        first = op.MaxPool(x, **match.node("y").attributes)
        first.type, first.shape = x.type, match["y"].shape
        return getattr(op, self.operator)(first, *activation.inputs[1:], **activation.attributes)


class PoolBeforeClip(_PoolFirst):
    """`MaxPool(Clip(x))` to `Clip(MaxPool(x))`."""

    operator = "Clip"


class PoolBeforeElu(_PoolFirst):
    """`MaxPool(Elu(x))` to `Elu(MaxPool(x))`."""

    operator = "Elu"
    alpha = 1.0


class PoolBeforeHardSigmoid(_PoolFirst):
    """`MaxPool(HardSigmoid(x))` to `HardSigmoid(MaxPool(x))`."""

    operator = "HardSigmoid"
    alpha = 0.2


class PoolBeforeLeakyRelu(_PoolFirst):
    """`MaxPool(LeakyRelu(x))` to `LeakyRelu(MaxPool(x))`."""

    operator = "LeakyRelu"
    alpha = 0.01


class PoolBeforeSigmoid(_PoolFirst):
    """`MaxPool(Sigmoid(x))` to `Sigmoid(MaxPool(x))`."""

    operator = "Sigmoid"


class PoolBeforeSoftplus(_PoolFirst):
    """`MaxPool(Softplus(x))` to `Softplus(MaxPool(x))`."""

    operator = "Softplus"


class PoolBeforeTanh(_PoolFirst):
    """`MaxPool(Tanh(x))` to `Tanh(MaxPool(x))`."""

    operator = "Tanh"


class PoolBeforeBatchNorm(_PoolFirst):
    """`MaxPool(BatchNormalization(x))` to `BatchNormalization(MaxPool(x))`."""

    operator = "BatchNormalization"

    def refusal(self, match: Match) -> str | None:
        norm = match.node("activated")
        reason = batch_norm_fault(norm)
        if reason is not None:
            return reason
        if not (batch_norm(norm)[0] >= 0).all():
            return "the batch norm is not monotone: a channel has a negative scale"
        return super().refusal(match)


def _does_more_than_choose(pool: ir.Node) -> str | None:
    """Why a pool may return something else than one element of each window; None where it does not."""
    if len(pool.outputs) > 1:
        return "the pool returns the places of its maxima"
    view = window(pool)
    if view is None or _may_be_empty(view):
        return "a window of the pool may lie wholly in the padding"
    return None


def _may_be_empty(view: Window) -> bool:
    """Whether a window may hold no element of the input."""
    if view.dilated and (view.padded or view.ceil):
        return True
    pads = zip(view.before, view.after, view.kernel, strict=True)
    if not view.same and any(max(before, after) >= kernel for before, after, kernel in pads):
        return True
    steps = zip(view.after, view.strides, view.kernel, strict=True)
    return view.ceil and (view.same or any(after + stride > kernel for after, stride, kernel in steps))


ORDER_POOL_AND_ACTIVATION = Pass(
    "order-pool-and-activation",
    "Relu moved in front of a MaxPool or Reshape, to its layer; other activations behind, to fewer elements",
    apply_rules(
        ReluBeforePool,
        ReluBeforeReshape,
        ReluBeforeFlatten,
        PoolBeforeClip,
        PoolBeforeElu,
        PoolBeforeHardSigmoid,
        PoolBeforeLeakyRelu,
        PoolBeforeSigmoid,
        PoolBeforeSoftplus,
        PoolBeforeTanh,
        PoolBeforeBatchNorm,
    ),
)
