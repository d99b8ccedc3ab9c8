"""A constant scale or shift of each channel into the convolution or linear layer before it.

Pattern: Mul, Add or Sub of f(x) and k, in either order, or Div of f(x) by k, where f is Conv,
ConvTranspose or Gemm with constant weights W and bias b, and k a constant: one value, or one for each
output channel.

Algebra: each of them is `f(x) * s + t`, channel by channel:

    f * k: s = k    f / k: s = 1 / k    f + k: t = k    f - k: t = -k    k - f: s = -1, t = k

(s is 1 and t is 0 where not named; `k / f` is no such map.) f is linear in its weights and each output
channel uses its own slice of them, so

    (f(x) + b) * s + t  =  (f with weights W * s)(x) + (b * s + t)

Gemm's `alpha` scales W * s as it scaled W; `beta` is folded into the bias. Computed in float64 and rounded
once. (Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
Inference", arXiv:1712.05877, section 3.2, where the map is a batch norm.)
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir
from onnxscript.rewriter.pattern import OrValue

from nncompile.passes.affine import arithmetic
from nncompile.passes.contract import Pass
from nncompile.passes.rewriting import Match, Rule, apply_rules
from nncompile.passes.values import (
    Array,
    channel_bias,
    constant,
    kernel_view,
    rounding_fault,
    weight_fault,
    weights,
    with_weights,
)

_LAYERS = ("Conv", "ConvTranspose", "Gemm")


class _FoldAffine(Rule):
    """Shared by all operators and operand orders; they differ in the scale and the shift."""

    operator: ClassVar[str]
    constant_first: ClassVar[bool] = False

    def pattern(self, op: Any, x: ir.Value, k: ir.Value) -> Any:
        layer = OrValue([getattr(op, name)(x, _allow_other_inputs=True) for name in _LAYERS], name="y")
        operands = (k, layer) if self.constant_first else (layer, k)
        return getattr(op, self.operator)(*operands)

    def refusal(self, match: Match) -> str | None:
        layer, k = match.node("y"), constant(match["k"])
        if k is None:
            return f"the other operand of {self.operator} is not constant"
        reason = weight_fault(layer)
        if reason is not None:
            return reason
        weight = weights(layer.inputs[1])
        before = kernel_view(layer, np.ascontiguousarray(weight))
        channels = before.shape[0] * before.shape[1]
        reason = _shape_fault(k.shape, weight.ndim, channels)
        if reason is not None:
            return reason
        if channel_bias(layer, channels) is None:
            return f"a bias of shape {list(weights(layer.inputs[2]).shape)} is not one value for each channel"
        kernel, bias = self.parts(layer, k)
        return rounding_fault(kernel_view(layer, kernel), bias, before, weight.dtype)

    def replacement(self, op: Any, match: Match) -> Any:
        layer = match.node("y")
        kernel, bias = self.parts(layer, weights(match["k"]))
        return with_weights(op, layer, match["x"], kernel, bias, "affine")

    def parts(self, layer: ir.Node, k: Array) -> tuple[Array, Array]:
        """The new weight and bias, in float64."""
        kernel = np.array(weights(layer.inputs[1]), np.float64, order="C")
        view = kernel_view(layer, kernel)
        group, outputs = view.shape[:2]
        with np.errstate(all="ignore"):
            numbers = np.broadcast_to(k.astype(np.float64).reshape(-1), (group * outputs,))
            scale, shift = arithmetic(self.operator, numbers, constant_first=self.constant_first)
            view *= scale.reshape(group, outputs, 1, 1)
            return kernel, channel_bias(layer, group * outputs) * scale + shift


def _shape_fault(shape: tuple[int, ...], rank: int, channels: int) -> str | None:
    """Why a constant is not one value, or one for each channel (axis 1 of the layer's output)."""
    if len(shape) > rank:
        return f"a constant of rank {len(shape)} would enlarge the result of rank {rank}"
    sizes = (1,) * (rank - len(shape)) + shape
    if any(size != 1 for axis, size in enumerate(sizes) if axis != 1):
        return f"a constant of shape {list(shape)} is not one value for each channel"
    if sizes[1] not in (1, channels):
        return f"a constant of shape {list(shape)} would enlarge the result of {channels} channels"
    return None


class FoldMul(_FoldAffine):
    """`f(x) * k`."""

    operator = "Mul"


class FoldMulOfConstant(FoldMul):
    """`k * f(x)`."""

    constant_first = True


class FoldDiv(_FoldAffine):
    """`f(x) / k`."""

    operator = "Div"


class FoldAdd(_FoldAffine):
    """`f(x) + k`."""

    operator = "Add"


class FoldAddToConstant(FoldAdd):
    """`k + f(x)`."""

    constant_first = True


class FoldSub(_FoldAffine):
    """`f(x) - k`."""

    operator = "Sub"


class FoldSubFromConstant(_FoldAffine):
    """`k - f(x)`."""

    operator = "Sub"
    constant_first = True


FOLD_AFFINE = Pass(
    "fold-affine",
    "a constant scale or shift of each channel folded into the convolution or linear layer before it",
    apply_rules(
        FoldMul, FoldMulOfConstant, FoldDiv, FoldAdd, FoldAddToConstant, FoldSub, FoldSubFromConstant
    ),
)
