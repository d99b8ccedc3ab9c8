"""A transposed convolution without strides as a convolution.

Pattern: `ConvTranspose(x)` with constant weights, strides of 1 and no padding beyond its kernel.

Algebra: element i of x is spread over the results `i + k d - p` for each place k of a kernel of size K, with
dilation d and padding p. Result o hence gathers `i = o - k d + p`, which with `j = K - 1 - k` is

    i = o + j d - ((K - 1) d - p)

that of a convolution with the kernel reversed in each axis, inputs and outputs of each group exchanged, and
`(K - 1) d - p` as padding on the same side. The weights are the same numbers in another order. (Dumoulin and
Visin, "A guide to convolution arithmetic for deep learning", arXiv:1603.07285, section 4.)

When it pays: ONNX Runtime multiplies a transposed convolution by matrices and then adds the columns up; a
convolution it computes in its blocked layout, together with its activation, if the channels fill its blocks
of 8 or 16. With a Relu behind, on one core with AVX-512, ONNX Runtime 1.31, 3 x 3: 1.3 times as fast from 16
to 16 channels, 1.1 from 64 to 32, 3 from 3 to 64, 3 depthwise, but 0.9 from 16 to 8, 0.7 from 16 to 3, 0.95
from 128 to 16, and in one dimension 0.8 from 64 to 16. So: two or three dimensions, and 16, 32, ... outputs
of each group, no less than a quarter of its inputs, or a group for each channel. Strides would need a
DepthToSpace behind the convolution, which costs more than it saves (2 x 2 and strides of 2: 0.5 to 0.98).
And where the result is more than three times as large as the input (DCGAN's first layer makes 4 x 4 of one
element), most of what the convolution reads is padding, which the native kernels would multiply.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from nncompile.passes.contract import Pass
from nncompile.passes.rewriting import Match, Rule, apply_rules
from nncompile.passes.values import (
    Window,
    constant,
    int_attribute,
    ints_attribute,
    kernel_view,
    known_window,
    static_shape,
    weights,
)

_BLOCK = 16
_MOST_PADDING = 3  # elements of the result, for each of the input


class ConvTransposeToConv(Rule):
    """`ConvTranspose(x)` to `Conv(x)`."""

    def pattern(self, op: Any, x: ir.Value) -> Any:
        return op.ConvTranspose(x, _allow_other_inputs=True, _outputs=["y"])

    def refusal(self, match: Match) -> str | None:
        layer = match.node("y")
        if constant(layer.inputs[1]) is None:
            return "the weights are not constant"
        view = known_window(layer)
        if any(stride != 1 for stride in view.strides):
            return f"the strides are {list(view.strides)}"
        if view.same or ints_attribute(layer, "output_shape") is not None:
            return "the padding follows from the size of the result"
        if any(ints_attribute(layer, "output_padding") or ()):
            return "the result is padded"
        if min(_pads(view)) < 0:
            return "the padding is larger than what the kernel reaches"
        group, outputs, inputs, _ = kernel_view(layer, weights(layer.inputs[1])).shape
        depthwise = group > 1 and outputs == inputs == 1
        fills = outputs % _BLOCK == 0 and 4 * outputs >= inputs
        if len(view.kernel) < 2 or not (fills or depthwise):
            rank = len(view.kernel)
            return f"{inputs} channels to {outputs} in {rank} dimensions are no faster as a convolution"
        sizes = [size for size in (static_shape(layer.inputs[0]) or ())[2:] if size is not None]
        if len(sizes) == len(view.kernel) and _elements(sizes, view) > _MOST_PADDING * math.prod(sizes):
            return "most of what the convolution reads would be padding"
        return None

    def replacement(self, op: Any, match: Match) -> Any:
        layer = match.node("y")
        view = known_window(layer)
        kernel = kernel_view(layer, weights(layer.inputs[1]))
        _, _, inputs, elements = kernel.shape
        # Reversing the elements, taken as one row, reverses each axis.
        turned = np.ascontiguousarray(kernel.reshape(-1, inputs, elements)[..., ::-1])
        return op.Conv(
            match["x"],
            op.initializer(
                ir.tensor(turned.reshape(-1, inputs, *view.kernel)),
                name=f"{layer.inputs[1].name}_turned",  # type: ignore[union-attr]
            ),
            *layer.inputs[2:],
            group=int_attribute(layer, "group", 1),
            dilations=list(view.dilations),
            pads=_pads(view),
        )


def _elements(sizes: Sequence[int], view: Window) -> int:
    """Those of a plane of the result, whose stride is 1."""
    reach = [(size - 1) * step for size, step in zip(view.kernel, view.dilations, strict=True)]
    axes = zip(sizes, reach, view.before, view.after, strict=True)
    return math.prod(size + more - before - after for size, more, before, after in axes)


def _pads(view: Window) -> list[int]:
    """The convolution's padding, in front of all axes and then behind."""
    reach = [(size - 1) * step for size, step in zip(view.kernel, view.dilations, strict=True)]
    return [whole - pad for whole, pad in zip(reach * 2, view.before + view.after, strict=True)]


CONV_TRANSPOSE_TO_CONV = Pass(
    "conv-transpose-to-conv",
    "a transposed convolution without strides as a convolution, where ONNX Runtime computes that faster",
    apply_rules(ConvTransposeToConv),
)
