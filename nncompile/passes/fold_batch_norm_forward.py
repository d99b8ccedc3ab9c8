"""BatchNormalization into the convolution or linear layer behind it.

Pattern: `f(BatchNormalization(x))`, where f is Conv without padding, or Gemm, with constant weights.

Algebra: with `s = scale / sqrt(var + epsilon)` and `t = bias - mean * s`, for input channels c, output
channels o and kernel positions k,

    b(o) + sum over c, k of W(o, c, k) * (x(c, k) * s(c) + t(c))
      =  b'(o) + sum over c, k of W'(o, c, k) * x(c, k)

    W'(o, c, k) = W(o, c, k) * s(c)        b'(o) = b(o) + sum over c, k of W(o, c, k) * t(c)

where c runs over the inputs of o's group. With padding it does not hold: f pads with 0 behind the batch
norm, and before it the border would have to be `-t / s`. Gemm's `alpha` scales the second term of b' too;
`beta` is folded into b'. Computed in float64 and rounded once. (The algebra of Ioffe and Szegedy, "Batch
Normalization", arXiv:1502.03167, section 3.1, on the other side of the layer.)
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
    channel_bias,
    constant,
    float_attribute,
    folded,
    int_attribute,
    ints_attribute,
    kernel_view,
    rounding_fault,
    string_attribute,
    weights,
)

Array = npt.NDArray[Any]


class _FoldBatchNormForward(Rule):
    """Shared by both linear operators."""

    operator: ClassVar[str]

    def pattern(self, op: Any, x: ir.Value) -> Any:
        norm = op.BatchNormalization(x, _allow_other_inputs=True, _outputs=["normed"])
        return getattr(op, self.operator)(norm, _allow_other_inputs=True, _outputs=["y"])

    def refusal(self, match: Match) -> str | None:
        norm, layer = match.node("normed"), match.node("y")
        if int_attribute(norm, "training_mode", 0) or len(norm.outputs) > 1:
            return "the batch norm is in training mode"
        given = [value for value in layer.inputs[1:] if value is not None]
        if any(constant(value) is None for value in (*norm.inputs[1:], *given)):
            return "a weight is not constant"
        weight = weights(layer.inputs[1])
        if weight.dtype.kind != "f":
            return f"the weights are of dtype {weight.dtype}"
        reason = self.attribute_fault(layer)
        if reason is not None:
            return reason
        scale, shift = batch_norm_affine(norm)
        if not (np.isfinite(scale).all() and np.isfinite(shift).all()):
            return "the running statistics give a scale that is not finite"
        before = kernel_view(layer, np.ascontiguousarray(weight))
        if channel_bias(layer, before.shape[0] * before.shape[1]) is None:
            return f"a bias of shape {list(weights(layer.inputs[2]).shape)} is not one value for each channel"
        kernel, bias = _parts(layer, norm)
        return rounding_fault(kernel_view(layer, kernel), bias, before, weight.dtype)

    def attribute_fault(self, layer: ir.Node) -> str | None:
        """Why the layer's attributes forbid it; None where they do not."""
        raise NotImplementedError

    def replacement(self, op: Any, match: Match) -> Any:
        layer = match.node("y")
        like, name = weights(layer.inputs[1]), layer.inputs[1].name  # type: ignore[union-attr]
        kernel, bias = _parts(layer, match.node("normed"))
        attributes = {key: value for key, value in layer.attributes.items() if key != "beta"}
        return getattr(op, self.operator)(
            match["x"],
            op.initializer(folded(kernel, like), name=f"{name}_bn"),
            op.initializer(folded(bias, like), name=f"{name}_bn_bias"),
            **attributes,
        )


class FoldBatchNormIntoNextConv(_FoldBatchNormForward):
    """`Conv(BatchNormalization(x))` to `Conv(x)`."""

    operator = "Conv"

    def attribute_fault(self, layer: ir.Node) -> str | None:
        pads, mode = ints_attribute(layer, "pads"), string_attribute(layer, "auto_pad", "NOTSET")
        if any(pads or ()):
            return f"the convolution pads by {list(pads or ())}"
        if mode not in ("NOTSET", "VALID"):
            return f"the convolution pads as {mode}"
        return None


class FoldBatchNormIntoNextGemm(_FoldBatchNormForward):
    """`Gemm(BatchNormalization(x))` to `Gemm(x)`."""

    operator = "Gemm"

    def attribute_fault(self, layer: ir.Node) -> str | None:
        # Channels are axis 1 of x: with transA they would be Gemm's rows.
        return "Gemm transposes its input" if int_attribute(layer, "transA", 0) else None


def _parts(layer: ir.Node, norm: ir.Node) -> tuple[Array, Array]:
    """The new weight and bias, in float64."""
    kernel = np.array(weights(layer.inputs[1]), np.float64, order="C")
    view = kernel_view(layer, kernel)
    group, outputs, inputs, _ = view.shape
    scale, shift = (part.reshape(group, 1, inputs, 1) for part in batch_norm_affine(norm))
    with np.errstate(all="ignore"):
        added = (view * shift).sum((2, 3)).reshape(-1) * float_attribute(layer, "alpha", 1.0)
        view *= scale
        return kernel, channel_bias(layer, group * outputs) + added


FOLD_BATCH_NORM_FORWARD = Pass(
    "fold-batch-norm-forward",
    "batch norm folded into the unpadded convolution or linear layer behind it",
    apply_rules(FoldBatchNormIntoNextConv, FoldBatchNormIntoNextGemm),
)
