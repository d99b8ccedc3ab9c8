"""A constant scale or shift of each column, or a batch norm, into the MatMul before it.

Patterns, with `f(x) = x W` or `x W + b`, for x of any rank (a linear layer on sequences, which has no Gemm):
Mul or Div of f(x) by a constant k; Add or Sub of a constant and `x W + b`; in either order where that is an
affine map; BatchNormalization of f(x), or of a Transpose of it that makes the columns its channels. W is a
matrix and b, like k, one value or one for each column; all are constant.

Algebra: each of them is `f(x) * s + t`, column by column:

    f * k: s = k    f / k: s = 1 / k    f + k: t = k    f - k: t = -k    k - f: s = -1, t = k
    batch norm: s = scale / sqrt(var + epsilon), t = bias - mean * s

(s is 1 and t is 0 where not named), and column j of `x W` is linear in column j of W, so

    (x W + b) * s + t  =  x (W * s) + (b * s + t)

A Transpose only names the axes anew. Computed in float64 and rounded once. (LayerScale is such a product:
Touvron et al., "Going deeper with Image Transformers", arXiv:2103.17239, section 2.)

A constant scale of a product of two values (attention) is left alone: ONNX Runtime's MatMulScaleFusion makes
it the `alpha` of the product.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir
from onnxscript.rewriter.pattern import OrValue

from nncompile.passes.affine import arithmetic, batch_norm, batch_norm_fault
from nncompile.passes.contract import Pass
from nncompile.passes.rewriting import NOTHING_TO_DO, Match, Rule, apply_rules
from nncompile.passes.values import (
    Array,
    constant,
    folded,
    ints_attribute,
    kernel_view,
    rounding_fault,
    static_shape,
    weights,
)


class _FoldIntoMatMul(Rule):
    """Shared by all; they differ in what stands behind the linear layer."""

    needs_bias: ClassVar[bool] = False

    def layer(self, op: Any, x: ir.Value, b: ir.Value) -> Any:
        """`x W`, `x W + b` or `b + x W`; b is None where it is left out."""
        product = op.MatMul(x, _allow_other_inputs=True, _outputs=["product"])
        biased = [op.Add(product, b), op.Add(b, product)]
        return OrValue(biased if self.needs_bias else [product, *biased], name="y")

    def refusal(self, match: Match) -> str | None:
        product, bias = match.node("product"), match.values["b"]
        weight = constant(product.inputs[1])
        if weight is None:
            return NOTHING_TO_DO
        if weight.ndim != 2:
            return f"the weight has rank {weight.ndim}, not 2"
        if weight.dtype.kind != "f":
            return f"the weights are of dtype {weight.dtype}"
        if bias is not None:
            added = constant(bias)
            if added is None:
                return "what is added to the product is not constant"
            reason = _column_fault(added, match["product"], weight.shape[1])
            if reason is not None:
                return reason
        reason = self.fault(match)
        if reason is not None:
            return reason
        kernel, shifted = self.parts(match)
        before, after = (kernel_view(product, array) for array in (weight, kernel))
        return rounding_fault(after, shifted, before, weight.dtype)

    def fault(self, match: Match) -> str | None:
        """Why what stands behind the layer is no constant map of each column; None where it is."""
        raise NotImplementedError

    def scale_and_shift(self, match: Match) -> tuple[Array, Array]:
        """What stands behind the layer as `y * scale + shift`: float64, one value or one for each column."""
        raise NotImplementedError

    def parts(self, match: Match) -> tuple[Array, Array]:
        """The new weight and bias, in float64."""
        weight, bias = weights(match.node("product").inputs[1]).astype(np.float64), match.values["b"]
        added = np.zeros(1) if bias is None else weights(bias).astype(np.float64).reshape(-1)
        with np.errstate(all="ignore"):
            scale, shift = self.scale_and_shift(match)
            return weight * scale, np.broadcast_to(added * scale + shift, weight.shape[1:])

    def replacement(self, op: Any, match: Match) -> Any:
        given = match.node("product").inputs[1]
        like, name = weights(given), given.name  # type: ignore[union-attr]
        kernel, bias = self.parts(match)
        if not np.array_equal(kernel, like):
            given = op.initializer(folded(kernel, like), name=f"{name}_affine")
        y = op.MatMul(match["x"], given)
        if match.values["b"] is not None or bias.any():
            y.type, y.shape = match["product"].type, match["product"].shape
            y = op.Add(y, op.initializer(folded(bias, like), name=f"{name}_affine_bias"))
        return y


class _FoldArithmetic(_FoldIntoMatMul):
    """Shared by all operators and operand orders."""

    operator: ClassVar[str]
    constant_first: ClassVar[bool] = False

    def pattern(self, op: Any, x: ir.Value, b: ir.Value, k: ir.Value) -> Any:
        y = self.layer(op, x, b)
        return getattr(op, self.operator)(*((k, y) if self.constant_first else (y, k)))

    def fault(self, match: Match) -> str | None:
        k = constant(match["k"])
        if k is None:
            return NOTHING_TO_DO
        return _column_fault(k, match["y"], weights(match.node("product").inputs[1]).shape[1])

    def scale_and_shift(self, match: Match) -> tuple[Array, Array]:
        k = weights(match["k"]).astype(np.float64).reshape(-1)
        return arithmetic(self.operator, k, constant_first=self.constant_first)


class FoldMul(_FoldArithmetic):
    """`f(x) * k`."""

    operator = "Mul"


class FoldMulOfConstant(FoldMul):
    """`k * f(x)`."""

    constant_first = True


class FoldDiv(_FoldArithmetic):
    """`f(x) / k`."""

    operator = "Div"


class FoldAdd(_FoldArithmetic):
    """`(x W + b) + k`."""

    operator = "Add"
    needs_bias = True


class FoldAddToConstant(FoldAdd):
    """`k + (x W + b)`."""

    constant_first = True


class FoldSub(_FoldArithmetic):
    """`(x W + b) - k`."""

    operator = "Sub"
    needs_bias = True


class FoldSubFromConstant(_FoldArithmetic):
    """`k - (x W + b)`."""

    operator = "Sub"
    needs_bias = True
    constant_first = True


class FoldBatchNorm(_FoldIntoMatMul):
    """`BatchNormalization(f(x))` of a matrix f(x)."""

    def pattern(self, op: Any, x: ir.Value, b: ir.Value) -> Any:
        y = self.layer(op, x, b)
        return op.BatchNormalization(y, _allow_other_inputs=True, _outputs=["normed"])

    def fault(self, match: Match) -> str | None:
        reason = batch_norm_fault(match.node("normed"))
        if reason is not None or self.channels_are_columns(match):
            return reason
        return "the channels of the batch norm are not the columns of the product"

    def channels_are_columns(self, match: Match) -> bool:
        """Whether axis 1 of what the batch norm reads is the last axis of the product."""
        shape = static_shape(match["y"])
        return shape is not None and len(shape) == 2

    def scale_and_shift(self, match: Match) -> tuple[Array, Array]:
        return batch_norm(match.node("normed"))


class FoldBatchNormThroughTranspose(FoldBatchNorm):
    """`BatchNormalization(Transpose(f(x)))` where the Transpose makes columns channels."""

    def pattern(self, op: Any, x: ir.Value, b: ir.Value) -> Any:
        turned = op.Transpose(self.layer(op, x, b), _outputs=["turned"])
        return op.BatchNormalization(turned, _allow_other_inputs=True, _outputs=["normed"])

    def channels_are_columns(self, match: Match) -> bool:
        order = ints_attribute(match.node("turned"), "perm") or ()
        return len(order) > 1 and order[1] == len(order) - 1

    def replacement(self, op: Any, match: Match) -> Any:
        y = super().replacement(op, match)
        y.type, y.shape = match["y"].type, match["y"].shape
        return op.Transpose(y, **match.node("turned").attributes)


def _column_fault(array: Array, value: ir.Value, columns: int) -> str | None:
    """Why a constant is not one value, or one for each column, of a value; None where it is."""
    shape = static_shape(value)
    if array.ndim > 1 and (shape is None or len(shape) < array.ndim):
        return f"a constant of rank {array.ndim} may enlarge the result"
    if any(size != 1 for size in array.shape[:-1]):
        return f"a constant of shape {list(array.shape)} is not one value for each column"
    if array.ndim and array.shape[-1] not in (1, columns):
        return f"a constant of shape {list(array.shape)} would enlarge the result of {columns} columns"
    return None


FOLD_INTO_MATMUL = Pass(
    "fold-into-matmul",
    "a constant scale or shift of each column, or a batch norm, folded into the MatMul before it",
    apply_rules(
        FoldMul,
        FoldMulOfConstant,
        FoldDiv,
        FoldAdd,
        FoldAddToConstant,
        FoldSub,
        FoldSubFromConstant,
        FoldBatchNorm,
        FoldBatchNormThroughTranspose,
    ),
)
