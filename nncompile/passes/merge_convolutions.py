"""Two convolutions, one right behind the other, as one where one of their kernels is 1 x 1.

Pattern: `Conv(Conv(x))` of any rank with constant weights, where

- the second has a kernel of 1 x 1, no padding and any strides; the first is any convolution: or
- the first has a kernel of 1 x 1, no padding and no strides; the second is any convolution whose padding, if
  it has any, leaves it no more results than the first has, and meets no bias: it pads with 0, where x padded
  with 0 would give the bias of the first.

Algebra: with input channels k, channels m between the two, output channels n, and a and b for the positions
of the kernels V of the first (bias c) and W of the second (bias d), of which one is the origin alone,

    y(n) = d(n) + sum over m, b of W(n, m, b) * (c(m) + sum over k, a of V(m, k, a) * x(k, s a + t b))

         = d'(n) + sum over k, a, b of W'(n, k, a + b) * x(k, s a + t b)

    W'(n, k, a + b) = sum over m of W(n, m, b) * V(m, k, a)
    d'(n) = d(n) + sum over m, b of W(n, m, b) * c(m)

with dilations s and t. A second with strides leaves results of the first out, so strides multiply, and
`floor(floor((l - K) / s1) / s2) = floor((l - K) / (s1 s2))` keeps their number. Groups:
a convolution with G groups is one with any divisor of G whose kernel is 0 between its blocks, so the merged
one has the greatest common divisor of both; where neither number divides the other, blocks of it would be 0
(and 0 times infinity is NaN), and the two stay. For each result the two take as many multiplications as they
have weights (or more of the first, where the second has strides): the rule fires where the merged one has
fewer. Computed in float64 and rounded once. (Guo et al., "ExpandNets: Linear Over-parameterization to Train
Compact Convolutional Networks", arXiv:1811.10495, section 3.)
"""

from __future__ import annotations

from math import gcd, prod
from typing import Any

import numpy as np
import onnx_ir as ir

from nncompile.passes.contract import Pass
from nncompile.passes.rewriting import Match, Rule, apply_rules
from nncompile.passes.values import (
    Array,
    Window,
    channel_bias,
    folded,
    given_input,
    in_groups,
    int_attribute,
    kernel_view,
    known_window,
    rounding_fault,
    weight_fault,
    weights,
)


class MergeConvolutions(Rule):
    """`Conv(Conv(x))` to `Conv(x)`."""

    def pattern(self, op: Any, x: ir.Value) -> Any:
        inner = op.Conv(x, _allow_other_inputs=True, _outputs=["inner"])
        return op.Conv(inner, _allow_other_inputs=True, _outputs=["outer"])

    def refusal(self, match: Match) -> str | None:
        inner, outer = match.node("inner"), match.node("outer")
        reason = weight_fault(inner, outer) or _window_fault(inner, outer)
        if reason is not None:
            return reason
        second = weights(outer.inputs[1])
        group, shape = _merged_shape(inner, outer)
        apart, merged = weights(inner.inputs[1]).size + second.size, prod(shape)
        if merged >= apart:
            return f"one convolution would take {merged} multiplications, the two take {apart}"
        groups = [int_attribute(layer, "group", 1) for layer in (inner, outer)]
        if group not in groups:
            return f"one convolution would be 0 between the blocks of {groups[0]} and {groups[1]} groups"
        kernel, bias = _product(inner, outer)
        view = kernel.reshape(group, shape[0] // group, shape[1], -1)
        return rounding_fault(view, bias, in_groups(kernel_view(outer, second), group), second.dtype)

    def replacement(self, op: Any, match: Match) -> Any:
        inner, outer = match.node("inner"), match.node("outer")
        like, name = weights(outer.inputs[1]), outer.inputs[1].name  # type: ignore[union-attr]
        first, second = known_window(inner), known_window(outer)
        wide = second if _is_pointwise(first) else first
        kernel, bias = _product(inner, outer)
        inputs = [match["x"], op.initializer(folded(kernel, like), name=f"{name}_merged")]
        if any(given_input(layer, 2) is not None for layer in (inner, outer)):
            inputs.append(op.initializer(folded(bias, like), name=f"{name}_merged_bias"))
        return op.Conv(
            *inputs,
            group=_merged_shape(inner, outer)[0],
            strides=[one * other for one, other in zip(first.strides, second.strides, strict=True)],
            dilations=list(wide.dilations),
            pads=[*wide.before, *wide.after],
        )


def _window_fault(inner: ir.Node, outer: ir.Node) -> str | None:
    """Why the two do not look at x as one convolution could; None where they do."""
    first, second = known_window(inner), known_window(outer)
    if first.same or second.same:
        return f"auto_pad is {first.auto_pad if first.same else second.auto_pad}"
    if _is_pointwise(second):
        return None
    if not _is_pointwise(first):
        return "neither has an unpadded kernel of 1 x 1"
    if any(stride != 1 for stride in first.strides):
        return f"the first, of kernel 1 x 1, has strides {list(first.strides)}"
    if not second.padded:
        return None
    bias = given_input(inner, 2)
    if bias is not None and weights(bias).any():
        return "the second pads with 0 what the bias of the first would fill"
    axes = zip(second.kernel, second.dilations, second.before, second.after, strict=True)
    if any(before + after > (size - 1) * step for size, step, before, after in axes):
        return "the second has more results than the first"
    return None


def _is_pointwise(view: Window) -> bool:
    return prod(view.kernel) == 1 and not view.padded


def _merged_shape(inner: ir.Node, outer: ir.Node) -> tuple[int, tuple[int, ...]]:
    """Groups of the merged convolution, and the shape of its weight."""
    first, second = weights(inner.inputs[1]).shape, weights(outer.inputs[1]).shape
    groups = int_attribute(inner, "group", 1)
    group = gcd(groups, int_attribute(outer, "group", 1))
    plane = (max(sizes) for sizes in zip(first[2:], second[2:], strict=True))
    return group, (second[0], first[1] * groups // group, *plane)


def _product(inner: ir.Node, outer: ir.Node) -> tuple[Array, Array]:
    """Weight and bias of the merged convolution, in float64."""
    group, shape = _merged_shape(inner, outer)
    first, second = (
        in_groups(kernel_view(layer, weights(layer.inputs[1]).astype(np.float64)), group)
        for layer in (inner, outer)
    )
    between = first.shape[1]
    bias = channel_bias(inner, group * between)
    if bias is None:
        raise ValueError("the bias of a convolution is one value for each channel")
    with np.errstate(all="ignore"):
        # (group, second's positions, outputs, between) @ (group, 1, between, inputs * first's positions)
        product = second.transpose(0, 3, 1, 2) @ first.reshape(group, 1, between, -1)
        kernel = np.moveaxis(product.reshape(*product.shape[:3], *first.shape[2:]), 1, -1).reshape(shape)
        carried = second.sum(3) @ bias.reshape(group, between, 1)
        return kernel, carried.reshape(-1) + channel_bias(outer, shape[0])


MERGE_CONVOLUTIONS = Pass(
    "merge-convolutions",
    "two convolutions, one of them with a kernel of 1 x 1, as one where that takes fewer multiplications",
    apply_rules(MergeConvolutions),
)
