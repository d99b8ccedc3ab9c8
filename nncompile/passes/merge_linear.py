"""Two linear layers, one right behind the other, as one.

Patterns, with constant weights and nothing between the layers: `Gemm(Gemm(x))`; `MatMul(MatMul(x, V), W)`,
and the same with an Add of c behind the first, and of d behind the second (linear layers on sequences).
merge-convolutions does it for convolutions.

Algebra: with K inputs, M values between the layers and N outputs,

    (x V + c) W + d  =  x (V W) + (c W + d)

because the matrix product is associative and distributive. The alphas of two Gemms are folded into V W, their
betas into the bias. Row by row the left side takes K M + M N multiplications and the right side K N: the rule
fires where that is less, so a factorisation of low rank stays. Computed in float64 and rounded once.
(Guo et al., "ExpandNets: Linear Over-parameterization to Train Compact Convolutional Networks",
arXiv:1811.10495, section 3.)
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir
from onnxscript.rewriter.pattern import OrValue, Var

from nncompile.passes.contract import Pass
from nncompile.passes.rewriting import NOTHING_TO_DO, Match, Rule, apply_rules
from nncompile.passes.values import (
    Array,
    channel_bias,
    constant,
    float_attribute,
    folded,
    given_input,
    int_attribute,
    kernel_view,
    rounding_fault,
    weight_fault,
    weights,
)


class _MergeLinear(Rule):
    """Shared by the operators; they differ in what their attributes must be."""

    operator: ClassVar[str]

    def pattern(self, op: Any, x: ir.Value) -> Any:
        inner = getattr(op, self.operator)(x, _allow_other_inputs=True, _outputs=["inner"])
        return getattr(op, self.operator)(inner, _allow_other_inputs=True, _outputs=["outer"])

    def refusal(self, match: Match) -> str | None:
        inner, outer = match.node("inner"), match.node("outer")
        reason = weight_fault(inner, outer) or self.layer_fault(inner, outer)
        if reason is not None:
            return reason
        first, second = _matrix(inner), _matrix(outer)
        between, inputs = first.shape
        outputs = len(second)
        apart, merged = between * (inputs + outputs), inputs * outputs
        if merged >= apart:
            return f"one layer would take {merged} multiplications, the two take {apart}"
        for layer, channels in ((inner, between), (outer, outputs)):
            if channel_bias(layer, channels) is None:
                shape = list(weights(layer.inputs[2]).shape)
                return f"a bias of shape {shape} is not one value for each channel"
        matrix, bias = _product(inner, outer)
        dtype = weights(outer.inputs[1]).dtype
        return rounding_fault(matrix[None, :, :, None], bias, second[None, :, :, None], dtype)

    def layer_fault(self, inner: ir.Node, outer: ir.Node) -> str | None:
        """Why a layer is not a plain product of matrices; None where both are."""
        raise NotImplementedError

    def replacement(self, op: Any, match: Match) -> Any:
        inner, outer = match.node("inner"), match.node("outer")
        like, name = weights(outer.inputs[1]), outer.inputs[1].name  # type: ignore[union-attr]
        matrix, bias = _product(inner, outer)
        inputs = [match["x"], op.initializer(folded(_layout(outer, matrix), like), name=f"{name}_merged")]
        if any(given_input(layer, 2) is not None for layer in (inner, outer)):
            inputs.append(op.initializer(folded(bias, like), name=f"{name}_merged_bias"))
        return getattr(op, self.operator)(*inputs, **self.attributes(inner, outer))

    def attributes(self, inner: ir.Node, outer: ir.Node) -> dict[str, Any]:
        """The attributes of the merged layer."""
        del inner, outer
        return {}


class MergeGemms(_MergeLinear):
    """`Gemm(Gemm(x))` to `Gemm(x)`."""

    operator = "Gemm"

    def layer_fault(self, inner: ir.Node, outer: ir.Node) -> str | None:
        del inner  # it may transpose x: the merged layer does the same
        return "the second layer transposes its input" if int_attribute(outer, "transA", 0) else None

    def attributes(self, inner: ir.Node, outer: ir.Node) -> dict[str, Any]:
        kept = (("transA", inner), ("transB", outer))
        return {name: 1 for name, layer in kept if int_attribute(layer, name, 0)}


class MergeMatMuls(_MergeLinear):
    """`MatMul(MatMul(x, V), W)` to `MatMul(x, V W)`."""

    operator = "MatMul"

    def layer_fault(self, inner: ir.Node, outer: ir.Node) -> str | None:
        first, second = (weights(layer.inputs[1]).shape for layer in (inner, outer))
        if len(first) != 2 or len(second) != 2:
            return f"the weights have rank {len(first)} and {len(second)}, not 2"
        if first[1] != second[0]:
            return f"what is added makes {second[0]} columns of the {first[1]} of the first product"
        return None


class MergeBiasedMatMuls(MergeMatMuls):
    """`MatMul(MatMul(x, V) + c, W)` to `MatMul(x, V W) + c W`."""

    def pattern(self, op: Any, x: ir.Value) -> Any:
        c = Var("c")
        inner = op.MatMul(x, _allow_other_inputs=True, _outputs=["inner"])
        hidden = OrValue([op.Add(inner, c), op.Add(c, inner)], name="hidden")
        return op.MatMul(hidden, _allow_other_inputs=True, _outputs=["outer"])

    def refusal(self, match: Match) -> str | None:
        outer = match["outer"]
        users = [user.op_type for user, _ in outer.uses()]
        if "d" not in match.values and users == ["Add"] and not outer.is_graph_output():
            return NOTHING_TO_DO  # the other two rules take that Add along
        reason = super().refusal(match)
        if reason is not None:
            return reason
        bias, nothing = self.bias(match), np.zeros((1, 1, 1, 1))
        if bias is None:
            return "what is added to the first product is not one constant for each column"
        return rounding_fault(nothing, bias, nothing, weights(match.node("outer").inputs[1]).dtype)

    def bias(self, match: Match) -> Array | None:
        """`c W`, and d where that is constant, in float64; None where c is not."""
        weight = weights(match.node("outer").inputs[1]).astype(np.float64)
        first, second = (
            _by_column(match["c"], len(weight)),
            _by_column(match.values.get("d"), weight.shape[1]),
        )
        if first is None:
            return None
        with np.errstate(all="ignore"):
            return first @ weight + (0 if second is None else second)

    def replacement(self, op: Any, match: Match) -> Any:
        given, d = match.node("outer").inputs[1], match.values.get("d")
        merged, bias = super().replacement(op, match), self.bias(match)
        if bias is None:
            raise ValueError("the bias is not constant")
        like, name = weights(given), given.name  # type: ignore[union-attr]
        for added in (
            op.initializer(folded(bias, like), name=f"{name}_merged_bias"),
            *([] if d is None or _by_column(d, like.shape[1]) is not None else [d]),
        ):
            merged.type, merged.shape = match["outer"].type, match["outer"].shape
            merged = op.Add(merged, added)
        return merged


class MergeTwoBiasedMatMuls(MergeBiasedMatMuls):
    """`MatMul(MatMul(x, V) + c, W) + d` to `MatMul(x, V W) + (c W + d)`, or to two Adds where d varies."""

    def pattern(self, op: Any, x: ir.Value) -> Any:
        return op.Add(super().pattern(op, x), Var("d"))


class MergeTwoBiasedMatMulsReversed(MergeBiasedMatMuls):
    """`d + MatMul(MatMul(x, V) + c, W)`, likewise."""

    def pattern(self, op: Any, x: ir.Value) -> Any:
        return op.Add(Var("d"), super().pattern(op, x))


def _by_column(value: ir.Value | None, columns: int) -> Array | None:
    """A constant of one value or one for each column, in float64, of shape (columns,); None otherwise."""
    bias = constant(value)
    if bias is None or bias.ndim > 1 or bias.size not in (1, columns):
        return None
    return np.broadcast_to(bias.astype(np.float64).reshape(-1), (columns,))


def _matrix(layer: ir.Node) -> Array:
    """The weights in float64, of shape (outputs, inputs), Gemm's alpha included."""
    weight = np.array(weights(layer.inputs[1]), np.float64, order="C")
    matrix: Array = kernel_view(layer, weight)[0, :, :, 0] * float_attribute(layer, "alpha", 1.0)
    return matrix


def _product(inner: ir.Node, outer: ir.Node) -> tuple[Array, Array]:
    """Weights of shape (outputs, inputs) and bias of the merged layer, in float64."""
    first, second = _matrix(inner), _matrix(outer)
    with np.errstate(all="ignore"):
        carried = second @ channel_bias(inner, len(first))
        return second @ first, carried + channel_bias(outer, len(second))


def _layout(layer: ir.Node, matrix: Array) -> Array:
    """A matrix of shape (outputs, inputs) in the layout of the layer's weight."""
    return matrix if int_attribute(layer, "transB", 0) else matrix.T


MERGE_LINEAR = Pass(
    "merge-linear",
    "two linear layers, one right behind the other, as one where that takes fewer multiplications",
    apply_rules(
        MergeGemms,
        MergeMatMuls,
        MergeBiasedMatMuls,
        MergeTwoBiasedMatMuls,
        MergeTwoBiasedMatMulsReversed,
    ),
)
