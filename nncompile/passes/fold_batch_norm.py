"""BatchNormalization into the convolution or linear layer before it.

Pattern: `BatchNormalization(f(x))`, where f is Conv, ConvTranspose or Gemm with constant weights.

Algebra: with `s = scale / sqrt(var + epsilon)`, channel by channel,

    (f(x) + b - mean) * s + bias  =  (f with weights W * s)(x) + (b - mean) * s + bias

because f is linear in its weights and each output channel uses its own slice of them: axis 0 of Conv's
(out, in/group, ...), axis 1 of ConvTranspose's (in, out/group, ...) within each group, the output axis
of Gemm's matrix. Gemm's `alpha` scales W * s as it scaled W; `beta` is folded into the bias. Computed in
float64 and rounded once. (Ioffe and Szegedy, "Batch Normalization", arXiv:1502.03167, section 3.1.)
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir

from nncompile.passes.affine import batch_norm, batch_norm_fault
from nncompile.passes.contract import Pass
from nncompile.passes.rewriting import Match, Rule, apply_rules
from nncompile.passes.values import (
    Array,
    channel_bias,
    kernel_view,
    rounding_fault,
    weight_fault,
    weights,
    with_weights,
)


class _FoldBatchNorm(Rule):
    """Shared by the three linear operators; `kernel_view` knows where their output channels lie."""

    operator: ClassVar[str]

    def pattern(self, op: Any, x: ir.Value) -> Any:
        layer = getattr(op, self.operator)(x, _allow_other_inputs=True, _outputs=["y"])
        return op.BatchNormalization(layer, _allow_other_inputs=True, _outputs=["normed"])

    def refusal(self, match: Match) -> str | None:
        layer, norm = match.node("y"), match.node("normed")
        reason = batch_norm_fault(norm) or weight_fault(layer)
        if reason is not None:
            return reason
        scale, _ = batch_norm(norm)
        if channel_bias(layer, scale.size) is None:
            return f"a bias of shape {list(weights(layer.inputs[2]).shape)} is not one value for each channel"
        return _folded_weights(layer, norm)[2]

    def replacement(self, op: Any, match: Match) -> Any:
        layer, norm = match.node("y"), match.node("normed")
        weight, bias, _ = _folded_weights(layer, norm)
        return with_weights(op, layer, match["x"], weight, bias, "bn")


def _folded_weights(layer: ir.Node, norm: ir.Node) -> tuple[Array, Array, str | None]:
    """Weights and bias in float64, and why they cannot be rounded to their dtype, if they cannot."""
    before = weights(layer.inputs[1])
    scale, shift = batch_norm(norm)
    bias = channel_bias(layer, scale.size)
    weight = np.array(before, np.float64, order="C")
    kernel = kernel_view(layer, weight)
    kernel *= scale.reshape(*kernel.shape[:2], 1, 1)
    shifted = (np.zeros(1) if bias is None else bias) * scale + shift
    fault = rounding_fault(kernel, shifted, kernel_view(layer, before), before.dtype)
    return weight, shifted, fault


class FoldBatchNormIntoConv(_FoldBatchNorm):
    """`BatchNormalization(Conv(x))` to `Conv(x)`."""

    operator = "Conv"


class FoldBatchNormIntoConvTranspose(_FoldBatchNorm):
    """`BatchNormalization(ConvTranspose(x))` to `ConvTranspose(x)`."""

    operator = "ConvTranspose"


class FoldBatchNormIntoGemm(_FoldBatchNorm):
    """`BatchNormalization(Gemm(x))` to `Gemm(x)`."""

    operator = "Gemm"


FOLD_BATCH_NORM = Pass(
    "fold-batch-norm",
    "batch norm folded into the convolution or linear layer before it",
    apply_rules(FoldBatchNormIntoConv, FoldBatchNormIntoConvTranspose, FoldBatchNormIntoGemm),
)
