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
import numpy.typing as npt
import onnx_ir as ir

from nncompile.passes.contract import Pass
from nncompile.passes.rewriting import Match, Rule, apply_rules
from nncompile.passes.values import (
    batch_norm_affine,
    constant,
    float_attribute,
    folded,
    given_input,
    int_attribute,
    weights,
)

Array = npt.NDArray[Any]


class _FoldBatchNorm(Rule):
    """Shared by the three linear operators; they differ in where the output channel lies."""

    operator: ClassVar[str]

    def pattern(self, op: Any, x: ir.Value) -> Any:
        layer = getattr(op, self.operator)(x, _allow_other_inputs=True, _outputs=["y"])
        return op.BatchNormalization(layer, _allow_other_inputs=True, _outputs=["normed"])

    def refusal(self, match: Match) -> str | None:
        layer, norm = match.node("y"), match.node("normed")
        if int_attribute(norm, "training_mode", 0) or len(norm.outputs) > 1:
            return "the batch norm is in training mode"
        bias_value = given_input(layer, 2)
        needed = [layer.inputs[1], *norm.inputs[1:], *([bias_value] if bias_value is not None else [])]
        if any(constant(value) is None for value in needed):
            return "a weight is not constant"
        dtype = weights(layer.inputs[1]).dtype
        if dtype.kind != "f":
            return f"the weights are of dtype {dtype}"
        scale, shift = batch_norm_affine(norm)
        if not (np.isfinite(scale).all() and np.isfinite(shift).all()):
            return "the running statistics give a scale that is not finite"
        if np.abs(weights(layer.inputs[1])).max(initial=0) * np.abs(scale).max() > np.finfo(dtype).max:
            return f"a folded weight could be beyond the range of {dtype}"
        bias = weights(bias_value) if bias_value is not None else np.zeros(1)
        if bias.size not in (1, scale.size) or (bias.ndim > 1 and bias.shape[:-1] != (1,)):
            return f"a bias of shape {list(bias.shape)} is not one value for each channel"
        return None

    def replacement(self, op: Any, match: Match) -> Any:
        layer, norm = match.node("y"), match.node("normed")
        weight, name = weights(layer.inputs[1]), layer.inputs[1].name  # type: ignore[union-attr]
        scale, shift = batch_norm_affine(norm)
        bias = np.zeros(1)
        if given_input(layer, 2) is not None:
            bias = weights(layer.inputs[2]).astype(np.float64).reshape(-1) * float_attribute(
                layer, "beta", 1.0
            )
        scaled = self.scaled(weight.astype(np.float64), scale, layer)
        attributes = {key: value for key, value in layer.attributes.items() if key != "beta"}
        return getattr(op, self.operator)(
            match["x"],
            op.initializer(folded(scaled, weight), name=f"{name}_bn"),
            op.initializer(folded(bias * scale + shift, weight), name=f"{name}_bn_bias"),
            **attributes,
        )

    def scaled(self, weight: Array, scale: Array, layer: ir.Node) -> Array:
        """The weights with each output channel multiplied by its scale."""
        raise NotImplementedError


class FoldBatchNormIntoConv(_FoldBatchNorm):
    """`BatchNormalization(Conv(x))` to `Conv(x)`."""

    operator = "Conv"

    def scaled(self, weight: Array, scale: Array, layer: ir.Node) -> Array:
        del layer
        return weight * scale.reshape(-1, *[1] * (weight.ndim - 1))


class FoldBatchNormIntoConvTranspose(_FoldBatchNorm):
    """`BatchNormalization(ConvTranspose(x))` to `ConvTranspose(x)`."""

    operator = "ConvTranspose"

    def scaled(self, weight: Array, scale: Array, layer: ir.Node) -> Array:
        group = int_attribute(layer, "group", 1)
        grouped = weight.reshape(group, weight.shape[0] // group, *weight.shape[1:])
        by_group = scale.reshape(group, 1, weight.shape[1], *[1] * (weight.ndim - 2))
        return (grouped * by_group).reshape(weight.shape)


class FoldBatchNormIntoGemm(_FoldBatchNorm):
    """`BatchNormalization(Gemm(x))` to `Gemm(x)`."""

    operator = "Gemm"

    def scaled(self, weight: Array, scale: Array, layer: ir.Node) -> Array:
        return weight * (scale[:, None] if int_attribute(layer, "transB", 0) else scale[None, :])


FOLD_BATCH_NORM = Pass(
    "fold-batch-norm",
    "batch norm folded into the convolution or linear layer before it",
    apply_rules(FoldBatchNormIntoConv, FoldBatchNormIntoConvTranspose, FoldBatchNormIntoGemm),
)
