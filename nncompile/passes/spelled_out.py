"""MaxPool, Clip and LeakyRelu by operators that ONNX Runtime's CUDA provider has in bfloat16.

- `Clip(x, a, b) = Min(Max(x, a), b)`, and `LeakyRelu(x) = Max(x, slope * x)` for slopes from 0 to 1.
- A MaxPool is a maximum along one axis after another. Along an axis of `n` elements, window `o` reads the
  elements `o * stride - before + k` for `k = 0 ... kernel - 1`. One outside of the axis, which padding or
  ceil_mode lets it reach, counts as -inf; the nearest one inside takes its place, which is of the same
  window, since each holds an element of the axis and has no gaps. So the pool is `Max` of `kernel` Gathers.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import onnx_ir as ir
from onnx_ir.convenience import replace_nodes_and_values

from nncompile.passes.rewriting import new_weight
from nncompile.passes.values import constant, float_attribute, given_input, static_shape, window


def can_be_spelled_out(node: ir.Node) -> bool:
    """Whether `spell_out` takes the node."""
    if node.op_type == "Clip":
        bounds = [given_input(node, i) for i in (1, 2)]
        return any(bounds) and all(bound is None or constant(bound) is not None for bound in bounds)
    if node.op_type == "LeakyRelu":
        return 0 <= float_attribute(node, "alpha", 0.01) <= 1
    return node.op_type == "MaxPool" and len(node.outputs) == 1 and _axes(node) is not None


def spell_out(graph: ir.Graph, node: ir.Node) -> list[ir.Node]:
    """Put others in the place of a float32 node that `can_be_spelled_out`; returns them, in order."""
    made = {"Clip": _clip, "LeakyRelu": _leaky_relu, "MaxPool": _max_pool}[node.op_type](graph, node)
    for new in made:
        new.name, new.outputs[0].type = node.name, ir.TensorType(ir.DataType.FLOAT)
    replace_nodes_and_values(graph, node, [node], made, node.outputs, made[-1].outputs)
    return made


def _clip(_: ir.Graph, node: ir.Node) -> list[ir.Node]:
    low, high = given_input(node, 1), given_input(node, 2)
    made: list[ir.Node] = []
    for operator, bound in (("Max", low), ("Min", high)):
        if bound is not None:
            made.append(ir.node(operator, [made[-1].outputs[0] if made else node.inputs[0], bound]))
    return made


def _leaky_relu(graph: ir.Graph, node: ir.Node) -> list[ir.Node]:
    x, slope = node.inputs[0], float_attribute(node, "alpha", 0.01)
    scale = new_weight(graph, f"{node.outputs[0].name}_slope", np.array(slope, np.float32))
    scaled = ir.node("Mul", [x, scale])
    return [scaled, ir.node("Max", [x, scaled.outputs[0]])]


def _max_pool(graph: ir.Graph, node: ir.Node) -> list[ir.Node]:
    x, made = node.inputs[0], list[ir.Node]()
    for number, axis in enumerate(_axes(node) or (), start=2):
        starts = np.arange(axis.windows) * axis.stride - axis.before
        # A set: near an end, several elements outside have one substitute.
        reads = {tuple(np.clip(starts + k, 0, axis.size - 1)) for k in range(axis.kernel)}
        name = f"{node.outputs[0].name}_axis_{number}"
        indices = [new_weight(graph, name, np.array(read, np.int64)) for read in sorted(reads)]
        parts = [ir.node("Gather", [x, index], {"axis": number}) for index in indices]
        made += parts
        if len(parts) > 1:
            made.append(ir.node("Max", [part.outputs[0] for part in parts]))
        x = made[-1].outputs[0]
    return made


class _Axis(NamedTuple):
    """An axis of a pool: its elements, and `windows` on them, the first from `-before` on."""

    size: int
    windows: int
    kernel: int
    stride: int
    before: int


def _axes(pool: ir.Node) -> list[_Axis] | None:
    """The spatial axes of a pool; None where a size is not known, or a window may hold none or gaps."""
    view, sizes, counts = window(pool), static_shape(pool.inputs[0]), static_shape(pool.outputs[0])
    if view is None or view.same or view.dilated or sizes is None or counts is None:
        return None
    axes: list[_Axis] = []
    shapes = zip(sizes[2:], counts[2:], view.kernel, view.strides, view.before, strict=True)
    for size, windows, kernel, stride, before in shapes:
        if size is None or windows is None or before >= kernel or (windows - 1) * stride - before >= size:
            return None
        axes.append(_Axis(size, windows, kernel, stride, before))
    return axes
