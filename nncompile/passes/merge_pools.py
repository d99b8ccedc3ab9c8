"""Two pools in a row as one.

Patterns: `MaxPool(MaxPool(x))` and `AveragePool(AveragePool(x))`, both without padding, dilation or
ceil_mode.

Algebra: window j of the second pool covers the windows j * s2 ... j * s2 + k2 - 1 of the first, that is the
elements from j * s1 * s2 on, as far as `K = k1 + (k2 - 1) * s1`. So in each axis kernel K and stride s1 * s2.
The number of windows is that of the second pool, since floor divisions nest:

    floor((floor((n - k1) / s1) + 1 - k2) / s2) = floor((n - K) / (s1 * s2))

The maximum of maxima is the maximum where the first windows leave no gap, `s1 <= k1` (or k2 = 1). The mean of
means is the mean where they share no element and leave none out, `s1 = k1` (or k2 = 1): then all count alike,
and tails that no window reaches are left out by both. NaN: which elements a MaxPool drops differs between
implementations, before and after.

Overlapping windows can cost more when merged: the rule counts the elements read, for each result `K` against
`s2 * k1 + k2` (products over the axes), and refuses where they would be more.
"""

from __future__ import annotations

from math import prod
from typing import Any, ClassVar

import onnx_ir as ir

from nncompile.passes.contract import Pass
from nncompile.passes.rewriting import Match, Rule, apply_rules
from nncompile.passes.values import Window, known_window, window


class _MergePools(Rule):
    """Shared by the two kinds; they differ in what the first windows may leave between them."""

    operator: ClassVar[str]

    def pattern(self, op: Any, x: ir.Value) -> Any:
        pool = getattr(op, self.operator)
        return pool(pool(x, _outputs=["inner"]), _outputs=["outer"])

    def refusal(self, match: Match) -> str | None:
        nodes = match.node("inner"), match.node("outer")
        first, second = (window(node) for node in nodes)
        if first is None or second is None:
            return "a kernel is not known"
        if any(len(node.outputs) > 1 for node in nodes):
            return "a pool returns the places of its maxima"
        if first.padded or second.padded:
            return "a pool pads"
        if first.ceil or second.ceil:
            return "a pool has ceil_mode"
        if first.dilated or second.dilated:
            return "a pool is dilated"
        axes = zip(first.kernel, first.strides, second.kernel, strict=True)
        if not all(outer == 1 or self.seamless(inner, stride) for inner, stride, outer in axes):
            return f"the first pool has kernel {list(first.kernel)} and strides {list(first.strides)}"
        if prod(_kernel(first, second)) > prod(second.strides) * prod(first.kernel) + prod(second.kernel):
            return "one pool would read more elements than the two"
        return None

    def seamless(self, kernel: int, stride: int) -> bool:
        """Whether windows of the first pool, taken together, treat all elements alike."""
        raise NotImplementedError

    def replacement(self, op: Any, match: Match) -> Any:
        first, second = known_window(match.node("inner")), known_window(match.node("outer"))
        strides = [one * other for one, other in zip(first.strides, second.strides, strict=True)]
        pool = getattr(op, self.operator)
        return pool(match["x"], kernel_shape=_kernel(first, second), strides=strides)


class MergeMaxPools(_MergePools):
    """`MaxPool(MaxPool(x))` to `MaxPool(x)`."""

    operator = "MaxPool"

    def seamless(self, kernel: int, stride: int) -> bool:
        return stride <= kernel


class MergeAveragePools(_MergePools):
    """`AveragePool(AveragePool(x))` to `AveragePool(x)`."""

    operator = "AveragePool"

    def seamless(self, kernel: int, stride: int) -> bool:
        return stride == kernel


def _kernel(first: Window, second: Window) -> list[int]:
    """The kernel that sees what the two see together."""
    axes = zip(first.kernel, first.strides, second.kernel, strict=True)
    return [inner + (outer - 1) * stride for inner, stride, outer in axes]


MERGE_POOLS = Pass(
    "merge-pools",
    "two MaxPools or AveragePools in a row as one",
    apply_rules(MergeMaxPools, MergeAveragePools),
)
