"""Operators replaced by a simpler one with the same answers.

Patterns and algebra, all from the ONNX operator documentation:

- `Log(Softmax(x))` is `LogSoftmax(x)` by definition, on the same axis. LogSoftmax is the more accurate: where
  a probability is too small for its dtype, it stays finite and `Log` gives -inf.
- `Clip(x, 0)` and `Max(x, 0)` are `Relu(x) = max(0, x)`. -0.0 counts as 0. NaN stays NaN in all three. An
  absent upper bound is no bound, as in PyTorch (ONNX Runtime's Clip turns inf into the largest finite number;
  Relu does not).
- `PRelu(x, a)` is `LeakyRelu(x, alpha=a)` where a is one number for all: `x < 0 ? a * x : x`. The attribute
  alpha is a float32: the slope must be one too.
- `Cast` to the dtype that x has, and `Transpose` with the axes in order, are x. So is `Add(x, 0)`, with which
  Python's `sum` begins; again -0.0 counts as 0.
- `Reshape(Reshape(x, s), t)` is `Reshape(x, t)`: both keep the elements in order, and t alone decides the
  sizes, -1 included, as long as no 0 in it copies a size of the first result.
- `Relu(Relu(x))` is `Relu(x)`: a Relu leaves what is not negative.

What is only its own input becomes an Identity, which the pass remove-identities removes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
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
)

# Of those that ONNX allows, the ones that ONNX Runtime has kernels for.
_RELU = {"float16": 1, "float32": 1, "float64": 1, "int8": 14, "int32": 14}  # since opset
_LEAKY_RELU = ("float16", "float32")


class LogOfSoftmax(Rule):
    """`Log(Softmax(x))` to `LogSoftmax(x)`."""

    def pattern(self, op: Any, x: ir.Value) -> Any:
        return op.Log(op.Softmax(x, _outputs=["p"]))

    def refusal(self, match: Match) -> str | None:
        del match
        return None

    def replacement(self, op: Any, match: Match) -> Any:
        return op.LogSoftmax(match["x"], **match.node("p").attributes)


class _ToRelu(Rule):
    def replacement(self, op: Any, match: Match) -> Any:
        return op.Relu(match["x"])


class ClipToRelu(_ToRelu):
    """`Clip(x, 0)` to `Relu(x)`."""

    def pattern(self, op: Any, x: ir.Value) -> Any:
        return op.Clip(x, _allow_other_inputs=True, _outputs=["y"])

    def refusal(self, match: Match) -> str | None:
        node = match.node("y")
        low, high = given_input(node, 1), given_input(node, 2)
        if low is None:
            return NOTHING_TO_DO
        if constant(low) is None or (high is not None and constant(high) is None):
            return "a bound is not constant"
        if weights(low).item() != 0 or (high is not None and weights(high).item() != np.inf):
            return NOTHING_TO_DO
        return _no_relu(node, weights(low).dtype)


class MaxWithZeroToRelu(_ToRelu):
    """`Max(x, 0)` to `Relu(x)`."""

    def pattern(self, op: Any, x: ir.Value, zero: ir.Value) -> Any:
        return op.Max(x, zero, _outputs=["y"])

    def refusal(self, match: Match) -> str | None:
        fault = _no_zero(match)
        return _no_relu(match.node("y"), weights(match["zero"]).dtype) if fault is None else fault


class MaxOfZeroToRelu(MaxWithZeroToRelu):
    """`Max(0, x)` to `Relu(x)`."""

    def pattern(self, op: Any, x: ir.Value, zero: ir.Value) -> Any:
        return op.Max(zero, x, _outputs=["y"])


class PReluToLeakyRelu(Rule):
    """`PRelu(x, slope)` to `LeakyRelu(x)`."""

    def pattern(self, op: Any, x: ir.Value, slope: ir.Value) -> Any:
        return op.PRelu(x, slope)

    def refusal(self, match: Match) -> str | None:
        slope = constant(match["slope"])
        if slope is None:
            return "the slope is not constant"
        if slope.dtype.name not in _LEAKY_RELU:
            return f"ONNX Runtime has no LeakyRelu of {slope.dtype}"
        if slope.size == 0 or not (slope == slope.flat[0]).all():
            return "the slopes differ"
        if not _fits(slope.shape, match["x"]):
            return f"slopes of shape {list(slope.shape)} may enlarge the result"
        return None

    def replacement(self, op: Any, match: Match) -> Any:
        return op.LeakyRelu(match["x"], alpha=float(weights(match["slope"]).flat[0]))


class CastToOwnDtype(Rule):
    """`Cast(x)` to `Identity(x)` where x has that dtype."""

    def pattern(self, op: Any, x: ir.Value) -> Any:
        return op.Cast(x, _outputs=["y"])

    def refusal(self, match: Match) -> str | None:
        return None if match["x"].dtype == int_attribute(match.node("y"), "to", 0) else NOTHING_TO_DO

    def replacement(self, op: Any, match: Match) -> Any:
        return op.Identity(match["x"])


class AddOfZero(Rule):
    """`Add(x, 0)` to `Identity(x)`."""

    def pattern(self, op: Any, x: ir.Value, zero: ir.Value) -> Any:
        return op.Add(x, zero)

    def refusal(self, match: Match) -> str | None:
        return _no_zero(match)

    def replacement(self, op: Any, match: Match) -> Any:
        return op.Identity(match["x"])


class ZeroAndX(AddOfZero):
    """`Add(0, x)` to `Identity(x)`."""

    def pattern(self, op: Any, x: ir.Value, zero: ir.Value) -> Any:
        return op.Add(zero, x)


class TransposeOfNothing(Rule):
    """`Transpose(x)` to `Identity(x)` where every axis stays in its place."""

    def pattern(self, op: Any, x: ir.Value) -> Any:
        return op.Transpose(x, _outputs=["y"])

    def refusal(self, match: Match) -> str | None:
        order = ints_attribute(match.node("y"), "perm")
        if order is None:  # the axes are reversed
            shape = static_shape(match["x"])
            return None if shape is not None and len(shape) < 2 else NOTHING_TO_DO
        return None if order == tuple(range(len(order))) else NOTHING_TO_DO

    def replacement(self, op: Any, match: Match) -> Any:
        return op.Identity(match["x"])


class ReshapeOfReshape(Rule):
    """`Reshape(Reshape(x, s), t)` to `Reshape(x, t)`."""

    def pattern(self, op: Any, x: ir.Value, first: ir.Value, second: ir.Value) -> Any:
        return op.Reshape(op.Reshape(x, first), second, _outputs=["y"])

    def refusal(self, match: Match) -> str | None:
        target = constant(match["second"])
        if target is None:
            return "the second shape is not constant"
        if 0 in target and not int_attribute(match.node("y"), "allowzero", 0):
            return "the second shape copies a size of the first"
        return None

    def replacement(self, op: Any, match: Match) -> Any:
        return op.Reshape(match["x"], match["second"], **match.node("y").attributes)


class ReluOfRelu(_ToRelu):
    """`Relu(Relu(x))` to `Relu(x)`."""

    def pattern(self, op: Any, x: ir.Value) -> Any:
        return op.Relu(op.Relu(x))

    def refusal(self, match: Match) -> str | None:
        del match
        return None


def _no_relu(node: ir.Node, dtype: np.dtype[Any]) -> str | None:
    """Why there can be no Relu in the place of a node; None where there can."""
    since = _RELU.get(dtype.name)
    version = node.graph.opset_imports.get("", 1) if node.graph is not None else 1
    return f"ONNX Runtime has no Relu of {dtype}" if since is None or since > version else None


def _no_zero(match: Match) -> str | None:
    """Why "zero" is no constant 0 that leaves the shape of "x" as it is; None where it is."""
    zero = constant(match["zero"])
    if zero is None or zero.size == 0 or zero.any():
        return NOTHING_TO_DO
    if not _fits(zero.shape, match["x"]):
        return f"zeros of shape {list(zero.shape)} may enlarge the result"
    return None


def _fits(shape: tuple[int, ...], value: ir.Value) -> bool:
    """Whether a tensor of this shape is certain to broadcast to a value and not the other way round."""
    if not shape:
        return True
    sizes = static_shape(value)
    if sizes is None or len(sizes) < len(shape):
        return False
    return all(mine in (1, other) for mine, other in zip(reversed(shape), reversed(sizes), strict=False))


SIMPLIFY_TAILS = Pass(
    "simplify-tails",
    "Log(Softmax), Clip and Max at 0, PRelu with one slope, and operators that do nothing, as simpler ones",
    apply_rules(
        LogOfSoftmax,
        ClipToRelu,
        MaxWithZeroToRelu,
        MaxOfZeroToRelu,
        PReluToLeakyRelu,
        CastToOwnDtype,
        AddOfZero,
        ZeroAndX,
        TransposeOfNothing,
        ReshapeOfReshape,
        ReluOfRelu,
    ),
)
