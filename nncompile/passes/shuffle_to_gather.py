"""A channel shuffle as one Gather.

Pattern: `Reshape(Transpose(Reshape(x)))` with

    [n, C, H, W] -> [n, g, C / g, H, W] -> [n, C / g, g, H, W] -> [n, C, H, W]

Algebra: channel i of the result, i = a g + b with b < g, is channel b (C / g) + a of x: a permutation of the
channels, which `Gather(x, indices, axis=1)` computes (Zhang et al., "ShuffleNet", arXiv:1707.01083, 3.1).
It moves whole planes instead of copying each element through tensors of rank 5.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from nncompile.passes.contract import Pass
from nncompile.passes.rewriting import NOTHING_TO_DO, Match, Rule, apply_rules
from nncompile.passes.values import ints_attribute, static_shape


class ShuffleToGather(Rule):
    """Reshape, Transpose and Reshape that permute channels to `Gather`."""

    def pattern(self, op: Any, x: ir.Value, apart: ir.Value, whole: ir.Value) -> Any:
        parts = op.Reshape(x, apart, _outputs=["parts"])
        return op.Reshape(op.Transpose(parts, _outputs=["turned"]), whole, _outputs=["y"])

    def refusal(self, match: Match) -> str | None:
        if ints_attribute(match.node("turned"), "perm") != (0, 2, 1, 3, 4):
            return NOTHING_TO_DO
        x, parts, y = (static_shape(match[name]) for name in ("x", "parts", "y"))
        if x is None or parts is None or y is None:
            return "a shape is not known"
        if len(x) != 4 or x[1:] != y[1:]:
            return NOTHING_TO_DO
        if None in x[1:] or None in parts[1:]:
            return "a size other than the batch is not known"
        if x[2:] != parts[3:] or x[1] != parts[1] * parts[2]:  # type: ignore[operator]
            return "it takes more than channels apart"
        return None

    def replacement(self, op: Any, match: Match) -> Any:
        groups = (static_shape(match["parts"]) or ())[1]
        channels = (static_shape(match["x"]) or ())[1]
        order = np.arange(channels or 0, dtype=np.int64).reshape(groups or 1, -1).T.reshape(-1)
        indices = op.initializer(ir.tensor(order), name=f"{match['y'].name}_channels")
        return op.Gather(match["x"], indices, axis=1)


SHUFFLE_TO_GATHER = Pass(
    "shuffle-to-gather",
    "Reshape, Transpose and Reshape that permute channels as one Gather",
    apply_rules(ShuffleToGather),
)
