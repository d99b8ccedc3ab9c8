"""Networks that end a few layers later each, to tell which layers take the time of a call.

A fused region is one node, whose layers nobody outside can time. So the graph is cut where a single value
goes from what is before to what is behind, and all that is before becomes a network of its own, with regions
as the whole has them. What it takes longer than the next shorter one is the time of the layers between the
two cuts. Besides them it writes out the value at the cut, which the whole does not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import onnx_ir as ir
from onnx_ir.passes import common

from nncompile.passes import PIPELINE
from nncompile_runtime import container
from nncompile_runtime.plan import Plan
from nncompile_runtime.session import Session

_LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_VIEWS = ("Reshape", "Flatten")  # part of the layer behind, for which they arrange
_MOST = 6  # the difference of two times says little about a short one, and each takes a session
_OUTLINE = next(step for step in PIPELINE if step.name == "outline-fused-regions")


@dataclass(frozen=True)
class Span:
    """Nodes between two cuts.

    Attributes:
        name: Their layers, as the module names them: `conv1`, `layer1.0.conv1 to layer2.0.conv2`.
        nodes: Their places in the graph.
        weights: Bytes of their weights.
        until: A session of the network until there; None behind the last layer.
    """

    name: str
    nodes: range
    weights: int
    until: Session | None


def spans(model: ir.Model, flops: Sequence[int], plan: Plan) -> tuple[Span, ...]:
    """A graph in up to 6 parts of about as many operations.

    Args:
        model: The graph, without functions and with shapes (`least_work.plain_graph`).
        flops: Operations of each node.
        plan: How the sessions run.

    Raises:
        ModelLoadError: ONNX Runtime refuses a part of the graph.
    """
    nodes = tuple(model.graph)
    ends = _chosen(list(_cuts(nodes)), flops)
    starts = [0, *(end + 1 for end in ends)]
    found = []
    for start, end in zip(starts, [*ends, len(nodes) - 1], strict=True):
        inside = range(start, end + 1)
        until = Session(_prefix(model, end), plan) if end in ends else None
        found.append(Span(_name(nodes[start : end + 1]), inside, _weights(nodes[start : end + 1]), until))
    return tuple(found)


def _cuts(nodes: Sequence[ir.Node]) -> Iterator[int]:
    """The nodes in front of a layer whose output is all that later nodes read of this and earlier ones."""
    last_use = {value: number for number, node in enumerate(nodes) for value in node.inputs if value}
    live: set[ir.Value] = set()
    for number, node in enumerate(nodes):
        live |= set(node.outputs)
        live = {value for value in live if last_use.get(value, -1) > number or value.is_graph_output()}
        cut = node.outputs[0]
        behind = next((later.op_type for later in nodes[number + 1 :] if later.op_type not in _VIEWS), "")
        known = cut.shape is not None and cut.dtype is not None
        if known and live == {cut} and behind in _LAYERS and node.op_type not in _VIEWS:
            yield number


def _chosen(cuts: list[int], flops: Sequence[int]) -> list[int]:
    """The cuts that are nearest to equal shares of the operations, where there are too many."""
    if len(cuts) < _MOST:
        return cuts
    before = {cut: sum(flops[: cut + 1]) for cut in cuts}
    shares = (sum(flops) * number / _MOST for number in range(1, _MOST))
    return sorted({min(cuts, key=lambda cut: abs(before[cut] - share)) for share in shares})


def _prefix(model: ir.Model, end: int) -> container.ModelFile:
    cut = model.clone()
    cut.graph.outputs[:] = list(cut.graph)[end].outputs[:1]
    common.RemoveUnusedNodesPass()(cut)
    _OUTLINE.run(cut)
    return container.parse(ir.to_proto(cut).SerializeToString(), f"the network until node {end}")


def _name(nodes: Sequence[ir.Node]) -> str:
    layers = [(node.name or node.op_type).partition("/")[0] for node in nodes if node.op_type in _LAYERS]
    ends = dict.fromkeys((layers or [nodes[0].op_type])[:1] + layers[-1:])
    return " to ".join(ends)


def _weights(nodes: Sequence[ir.Node]) -> int:
    read = {value for node in nodes for value in node.inputs if value and value.const_value is not None}
    return sum(value.const_value.nbytes for value in read if value.const_value is not None)
