"""Split as a Slice for each part that is used.

Pattern: `Split(x)` into parts of known sizes.

Algebra: part i of a Split along an axis, of parts of sizes s_0, s_1, ..., holds the elements from s_0 + ... +
s_(i-1) on, s_i of them; `Slice` with steps of 1 picks the same. (ONNX operators Split and Slice.)

PyTorch's exporter writes a whole Split for each part that `x.split(n)` is asked for, and ONNX Runtime copies
all parts of each; of a Slice it copies one. The native kernels know parts as selected channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from nncompile.passes.contract import Outcome, Pass
from nncompile.passes.rewriting import new_weight
from nncompile.passes.values import constant, given_input, int_attribute, static_shape
from nncompile.stages import Firing, Refusal

_RULE = "SplitToSlices"


def _run(model: ir.Model) -> Outcome:
    firings, refusals = [], []
    for graph in (model.graph, *model.graph.subgraphs()):
        for node in tuple(graph):
            if node.op_type != "Split" or node.domain not in ("", "ai.onnx"):
                continue
            found = _sizes(node)
            if isinstance(found, str):
                refusals.append(Refusal(_RULE, node.name or "Split", found))
            else:
                _replace(graph, node, found)
                firings.append(Firing(_RULE, node.name or "Split"))
    return Outcome(len(firings), tuple(refusals), tuple(firings))


def _sizes(split: ir.Node) -> Sequence[int] | str:
    """The sizes of the parts, or why they are not known."""
    sizes = given_input(split, 1)
    if sizes is not None:
        array = constant(sizes)
        return "the sizes of its parts are not constant" if array is None else [int(size) for size in array]
    shape, axis = static_shape(split.inputs[0]), int_attribute(split, "axis", 0)
    whole = shape[axis] if shape else None
    if whole is None:
        return "the size that it splits is not known"
    # "If the tensor is not evenly splittable into num_outputs, the last chunk will be smaller" (ONNX, Split).
    parts = len(split.outputs)
    size = -(-whole // parts)
    return [max(0, min(size, whole - size * i)) for i in range(parts)]


def _replace(graph: ir.Graph, split: ir.Node, sizes: Sequence[int]) -> None:
    axis, end = int_attribute(split, "axis", 0), 0
    for part, size in zip(split.outputs, sizes, strict=True):
        start, end = end, end + size
        if not part.uses() and not part.is_graph_output():
            continue
        numbers = {"start": start, "end": end, "axis": axis}
        given = [
            new_weight(graph, f"{part.name}_{name}", np.array([number])) for name, number in numbers.items()
        ]
        new = ir.Value(name=part.name, type=part.type, shape=part.shape)
        inputs = [split.inputs[0], *given]
        graph.insert_before(split, ir.Node("", "Slice", inputs, outputs=[new], name=f"{part.name}/Slice"))
        ir.convenience.replace_all_uses_with(part, new, replace_graph_outputs=True)
    graph.remove(split, safe=True)


SPLIT_TO_SLICES = Pass("split-to-slices", "Split as a Slice for each part that is used", _run)
