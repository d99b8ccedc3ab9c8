"""A 1 x 1 convolution of a single position, flattened, as a linear layer.

Pattern: `Reshape(Conv(x))` or `Flatten(Conv(x))` to two axes, where every spatial axis of x has size 1 and
Conv a kernel of 1 x 1 (of any rank), one group, no padding and a constant weight: a classifier behind a
global pool.

Algebra: with one position and one element in the kernel, a convolution is the product of matrices
`y(n, k) = sum over c of x(n, c) * W(k, c) + b(k)` by its definition, whatever its strides and dilations. The
weights are only reshaped.

Why: ONNX Runtime convolves one row after the other, and multiplies all at once (one core, 512 to 1000
channels, 16 rows: half the time; one row: the same). And the next linear layer can be merged with it.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir

from nncompile.passes.contract import Pass
from nncompile.passes.rewriting import NOTHING_TO_DO, Match, Rule, apply_rules
from nncompile.passes.values import (
    GEMM_DTYPES,
    constant,
    given_input,
    int_attribute,
    static_shape,
    weights,
    window,
)


class ReshapedPositionToGemm(Rule):
    """`Reshape(Conv(x))` to `Gemm(Flatten(x))`."""

    operator: ClassVar[str] = "Reshape"

    def pattern(self, op: Any, x: ir.Value) -> Any:
        conv = op.Conv(x, _allow_other_inputs=True, _outputs=["conv"])
        return getattr(op, self.operator)(conv, _allow_other_inputs=True, _outputs=["y"])

    def refusal(self, match: Match) -> str | None:
        conv, x = match.node("conv"), match["x"]
        plane, rows = (static_shape(x) or (None,) * 3)[2:], static_shape(match["y"])
        if any(size != 1 for size in plane):
            return NOTHING_TO_DO
        weight = constant(conv.inputs[1])
        if weight is None:
            return "the weight is not constant"
        if x.dtype not in GEMM_DTYPES:
            return f"ONNX Runtime has no Gemm of {str(x.dtype).lower()}"
        if int_attribute(conv, "group", 1) != 1:
            return f"the convolution has {int_attribute(conv, 'group', 1)} groups"
        view = window(conv)
        if any(size != 1 for size in weight.shape[2:]):
            return f"the kernel is {' x '.join(map(str, weight.shape[2:]))}"
        if view is None or view.padded:
            return "the convolution pads"
        if rows is None or len(rows) != 2 or rows[1] != weight.shape[0]:
            return "the result is not one row for each row of the input"
        return None

    def replacement(self, op: Any, match: Match) -> Any:
        conv, x = match.node("conv"), match["x"]
        weight, name = weights(conv.inputs[1]), conv.inputs[1].name  # type: ignore[union-attr]
        flat = op.Flatten(x, axis=1)
        flat.type, flat.shape = x.type, ir.Shape(list(x.shape or ())[:2])
        matrix = ir.tensor(np.ascontiguousarray(weight.reshape(weight.shape[:2])))
        bias = given_input(conv, 2)
        given = [op.initializer(matrix, name=f"{name}_matrix"), *([] if bias is None else [bias])]
        return op.Gemm(flat, *given, transB=1)


class FlattenedPositionToGemm(ReshapedPositionToGemm):
    """`Flatten(Conv(x))` to `Gemm(Flatten(x))`."""

    operator = "Flatten"


POSITION_TO_GEMM = Pass(
    "position-to-gemm",
    "a 1 x 1 convolution of a single position, flattened, as a linear layer",
    apply_rules(ReshapedPositionToGemm, FlattenedPositionToGemm),
)
