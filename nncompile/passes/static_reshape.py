"""Reshape to a computed shape, where only one size is unknown, as a Reshape to a constant shape.

Pattern: `Reshape(x, shape)` whose `shape` is computed in the graph (Shape, Squeeze, Concat ...: what
`x.view(x.shape[0], -1)` becomes) and whose output shape is known but for one dimension.

Algebra: a Reshape keeps the number of elements, so one size follows from the others; ONNX writes it as -1.
With a known size of 0 among the others it would not follow, and the rule refuses.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from nncompile.passes.contract import Pass
from nncompile.passes.rewriting import NOTHING_TO_DO, Match, Rule, apply_rules
from nncompile.passes.values import constant, static_shape


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
        unknown = sum(size is None for size in sizes)
        if unknown > 1:
            return f"{unknown} sizes of the output are not known"
        if 0 in sizes:
            return "a size of the output is 0"
        return None

    def replacement(self, op: Any, match: Match) -> Any:
        sizes = static_shape(match["y"]) or ()
        target = np.array([-1 if size is None else size for size in sizes], np.int64)
        return op.Reshape(match["x"], op.initializer(ir.tensor(target), name=f"{match['y'].name}_shape"))


STATIC_RESHAPE = Pass(
    "static-reshape", "Reshape to a computed shape as a Reshape to a constant one", apply_rules(StaticReshape)
)
