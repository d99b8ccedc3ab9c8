"""A mean over the whole plane as GlobalAveragePool.

Patterns: `ReduceMean(x)` over exactly the axes behind batch and channel of an x of rank 3, 4 or 5; and
`AveragePool(x)` without padding whose one window is the whole plane.

Algebra: both are GlobalAveragePool by its definition, the mean over all axes behind the first two, which are
kept with size 1. A ReduceMean with `keepdims=0` drops them: `Flatten(GlobalAveragePool(x), axis=1)` of a
tensor (n, c, 1, ...) is (n, c). A pool with kernel = size has `floor((size - kernel) / stride) + 1 = 1`
window in each axis, whatever the stride and however that is rounded. (ONNX operator documentation. ONNX
Runtime keeps its blocked NCHWc layout through GlobalAveragePool, but not through ReduceMean.)

The mean that begins a hand-written normalisation is left alone: ONNX Runtime fuses those by their ReduceMean.
"""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from nncompile.passes.contract import Pass
from nncompile.passes.rewriting import NOTHING_TO_DO, Match, Rule, apply_rules
from nncompile.passes.values import (
    constant,
    given_input,
    int_attribute,
    ints_attribute,
    static_shape,
    weights,
    window,
)

_DTYPES = (ir.DataType.FLOAT, ir.DataType.FLOAT16)


class MeanOfPlane(Rule):
    """`ReduceMean(x)` over the plane to `GlobalAveragePool(x)`."""

    def pattern(self, op: Any, x: ir.Value) -> Any:
        return op.ReduceMean(x, _allow_other_inputs=True, _outputs=["y"])

    def refusal(self, match: Match) -> str | None:
        node, x = match.node("y"), match["x"]
        shape, given = static_shape(x), given_input(node, 1)
        if given is not None and constant(given) is None:
            return "the axes are not constant"
        if shape is None:
            return "the rank is not known"
        rank = len(shape)
        if rank not in (3, 4, 5) or {axis % rank for axis in _axes(node)} != set(range(2, rank)):
            return NOTHING_TO_DO
        if x.dtype not in _DTYPES:
            return f"ONNX Runtime has no GlobalAveragePool of {str(x.dtype).lower()}"
        if 0 in shape[1:]:
            return "the plane is empty"
        if _normalises(node, x):
            return "the mean is part of a normalisation"
        return None

    def replacement(self, op: Any, match: Match) -> Any:
        node, x = match.node("y"), match["x"]
        pooled = op.GlobalAveragePool(x)
        if int_attribute(node, "keepdims", 1):
            return pooled
        shape = static_shape(x) or ()
        pooled.type = x.type
        pooled.shape = ir.Shape([*list(x.shape or ())[:2], *[1] * (len(shape) - 2)])
        return op.Flatten(pooled, axis=1)


class PoolOfPlane(Rule):
    """`AveragePool(x)` over the plane to `GlobalAveragePool(x)`."""

    def pattern(self, op: Any, x: ir.Value) -> Any:
        return op.AveragePool(x, _outputs=["y"])

    def refusal(self, match: Match) -> str | None:
        view, shape = window(match.node("y")), static_shape(match["x"])
        if view is None or shape is None or None in shape[2:]:
            return "the size of the plane is not known"
        if view.kernel != shape[2:]:
            return NOTHING_TO_DO
        if view.padded:
            return "the pool pads"
        if view.dilated:
            return "the pool is dilated"
        return None

    def replacement(self, op: Any, match: Match) -> Any:
        return op.GlobalAveragePool(match["x"])


def _axes(node: ir.Node) -> tuple[int, ...]:
    """The constant axes of a ReduceMean: an input since opset 18; none where it has none."""
    given = given_input(node, 1)
    if given is not None:
        return tuple(weights(given).reshape(-1).tolist())
    return ints_attribute(node, "axes") or ()


def _normalises(node: ir.Node, x: ir.Value) -> bool:
    """Whether the mean is subtracted again, or is one of squares."""
    before = x.producer()
    if before is not None and (
        before.op_type == "Pow" or (before.op_type == "Mul" and before.inputs[0] is before.inputs[1])
    ):
        return True
    return any(user.op_type == "Sub" for user, _ in node.outputs[0].uses())


GLOBAL_AVERAGE_POOL = Pass(
    "global-average-pool",
    "means over the whole plane as GlobalAveragePool",
    apply_rules(MeanOfPlane, PoolOfPlane),
)
