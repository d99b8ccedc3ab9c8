"""Parallel convolutions of one tensor, added up or subtracted, as one convolution.

Patterns, in either order: `Add(Conv(x), Conv(x))`; `Add(Conv(x), BatchNormalization(x))`; `Add(Conv(x), x)`;
and the same with `Sub`, whose second term has its weights negated. Longer sums are merged pair by pair.

Algebra: a convolution is a sum over taps, the positions of its kernel: tap j reads x at `j d - p` from where
the window stands, for dilation d and padding p in front. Where two convolutions have the same strides and
the same number of results, their windows stand at the same places, and

    sum over taps of W(tap) * x(tap) + c  +  sum over taps of V(tap) * x(tap) + d

is one sum over the taps of both, with W + V where both have a tap and the bias c + d. The taps of both lie on
a grid, whose step, the new dilation, is the greatest common divisor of their distances; on each side the
padding is the larger one. The number of results, `floor((n + p + q - (k - 1) d - 1) / s) + 1` with padding q
behind, is the same for every n where `p + q - (k - 1) d` is: that is the condition for a pair, and holds for
padding that keeps the size. Groups: a convolution with G groups is one with any divisor of G whose kernel is
0 between its blocks; the sum has the greatest common divisor of both. A batch norm with `scale` and `shift`
of each channel is a convolution of one tap, `scale`, with a group for each channel; x alone is the same with
1. (Ding et al., "RepVGG: Making VGG-style ConvNets Great Again", arXiv:2101.03697, section 3.3.)

A result takes as many multiplications as the kernel has weights. The rule fires where the sum takes no more
than its parts, x alone counting for none: a 1 x 1 into a 3 x 3, not a 1 x 3 and a 3 x 1 into a 3 x 3. And
only where each weight of the sum is one of a part: another would be 0, but 0 times infinity is NaN.
Computed in float64 and rounded once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import gcd, prod
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir
from onnxscript.rewriter.pattern import OrValue

from nncompile.passes.affine import batch_norm, batch_norm_fault
from nncompile.passes.contract import Pass
from nncompile.passes.rewriting import NOTHING_TO_DO, Match, Rule, apply_rules
from nncompile.passes.values import (
    Array,
    Window,
    channel_bias,
    folded,
    in_groups,
    kernel_view,
    rounding_fault,
    weight_fault,
    weights,
    window,
)


@dataclass(frozen=True)
class _Branch:
    """One term of the sum, as a convolution in float64.

    Attributes:
        kernel: Of shape (group, outputs of a group, inputs of a group, kernel elements).
        bias: One value for each output channel.
        view: Where it looks.
        cost: Multiplications for each result.
    """

    kernel: Array
    bias: Array
    view: Window
    cost: int

    @property
    def channels(self) -> tuple[int, int]:
        """Inputs and outputs."""
        group, outputs, inputs, _ = self.kernel.shape
        return group * inputs, group * outputs

    @property
    def taps(self) -> tuple[range, ...]:
        """What the kernel reads in each axis, counted from where the window stands."""
        axes = zip(self.view.before, self.view.kernel, self.view.dilations, strict=True)
        return tuple(range(-pad, size * step - pad, step) for pad, size, step in axes)

    @property
    def growth(self) -> tuple[int, ...]:
        """By how much each axis would grow without strides."""
        axes = zip(self.view.before, self.view.after, self.taps, strict=True)
        return tuple(before + after - (taps[-1] - taps[0]) for before, after, taps in axes)


class _MergeBranches(Rule):
    """Shared by all patterns, which bind the terms of the sum to "a" and "b", and x alone to "x".

    Attributes:
        signs: Of "a", and of "b" or x alone.
    """

    signs: ClassVar[tuple[int, int]] = (1, 1)

    def refusal(self, match: Match) -> str | None:
        nodes = _nodes(match)
        layers = [node for node in nodes if node is not None and node.op_type == "Conv"]
        if not layers:
            return NOTHING_TO_DO
        for node in filter(None, nodes):
            reason = batch_norm_fault(node) if node.op_type == "BatchNormalization" else weight_fault(node)
            if reason is not None:
                return reason
        first, second = _branches(match, self.signs)
        reason = _window_fault(first, second)
        if reason is not None:
            return reason
        group, taps = _group(first, second), _taps(first, second)
        inputs, outputs = first.channels
        merged = outputs * (inputs // group) * prod(map(len, taps))
        apart = first.cost + second.cost
        if merged > apart:
            return f"one convolution would take {merged} multiplications, the two take {apart}"
        if not _all_read(first, second):
            return "one convolution would read, with a weight of 0, what neither of the two reads"
        before = np.concatenate([in_groups(branch.kernel, group) for branch in (first, second)], 3)
        kernel, bias = _sum(first, second)
        dtype = weights(layers[0].inputs[1]).dtype
        return rounding_fault(kernel.reshape(*before.shape[:3], -1), bias, before, dtype)

    def replacement(self, op: Any, match: Match) -> Any:
        layer = next(node for node in _nodes(match) if node is not None and node.op_type == "Conv")
        like, name = weights(layer.inputs[1]), layer.inputs[1].name  # type: ignore[union-attr]
        first, second = _branches(match, self.signs)
        taps = _taps(first, second)
        kernel, bias = _sum(first, second)
        kernel = kernel.reshape(-1, *kernel.shape[2:])
        return op.Conv(
            match["x"],
            op.initializer(folded(kernel, like), name=f"{name}_merged"),
            op.initializer(folded(bias, like), name=f"{name}_merged_bias"),
            group=_group(first, second),
            strides=list(first.view.strides),
            dilations=[reads.step for reads in taps],
            pads=[
                *(-reads[0] for reads in taps),
                *(growth + reads[-1] for growth, reads in zip(first.growth, taps, strict=True)),
            ],
        )


class MergeBranches(_MergeBranches):
    """`Add(Conv(x), Conv(x))`, also with one `BatchNormalization(x)`, to `Conv(x)`."""

    def pattern(self, op: Any, x: ir.Value) -> Any:
        return op.Add(*(_term(op, x, name) for name in "ab"))


class MergeIdentityBranch(_MergeBranches):
    """`Add(Conv(x), x)` to `Conv(x)`."""

    def pattern(self, op: Any, x: ir.Value) -> Any:
        return op.Add(op.Conv(x, _allow_other_inputs=True, _outputs=["a"]), x)


class MergeBranchOfIdentity(_MergeBranches):
    """`Add(x, Conv(x))` to `Conv(x)`."""

    def pattern(self, op: Any, x: ir.Value) -> Any:
        return op.Add(x, op.Conv(x, _allow_other_inputs=True, _outputs=["a"]))


class MergeDifference(_MergeBranches):
    """`Sub(Conv(x), Conv(x))`, also with one `BatchNormalization(x)`, to `Conv(x)`."""

    signs = (1, -1)

    def pattern(self, op: Any, x: ir.Value) -> Any:
        return op.Sub(*(_term(op, x, name) for name in "ab"))


class MergeLessIdentity(_MergeBranches):
    """`Sub(Conv(x), x)` to `Conv(x)`."""

    signs = (1, -1)

    def pattern(self, op: Any, x: ir.Value) -> Any:
        return op.Sub(op.Conv(x, _allow_other_inputs=True, _outputs=["a"]), x)


class MergeIdentityLess(_MergeBranches):
    """`Sub(x, Conv(x))` to `Conv(x)`."""

    signs = (-1, 1)

    def pattern(self, op: Any, x: ir.Value) -> Any:
        return op.Sub(x, op.Conv(x, _allow_other_inputs=True, _outputs=["a"]))


def _term(op: Any, x: ir.Value, name: str) -> Any:
    layers = (op.Conv, op.BatchNormalization)
    return OrValue([layer(x, _allow_other_inputs=True) for layer in layers], name=name)


def _nodes(match: Match) -> tuple[ir.Node | None, ir.Node | None]:
    """The nodes of both terms; None for x alone."""
    return match.node("a"), match.node("b") if "b" in match.values else None


def _branches(match: Match, signs: tuple[int, int]) -> tuple[_Branch, _Branch]:
    """Both terms; those that only scale and shift are written as convolutions of the other's rank."""
    nodes = _nodes(match)
    layer = _convolution(next(node for node in nodes if node is not None and node.op_type == "Conv"))
    channels, rank = layer.channels[0], len(layer.view.kernel)
    branches = []
    for node, sign in zip(nodes, signs, strict=True):
        if node is None:
            branch = _pointwise(np.ones(channels), np.zeros(channels), rank, cost=0)
        elif node.op_type == "BatchNormalization":
            branch = _pointwise(*batch_norm(node), rank, cost=channels)
        else:
            branch = _convolution(node)
        branches.append(replace(branch, kernel=sign * branch.kernel, bias=sign * branch.bias))
    first, second = branches
    return first, second


def _convolution(layer: ir.Node) -> _Branch:
    weight, view = weights(layer.inputs[1]).astype(np.float64), window(layer)
    bias = channel_bias(layer, len(weight))
    if view is None or bias is None:
        raise ValueError("a convolution whose weights have no shape of their own")
    return _Branch(kernel_view(layer, weight), bias, view, weight.size)


def _pointwise(scale: Array, shift: Array, rank: int, cost: int) -> _Branch:
    ones, zeros = (1,) * rank, (0,) * rank
    view = Window(ones, ones, ones, zeros, zeros, "NOTSET", ceil=False)
    return _Branch(scale.reshape(-1, 1, 1, 1), shift, view, cost)


def _window_fault(first: _Branch, second: _Branch) -> str | None:
    """Why the two have no common window; None where they have."""
    if first.view.same or second.view.same:
        return f"auto_pad is {first.view.auto_pad if first.view.same else second.view.auto_pad}"
    if first.view.strides != second.view.strides:
        return f"the strides are {list(first.view.strides)} and {list(second.view.strides)}"
    if first.channels != second.channels or first.growth != second.growth:
        return "the two terms differ in size"
    return None


def _group(first: _Branch, second: _Branch) -> int:
    return gcd(len(first.kernel), len(second.kernel))


def _taps(first: _Branch, second: _Branch) -> list[range]:
    """The grid of both kernels in each axis."""
    grid = []
    for one, other in zip(first.taps, second.taps, strict=True):
        steps = (taps.step for taps in (one, other) if len(taps) > 1)
        step = gcd(one[0] - other[0], *steps) or 1
        grid.append(range(min(one[0], other[0]), max(one[-1], other[-1]) + 1, step))
    return grid


def _all_read(first: _Branch, second: _Branch) -> bool:
    """Whether each weight of the sum is one of a part."""
    ones = (replace(branch, kernel=np.ones_like(branch.kernel)) for branch in (first, second))
    return bool(_sum(*ones)[0].all())


def _sum(first: _Branch, second: _Branch) -> tuple[Array, Array]:
    """Kernel of shape (group, outputs of a group, inputs of a group, ...) and bias, in float64."""
    group, grid = _group(first, second), _taps(first, second)
    inputs, outputs = first.channels
    kernel = np.zeros((group, outputs // group, inputs // group, *map(len, grid)))
    with np.errstate(all="ignore"):
        for branch in (first, second):
            places: tuple[Any, ...] = tuple(
                slice(whole.index(taps[0]), whole.index(taps[-1]) + 1, max(taps.step // whole.step, 1))
                for whole, taps in zip(grid, branch.taps, strict=True)
            )
            part = in_groups(branch.kernel, group)
            kernel[(..., *places)] += part.reshape(*part.shape[:3], *branch.view.kernel)
        return kernel, first.bias + second.bias


MERGE_BRANCHES = Pass(
    "merge-branches",
    "parallel convolutions of one tensor, added up or subtracted, as one where that takes no more work",
    apply_rules(
        MergeBranches,
        MergeIdentityBranch,
        MergeBranchOfIdentity,
        MergeDifference,
        MergeLessIdentity,
        MergeIdentityLess,
    ),
)
