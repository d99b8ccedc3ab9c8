"""What `x[:, :, None, None]` becomes, in as few nodes as it takes.

Patterns and algebra, from the ONNX operator documentation:

- `Slice(x)` that takes every element of every axis, in steps of 1 from 0 on to the end, is x.
- `Unsqueeze(Unsqueeze(x, a), b)` is one Unsqueeze: b counts axes of the result; the axes of the result that b
  does not name are those of the inner result in order, of which a names some.
- `ScatterND(x, i, y)` whose indices i are 0, 1, ... as far as x has rows, and whose y has x's shape, is y.

The exporter writes indexing with a slice for every `:` and an Unsqueeze for every `None`, and `x[:] += y` as
rows written into x. What is only its own input becomes an Identity, which the pass remove-identities
removes.
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
    static_shape,
    string_attribute,
    weights,
)

_TO_THE_END = np.iinfo(np.int32).max  # what `x[0:]` is written with, or more: no axis is that long


class SliceOfAll(Rule):
    """`Slice(x)` that leaves nothing out to `x`."""

    def pattern(self, op: Any, x: ir.Value) -> Any:
        return op.Slice(x, _allow_other_inputs=True, _outputs=["y"])

    def refusal(self, match: Match) -> str | None:
        node = match.node("y")
        starts, ends = (constant(given_input(node, index)) for index in (1, 2))
        if starts is None or ends is None or starts.any():
            return NOTHING_TO_DO
        for index, least in ((3, None), (4, 1)):  # axes and steps may be left out
            given = given_input(node, index)
            array = constant(given)
            if given is not None and (array is None or (least is not None and (array != least).any())):
                return NOTHING_TO_DO
        shape, axes = static_shape(match["x"]), constant(given_input(node, 3))
        for place, end in enumerate(ends):
            size = shape[place if axes is None else int(axes[place])] if shape else None
            if end < (_TO_THE_END if size is None else size):
                return NOTHING_TO_DO
        return None

    def replacement(self, op: Any, match: Match) -> Any:
        return op.Identity(match["x"])


class UnsqueezeTwice(Rule):
    """`Unsqueeze(Unsqueeze(x))` to `Unsqueeze(x)`."""

    def pattern(self, op: Any, x: ir.Value, inner: ir.Value, outer: ir.Value) -> Any:
        return op.Unsqueeze(op.Unsqueeze(x, inner), outer, _outputs=["y"])

    def refusal(self, match: Match) -> str | None:
        if constant(match["inner"]) is None or constant(match["outer"]) is None:
            return "the axes are not constant"
        return "the rank is not known" if static_shape(match["x"]) is None else None

    def replacement(self, op: Any, match: Match) -> Any:
        inner, outer = (weights(match[name]).reshape(-1).tolist() for name in ("inner", "outer"))
        between = len(static_shape(match["x"]) or ()) + len(inner)
        rank = between + len(outer)
        last = {axis % rank for axis in outer}
        kept = [axis for axis in range(rank) if axis not in last]
        axes = np.array(sorted(last | {kept[axis % between] for axis in inner}), np.int64)
        return op.Unsqueeze(match["x"], op.initializer(ir.tensor(axes), name=f"{match['y'].name}_axes"))


class ScatterOfAll(Rule):
    """`ScatterND(x)` that writes every row anew to what it writes."""

    def pattern(self, op: Any, x: ir.Value, i: ir.Value, y: ir.Value) -> Any:
        return op.ScatterND(x, i, y, _outputs=["z"])

    def refusal(self, match: Match) -> str | None:
        if string_attribute(match.node("z"), "reduction", "none") != "none":
            return "it adds to what is there"
        x, y, rows = match["x"].shape, match["y"].shape, _rows(match["i"])
        if x is None or y is None or x.has_unknown_dim() or rows is None or rows != x[0]:
            return "it is not known to write all rows in their order"
        return None if x == y else f"it writes {list(y)} into {list(x)}"

    def replacement(self, op: Any, match: Match) -> Any:
        return op.Identity(match["y"])


def _rows(indices: ir.Value) -> int | ir.SymbolicDim | None:
    """n, where the indices are 0, 1, ..., n - 1 in rows of one; None where that is not known."""
    column = _made_by(indices, "Unsqueeze")
    counting = column and _made_by(column.inputs[0], "Range")
    size = counting and _made_by(counting.inputs[1], "Gather")
    sizes = size and _made_by(size.inputs[0], "Shape")
    if not column or not counting or not size or not sizes or int_attribute(sizes, "start", 0):
        return None
    of = sizes.inputs[0].shape if sizes.inputs[0] else None
    given = (column.inputs[1], counting.inputs[0], counting.inputs[2], size.inputs[1])
    axes, start, step, axis = (constant(value) for value in given)
    for array, numbers in ((axes, (-1, 1)), (start, (0,)), (step, (1,)), (axis, (0,))):
        if array is None or array.size != 1 or array.item() not in numbers:
            return None
    return of[0] if of is not None and not of.is_unknown_dim(0) else None


def _made_by(value: ir.Value | None, operator: str) -> ir.Node | None:
    node = value.producer() if value is not None else None
    while node is not None and node.op_type == "Identity" and node.inputs[0] is not None:
        node = node.inputs[0].producer()  # what SliceOfAll left
    return node if node is not None and node.op_type == operator else None


SIMPLIFY_INDEXING = Pass(
    "simplify-indexing",
    "slices that take everything and writes of everything removed, Unsqueeze after Unsqueeze as one",
    apply_rules(SliceOfAll, UnsqueezeTwice, ScatterOfAll),
)
