"""Reshape and Resize to a computed shape as those to a constant one.

Patterns, where sizes are computed in the graph (Shape, Squeeze, Concat ...):

- `Reshape(x, shape)` whose output shape is known but for one dimension: what `x.view(x.shape[0], -1)`
  becomes. A Reshape keeps the number of elements, so one size follows from the others; ONNX writes it as -1.
  With a known size of 0 among the others it would not follow, and the rule refuses. Where several are not
  known and each of them is the input's size on the same axis, all but the first are written as 0, which
  copies it. In a call none of them is 0: an empty batch is run as two rows.
- `Resize(x, sizes)` where each size of the output is known, or is that of the input: what `interpolate` to
  the size of another tensor becomes. ONNX defines the scale of an axis as the quotient of the sizes, and the
  size as `floor(size * scale)`. Where the quotient rounded to float32 gives another size, the next larger one
  is taken to interpolate, which moves positions by less than computing them in float32 does; for the nearest
  element, which might be another, the rule refuses.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from nncompile.passes.contract import Pass
from nncompile.passes.rewriting import NOTHING_TO_DO, Match, Rule, apply_rules
from nncompile.passes.values import Array, constant, given_input, static_shape, string_attribute


class StaticReshape(Rule):
    """`Reshape(x, computed)` to `Reshape(x, [.., -1, ..])`."""

    def pattern(self, op: Any, x: ir.Value, shape: ir.Value) -> Any:
        return op.Reshape(x, shape, _outputs=["y"])

    def refusal(self, match: Match) -> str | None:
        if constant(match["shape"]) is not None:
            return NOTHING_TO_DO
        sizes = static_shape(match["y"])
        if sizes is None:
            return "the output's rank is not known"
        unknown = [axis for axis, size in enumerate(sizes) if size is None]
        if len(unknown) > 1 and not all(_copied(match, axis) for axis in unknown):
            return f"{len(unknown)} sizes of the output are not known"
        if 0 in sizes:
            return "a size of the output is 0"
        return None

    def replacement(self, op: Any, match: Match) -> Any:
        sizes = static_shape(match["y"]) or ()
        target = np.array([0 if size is None else size for size in sizes], np.int64)
        if None in sizes:
            target[sizes.index(None)] = -1
        return op.Reshape(match["x"], op.initializer(ir.tensor(target), name=f"{match['y'].name}_shape"))


def _copied(match: Match, axis: int) -> bool:
    """Whether a size of the output is the input's on the same axis, by its symbol."""
    before, after = match["x"].shape, match["y"].shape
    if before is None or after is None or axis >= len(before):
        return False
    size, made = before[axis], after[axis]
    return isinstance(size, ir.SymbolicDim) and size.value is not None and size == made


class StaticResize(Rule):
    """`Resize(x, sizes=computed)` to `Resize(x, scales)`."""

    def pattern(self, op: Any, x: ir.Value) -> Any:
        return op.Resize(x, _allow_other_inputs=True, _outputs=["y"])

    def refusal(self, match: Match) -> str | None:
        node = match.node("y")
        sizes = given_input(node, 3)
        if sizes is None or constant(sizes) is not None:
            return NOTHING_TO_DO
        if "axes" in node.attributes or given_input(node, 1) is not None:
            return "it names axes or a part of them"
        policy = string_attribute(node, "keep_aspect_ratio_policy", "stretch")
        if policy != "stretch":
            return f"its sizes are bounds: {policy}"
        return None if _scales(match) is not None else "its scales do not follow from known sizes"

    def replacement(self, op: Any, match: Match) -> Any:
        scales = _scales(match)
        if scales is None:
            raise ValueError("a Resize whose scales are not known")
        named = op.initializer(ir.tensor(scales), name=f"{match['y'].name}_scales")
        return op.Resize(match["x"], None, named, **match.node("y").attributes)


def _scales(match: Match) -> Array | None:
    """Float32, one for each axis; None where they are not known, or rounded would give other sizes."""
    before, after = match["x"].shape, match["y"].shape
    if before is None or after is None or len(before) != len(after):
        return None
    nearest = string_attribute(match.node("y"), "mode", "nearest") == "nearest"
    scales = np.ones(len(before), np.float32)
    for axis, (size, count) in enumerate(zip(before, after, strict=True)):
        if isinstance(size, int) and isinstance(count, int) and size > 0:
            scale = np.float32(count / size)
            if not nearest and not _makes(count, size, scale):
                scale = np.nextafter(scale, np.float32(np.inf))
            if not _makes(count, size, scale):
                return None
            scales[axis] = scale
        elif isinstance(size, int) or size != count or size.value is None:
            return None  # another symbol, or one without a name
    return scales


def _makes(count: int, size: int, scale: np.float32) -> bool:
    """Whether a scale makes `count` elements of `size`, computed in float32 or without rounding."""
    return bool(np.floor(np.float32(size) * scale) == np.floor(size * float(scale)) == count)


STATIC_RESHAPE = Pass(
    "static-reshape",
    "Reshape and Resize to a computed shape as those to a constant one",
    apply_rules(StaticReshape, StaticResize),
)
