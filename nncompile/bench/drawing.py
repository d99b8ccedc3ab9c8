"""A graph as a list of nodes with rails beside it: one for each value, from its producer to its last reader.

It is read from top to bottom, like the history of a repository, and stays readable for hundreds of nodes and
on a phone, where a drawing in two dimensions would not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from nncompile.costs import NodeCost, graph_cost
from nncompile.flops import Shape

_STEP, _WIDEST = 11, 88  # pixels between two rails, and of all
_KINDS = {
    "layer": "Conv FusedConv ConvTranspose Gemm FusedGemm MatMul LSTM GRU RNN Einsum Attention",
    "pool": "MaxPool AveragePool LpPool GlobalAveragePool GlobalMaxPool ReduceMean ReduceMax",
    "norm": "BatchNormalization LayerNormalization InstanceNormalization GroupNormalization",
    "plain": "Cast Concat Constant ConstantOfShape Dropout Expand Flatten Gather Identity Pad Range Reshape "
    "Shape Slice Split Squeeze Tile Transpose Unsqueeze",
}
_KIND = {operator: kind for kind, operators in _KINDS.items() for operator in operators.split()}


@dataclass(frozen=True)
class Line:
    """One line of the list.

    Attributes:
        operator: What the node does; `input` or `output` for those of the graph.
        name: Its name.
        kind: `layer`, `pool`, `norm`, `plain`, `region`, `port` or `other`, for its colour.
        shape: Of its first output: `1x3x8x8`.
        flops: Operations, `1,234`; empty where there are none or they are not known.
        contains: What a fused region holds, in order.
        at: Where its dot is, in pixels from the left.
        paths: Its rails, as data of SVG paths in a box of the drawing's width and a height of 1.
    """

    operator: str
    name: str
    kind: str
    shape: str
    flops: str
    contains: tuple[str, ...]
    at: float
    paths: tuple[str, ...]


@dataclass(frozen=True)
class Drawing:
    """A graph, drawn.

    Attributes:
        lines: Inputs, nodes and outputs, in order.
        width: Of the rails, in pixels.
        nodes: How many nodes.
        operators: How often each operator occurs, the most frequent first.
    """

    lines: tuple[Line, ...]
    width: int
    nodes: int
    operators: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class _Item:
    """What becomes a line: what it reads and writes."""

    reads: Sequence[ir.Value]
    writes: Sequence[ir.Value]
    cost: NodeCost


def draw(model: ir.Model, batch: int = 1, symbol: str | None = None) -> Drawing:
    """Draw the main graph of a model.

    Args:
        model: The model; it stays as it is.
        batch: What the batch counts as, in shapes and operations.
        symbol: Name of the batch.
    """
    costs = graph_cost(model, batch, symbol).nodes
    items = list(_items(model.graph, costs))
    rails = list(_rails(items))
    step = min(_STEP, _WIDEST / max(1, max((len(row.before) for row in rails), default=1)))
    lines = tuple(_line(item, row, step) for item, row in zip(items, rails, strict=True))
    counts = Counter(_short(cost) for cost in costs).most_common()
    width = max((max(len(row.before), len(row.after), row.at + 1) for row in rails), default=1)
    return Drawing(lines, round(_middle(width - 1, step) + 6), len(costs), tuple(counts))


def _items(graph: ir.Graph, costs: Sequence[NodeCost]) -> Iterator[_Item]:
    for value in graph.inputs:
        if not value.is_initializer():
            yield _Item((), (value,), _port("input", value))
    for node, cost in zip(graph, costs, strict=True):
        reads = {id(v): v for v in node.inputs if v is not None and not v.is_initializer()}
        yield _Item(tuple(reads.values()), tuple(node.outputs), cost)
    for value in graph.outputs:
        yield _Item((value,), (), _port("output", value))


def _port(operator: str, value: ir.Value) -> NodeCost:
    return NodeCost(value.name or "", operator, None, None, None, 0)


@dataclass(frozen=True)
class _Row:
    """The rails of a line: which value runs on each above and below it, and on which one the node sits."""

    before: Sequence[ir.Value | None]
    after: Sequence[ir.Value | None]
    at: int


def _rails(items: Sequence[_Item]) -> Iterator[_Row]:
    """A value keeps its rail until its last reader; a new one takes the leftmost that is free."""
    left = Counter(id(value) for item in items for value in item.reads)
    rails: list[ir.Value | None] = []
    for item in items:
        before = tuple(rails)
        read = [rails.index(value) for value in item.reads if value in rails]
        for rail in read:
            value = rails[rail]
            left[id(value)] -= 1
            if not left[id(value)]:
                rails[rail] = None
        at = min((rail for rail in read if rails[rail] is None), default=_free(rails))
        for number, value in enumerate(value for value in item.writes if left[id(value)]):
            rail = at if number == 0 else _free(rails)
            rails.extend([None] * (rail + 1 - len(rails)))
            rails[rail] = value
        while rails and rails[-1] is None:
            rails.pop()
        yield _Row(before, tuple(rails), at)


def _free(rails: Sequence[ir.Value | None]) -> int:
    return next((rail for rail, value in enumerate(rails) if value is None), len(rails))


def _line(item: _Item, row: _Row, step: float) -> Line:
    cost = item.cost
    kind = "port" if cost.operator in ("input", "output") else "region" if cost.contains else None
    return Line(
        operator=_short(cost),
        name=cost.name,
        kind=kind or _KIND.get(_short(cost), "other"),
        shape=_sizes(cost.shape),
        flops=f"{cost.flops:,}" if cost.flops else "",
        contains=cost.contains,
        at=_middle(row.at, step),
        paths=tuple(_paths(item, row, step)),
    )


def _paths(item: _Item, row: _Row, step: float) -> Iterator[str]:
    node = _middle(row.at, step)
    for rail, value in _running(row.before):
        x = _middle(rail, step)
        if rail < len(row.after) and row.after[rail] is value:
            yield f"M{x:g} 0V1"
        if value in item.reads:
            yield f"M{x:g} 0C{x:g} .3 {node:g} .2 {node:g} .5"
    for rail, value in _running(row.after):
        if value in item.writes:
            x = _middle(rail, step)
            yield f"M{node:g} .5C{node:g} .8 {x:g} .7 {x:g} 1"


def _running(rails: Iterable[ir.Value | None]) -> Iterator[tuple[int, ir.Value]]:
    return ((rail, value) for rail, value in enumerate(rails) if value is not None)


def _middle(rail: int, step: float) -> float:
    return round(rail * step + 6, 2)


def _short(cost: NodeCost) -> str:
    return cost.operator.rpartition(".")[2]


def _sizes(shape: Shape | None) -> str:
    return "" if not shape else "x".join("?" if size is None else str(size) for size in shape)
