"""Which elements of a plane the kernels read for each of the result: windows, and planes of another size.

The window of a convolution or pool is resolved to numbers here (`auto_pad`, `ceil_mode`), by ONNX's formulas
for Conv, ConvTranspose and MaxPool. A Resize is one of the kernels' three (`Resizing`) where ONNX's formula,
computed in float32 as ONNX Runtime does, says the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from nncompile.passes.region_program import Opcode, Resizing, Sample, Step, size_fault
from nncompile.passes.values import (
    Array,
    Window,
    constant,
    given_input,
    int_attribute,
    ints_attribute,
    string_attribute,
    window,
)

_INTERPOLATIONS = {
    "half_pixel": Resizing.HALF_PIXELS,
    "pytorch_half_pixel": Resizing.HALF_PIXELS,
    "align_corners": Resizing.CORNERS,
}
# What is picked at a position: ONNX's `nearest_mode`.
_ROUNDINGS: Mapping[str, Callable[[Array], Array]] = {
    "round_prefer_floor": lambda at: np.ceil(at - np.float32(0.5)),
    "round_prefer_ceil": lambda at: np.floor(at + np.float32(0.5)),
    "floor": np.floor,
    "ceil": np.ceil,
}
_ROUNDING = 2.0**-23  # of a scale


@dataclass(frozen=True)
class Placed:
    """Where the windows of a convolution or pool lie.

    Attributes:
        view: As the node says.
        pads: Top, left, bottom, right, in elements.
        plane: Height and width of what results.
        ceil: Whether rounding up made that larger.
    """

    view: Window
    pads: tuple[int, int, int, int]
    plane: tuple[int, int]
    ceil: bool


def place(node: ir.Node, x: Sample) -> Placed | str:
    """The windows of a convolution or pool of `x` as numbers, or why the kernels have no such."""
    view = _view(node, x)
    if isinstance(view, str):
        return view
    if view.same and (view.ceil or view.dilated):  # ONNX Runtime does not run the latter
        return f"it {'rounds up' if view.ceil else 'is dilated'} with automatic padding"
    (top, bottom, height, taller), (left, right, width, wider) = (
        _axis(view, i, x.shape[1 + i]) for i in (0, 1)
    )
    if min(top, bottom, left, right) < 0:
        return "it pads by a negative number"
    if min(height, width) < 1:
        return "its kernel is larger than the plane"
    return Placed(view, (top, left, bottom, right), (height, width), taller or wider)


def _axis(view: Window, axis: int, size: int) -> tuple[int, int, int, bool]:
    """Padding before, padding after, number of windows, and whether rounding up made one more."""
    kernel, stride = (view.kernel[axis] - 1) * view.dilations[axis] + 1, view.strides[axis]
    before, after = (0, 0) if view.same else (view.before[axis], view.after[axis])
    if view.same:
        total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
        less, more = total // 2, total - total // 2
        before, after = (more, less) if view.auto_pad == "SAME_LOWER" else (less, more)
    span = size + before + after - kernel
    if span < 0:
        return before, after, 0, False
    windows = span // stride + 1
    # A window that begins beyond the input is left out (onnx/onnx pull request 5741).
    one_more = view.ceil and span % stride > 0 and windows * stride < size + before
    return before, after, windows + one_more, one_more


def spread(node: ir.Node, x: Sample) -> Placed | str:
    """Where a transposed convolution of `x` puts its kernel, or why the kernels have no such."""
    view = _view(node, x)
    if isinstance(view, str):
        return view
    if view.same or ints_attribute(node, "output_shape") is not None:
        return "its padding follows from the size of the result"
    (top, left), (bottom, right) = view.before, view.after
    if min(top, left, bottom, right) < 0:
        return "it pads by a negative number"
    more = ints_attribute(node, "output_padding") or (0, 0)
    height, width = (
        (x.shape[1 + i] - 1) * view.strides[i]
        + (view.kernel[i] - 1) * view.dilations[i]
        + (1 + more[i] - view.before[i] - view.after[i])
        for i in (0, 1)
    )
    if min(height, width) < 1:
        return f"it pads by more than it makes: a plane of {height} x {width}"
    return Placed(view, (top, left, bottom, right), (height, width), False)


def _view(node: ir.Node, x: Sample) -> Window | str:
    """The window of a node on planes, or why it has none."""
    if x.rank != 4:
        return f"its input's rank is {x.rank}"
    view = window(node)
    if view is None or len(view.kernel) != 2:
        return "the size of its kernel is not known"
    return view


def resize(node: ir.Node, x: Sample) -> Step | str:
    """Resize of planes by constant scales."""
    scales = constant(given_input(node, 2))
    if x.rank != 4 or scales is None or scales.shape != (4,) or "axes" in node.attributes:
        return "it does not resize planes by a scale for each axis"
    counts = np.floor(np.array(x.shape, np.float32) * scales[1:])
    if scales[0] != 1 or scales[1] != 1 or not all(1 <= count < 2**31 for count in counts):
        return f"its scales are {scales.tolist()}"
    height, width = map(int, counts[1:])
    result = replace(x, shape=(x.shape[0], height, width))
    found = size_fault(result) or _resizing(node, x.shape[1:], result.shape[1:], scales[2:])
    if isinstance(found, str):
        return found
    return Step(Opcode.RESIZE, result, numbers=(height, width, found))


def _resizing(node: ir.Node, sizes: Sequence[int], plane: Sequence[int], scales: Array) -> Resizing | str:
    mode = string_attribute(node, "mode", "nearest")
    coordinates = string_attribute(node, "coordinate_transformation_mode", "half_pixel")
    if int_attribute(node, "antialias", 0):
        return "it filters what it makes smaller"
    axes = list(zip(sizes, plane, scales, strict=True))
    if mode == "nearest":
        rounding = string_attribute(node, "nearest_mode", "round_prefer_floor")
        if all(_is_nearest(*axis, coordinates, rounding) for axis in axes):
            return Resizing.NEAREST
        return f"it takes other elements than the kernels: {coordinates} and {rounding}"
    if mode != "linear" or coordinates not in _INTERPOLATIONS:
        return f"it interpolates by {mode} with coordinates by {coordinates}"
    if any(abs(size * float(scale) - count) > count * _ROUNDING for size, count, scale in axes):
        return f"its scales cut a part of an element off a plane of {list(plane)}"
    if coordinates == "pytorch_half_pixel" and 1 in plane:
        return "it takes the first element where the kernels take the middle"
    return _INTERPOLATIONS[coordinates]


def _is_nearest(size: int, count: int, scale: np.float32, coordinates: str, rounding: str) -> bool:
    """Whether element i of `count` is element floor(i size / count), as ONNX Runtime computes it."""
    numbers, half = np.arange(count, dtype=np.float32), np.float32(0.5)
    if coordinates == "asymmetric":
        at = numbers / scale
    elif coordinates == "half_pixel" or (coordinates == "pytorch_half_pixel" and count > 1):
        at = (numbers + half) / scale - half
    else:
        return False
    picked = np.clip(_ROUNDINGS[rounding](at), 0, size - 1)
    return bool((picked == np.arange(count) * size // count).all())
