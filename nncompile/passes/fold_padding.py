"""A Pad as the padding of the convolution or pool behind it.

Patterns: `Conv(Pad(x), w)`, `AveragePool(Pad(x))` and `MaxPool(Pad(x))`, where the Pad is of mode constant,
its pads are constant, none negative and none on the batch or channel axis. The pads are added to the
operator's.

Algebra, for a Pad with value v:

- Conv pads with 0 by definition: v = 0 (and weights that are finite, since it may skip 0 * w).
- AveragePool with `count_include_pad=1` pads with 0 and counts the padding: v = 0, and a pool that counts its
  own padding, if it has any. The pool that results counts it.
- MaxPool pads with -inf. Either v = -inf, or v <= 0 and x >= 0: every window holds an element of x, which is
  then no less than the padding. x >= 0 is known where Relu, Sigmoid, Softmax, HardSigmoid, Abs or a Clip from
  0 on computed it, or a pool of such. (ONNX Runtime's own Pad fusion forgets this condition.)

For pools a window must hold an element of x: padding smaller than the kernel, no dilation. With ceil_mode the
number of windows depends on which part is padding; with auto_pad SAME the padding depends on the size:
refused. NaN: which elements a MaxPool drops differs between implementations, before and after.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir

from nncompile.passes.contract import Pass
from nncompile.passes.rewriting import Match, Rule, apply_rules
from nncompile.passes.values import (
    Window,
    constant,
    given_input,
    int_attribute,
    known_window,
    string_attribute,
    weights,
    window,
)

_NOT_NEGATIVE = frozenset({"HardSigmoid", "Relu", "Sigmoid", "Softmax"})
_POOLS = frozenset({"AveragePool", "GlobalAveragePool", "GlobalMaxPool", "MaxPool"})
_MAX_DEPTH = 8


class _FoldPadding(Rule):
    """Shared by the three operators; they differ in what they pad with."""

    operator: ClassVar[str]

    def pattern(self, op: Any, x: ir.Value) -> Any:
        padded = op.Pad(x, _allow_other_inputs=True, _outputs=["padded"])
        return getattr(op, self.operator)(padded, _allow_other_inputs=True, _outputs=["y"])

    def refusal(self, match: Match) -> str | None:
        pad, node = match.node("padded"), match.node("y")
        view = window(node)
        if view is None:
            return "the kernel is not known"
        if view.same:
            return f"auto_pad is {view.auto_pad}"
        mode = string_attribute(pad, "mode", "constant")
        if mode != "constant":
            return f"the Pad's mode is {mode}"
        constants = (given_input(pad, 1), *filter(None, (given_input(pad, 2), given_input(pad, 3))))
        if any(constant(value) is None for value in constants):
            return "the pads, their value or their axes are not constant"
        before, after = _pads(pad, len(view.kernel) + 2)
        if any(before[:2] + after[:2]):
            return "the batch or channel axis is padded"
        if min(before + after) < 0:
            return "a pad is negative"
        return self.refusal_of_padding(match, view)

    def refusal_of_padding(self, match: Match, view: Window) -> str | None:
        """Why the operator's own padding is not that of the Pad; None where it is."""
        raise NotImplementedError

    def replacement(self, op: Any, match: Match) -> Any:
        node = match.node("y")
        attributes = {key: value for key, value in node.attributes.items() if key != "auto_pad"}
        attributes["pads"] = ir.AttrInt64s("pads", _together(match))
        return getattr(op, self.operator)(match["x"], *node.inputs[1:], **attributes)


class FoldPaddingIntoConv(_FoldPadding):
    """`Conv(Pad(x))` to `Conv(x)`."""

    operator = "Conv"

    def refusal_of_padding(self, match: Match, view: Window) -> str | None:
        del view
        value = _value(match.node("padded"))
        return None if value == 0 else f"the Pad's value is {value:g}, not 0"


class _FoldPaddingIntoPool(_FoldPadding):
    def refusal_of_padding(self, match: Match, view: Window) -> str | None:
        if len(match.node("y").outputs) > 1:
            return "the pool returns the places of its maxima"
        if view.ceil:
            return "the pool has ceil_mode"
        if view.dilated:
            return "the pool is dilated"
        if any(pad >= size for pad, size in zip(_together(match), view.kernel * 2, strict=True)):
            return "the padding would be as large as the kernel"
        return self.refusal_of_value(match, view, _value(match.node("padded")))

    def refusal_of_value(self, match: Match, view: Window, value: float) -> str | None:
        """Why the pool does not pad with this value; None where it does."""
        raise NotImplementedError


class FoldPaddingIntoAveragePool(_FoldPaddingIntoPool):
    """`AveragePool(Pad(x))` to `AveragePool(x)`."""

    operator = "AveragePool"

    def refusal_of_value(self, match: Match, view: Window, value: float) -> str | None:
        if value != 0:
            return f"the Pad's value is {value:g}, not 0"
        if view.padded and not int_attribute(match.node("y"), "count_include_pad", 0):
            return "the pool does not count its own padding"
        return None

    def replacement(self, op: Any, match: Match) -> Any:
        pooled = super().replacement(op, match)
        pooled.producer().attributes["count_include_pad"] = ir.AttrInt64("count_include_pad", 1)
        return pooled


class FoldPaddingIntoMaxPool(_FoldPaddingIntoPool):
    """`MaxPool(Pad(x))` to `MaxPool(x)`."""

    operator = "MaxPool"

    def refusal_of_value(self, match: Match, view: Window, value: float) -> str | None:
        del view
        if value == -np.inf or (value <= 0 and _not_negative(match["x"])):
            return None
        return f"the Pad's value is {value:g}, which may be more than the elements beside it"


def _value(pad: ir.Node) -> float:
    given = given_input(pad, 2)
    return 0.0 if given is None else float(weights(given).item())


def _pads(pad: ir.Node, rank: int) -> tuple[list[int], list[int]]:
    """Constant pads in front of and behind every axis; only opset 18 can name the axes."""
    sizes = weights(pad.inputs[1]).tolist()
    given = given_input(pad, 3)
    axes = range(rank) if given is None else [axis % rank for axis in weights(given).tolist()]
    before, after = [0] * rank, [0] * rank
    for place, axis in enumerate(axes):
        before[axis] = sizes[place]
        after[axis] = sizes[len(axes) + place]
    return before, after


def _together(match: Match) -> list[int]:
    """The operator's own pads and those of the Pad, on the axes of the plane."""
    view = known_window(match.node("y"))
    before, after = _pads(match.node("padded"), len(view.kernel) + 2)
    return [own + added for own, added in zip(view.before + view.after, before[2:] + after[2:], strict=True)]


def _not_negative(value: ir.Value | None, depth: int = 0) -> bool:
    """Whether no element can be negative, by the operators that computed the value."""
    node = None if value is None else value.producer()
    if node is None or node.domain not in ("", "ai.onnx") or depth > _MAX_DEPTH:
        return False
    if node.op_type in _NOT_NEGATIVE:
        return True
    if node.op_type == "Abs":  # of the least integer it is that integer
        return node.outputs[0].dtype is not None and node.outputs[0].dtype.is_floating_point()
    if node.op_type == "Clip":
        low, high = constant(given_input(node, 1)), given_input(node, 2)
        above = high is None or ((top := constant(high)) is not None and bool(top >= 0))
        return low is not None and bool(low >= 0) and above
    if node.op_type in _POOLS and value is node.outputs[0]:
        view = None if node.op_type.startswith("Global") else window(node)
        # A window wholly in the padding has the maximum -inf.
        if view is not None and (view.padded or view.ceil) and (view.dilated or view.ceil):
            return False
        return _not_negative(node.inputs[0], depth + 1)
    return False


FOLD_PADDING = Pass(
    "fold-padding",
    "Pad as the padding of the convolution or pool behind it",
    apply_rules(FoldPaddingIntoConv, FoldPaddingIntoAveragePool, FoldPaddingIntoMaxPool),
)
