"""What each node of a graph costs: floating-point operations (`flops.py`), bytes, parameters.

Bytes are those of all distinct inputs, weights included, and outputs; what only looks at a shape reads
nothing, and what picks elements reads as much as it writes. Parameters are the elements of weights that are
neither int64 (shapes, axes, indices) or bool, nor scalars (the bounds of a Clip).

The call of a function, such as a fused region, is one node: it computes what the nodes of the function
compute, and reads and writes what it takes and returns.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from nncompile.flops import Shape, elements, flops, flops_of_call, input_of, product, shape_of, total

_READS_NOTHING = frozenset({"Shape", "Size"})
_PICKS = frozenset({"Gather", "GatherElements", "GatherND", "Slice"})


@dataclass(frozen=True)
class NodeCost:
    """What one node costs; None is what cannot be told.

    Attributes:
        name: The node.
        operator: Its operator, with the domain where that is not ONNX's own.
        shape: Sizes of its first output; None where the rank is not known.
        flops: Floating-point operations.
        bytes: Bytes read and written.
        parameters: Elements of the weights that it reads.
        contains: Operators of the nodes of its function, Constant apart; empty where it is no call.
    """

    name: str
    operator: str
    shape: Shape | None
    flops: int | None
    bytes: int | None
    parameters: int
    contains: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """What it computes, for people: `Gemm`, or `region: Conv 2, MaxPool 2`."""
        if not self.contains:
            return self.operator.removeprefix("com.microsoft.")
        counts = Counter(self.contains).items()
        return f"region: {', '.join(f'{operator} {count}' for operator, count in counts)}"


@dataclass(frozen=True)
class Totals:
    """Sums over the nodes.

    Attributes:
        nodes: How many nodes.
        flops: Floating-point operations of the nodes where they are known.
        bytes: Bytes of the nodes where they are known.
        parameters: Elements of all weights; one that several nodes read counts once.
        unknown: Nodes whose operations or bytes are not known: with any, the sums are lower bounds.
    """

    nodes: int
    flops: int
    bytes: int
    parameters: int
    unknown: int


@dataclass(frozen=True)
class GraphCost:
    """What a graph costs.

    Attributes:
        batch: What the batch counted as.
        nodes: One for each node of the graph, in order; those inside If, Loop and Scan are not counted.
        totals: The sums.
        least_bytes: Weights once, inputs and outputs: what every way of computing the graph reads and writes
            at least. None where a size is not known.
    """

    batch: int
    nodes: tuple[NodeCost, ...]
    totals: Totals
    least_bytes: int | None

    def operators(self) -> dict[str, int]:
        """How often each operator occurs, by name, functions and what they contain included."""
        names = (name for node in self.nodes for name in (node.operator, *node.contains))
        return dict(sorted(Counter(names).items()))


def graph_cost(model: ir.Model, batch: int = 1, symbol: str | None = None) -> GraphCost:
    """Count what a graph costs; the model stays as it is.

    Args:
        model: Its shapes are used where it has them; the others are inferred.
        batch: What the batch counts as.
        symbol: Name of the batch; None takes dimension 0 of the first input that has a name there.
    """
    model = model.clone()
    symbol = symbol or _first_symbol(model.graph.inputs)
    if symbol is not None:
        _fix(model, symbol, batch)
    if any(elements(value) is None for node in model.graph for value in node.outputs if value.name):
        # Not strict: where one operator is not known, the shapes of the others still are.
        ShapeInferencePass(check_type=False, strict_mode=False)(model)
        _settle_biases(model.graph)
    nodes = tuple(_node_cost(node, model.functions.get(node.op_identifier())) for node in model.graph)
    weights = {id(value): value for node in model.graph for value in node.inputs if _is_parameter(value)}
    totals = Totals(
        nodes=len(nodes),
        flops=sum(node.flops or 0 for node in nodes),
        bytes=sum(node.bytes or 0 for node in nodes),
        parameters=sum(elements(value) or 0 for value in weights.values()),
        unknown=sum(node.flops is None or node.bytes is None for node in nodes),
    )
    return GraphCost(batch, nodes, totals, _least_bytes(model.graph))


def _first_symbol(inputs: Iterable[ir.Value]) -> str | None:
    for value in inputs:
        if value.shape and isinstance(value.shape[0], ir.SymbolicDim) and value.shape[0].value:
            return value.shape[0].value
    return None


def _fix(model: ir.Model, symbol: str, size: int) -> None:
    """Give a free dimension a size wherever it occurs, in expressions such as `4*batch` too."""
    graphs = (model.graph, *(function.graph for function in model.functions.values()))
    for value in (value for graph in graphs for value in _values(graph)):
        if value.shape is not None:
            value.shape = ir.Shape([_evaluated(dim, symbol, size) for dim in value.shape])


def _settle_biases(graph: ir.Graph) -> None:
    """The exporter computes a bias of zeros, at whose length ONNX's inference gives up."""
    for node in graph:
        bias, weight = input_of(node, 2), shape_of(input_of(node, 1))
        if node.op_type == "Conv" and bias is not None and elements(bias) is None and weight:
            bias.shape = ir.Shape(weight[:1])


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.inputs
    for node in graph.all_nodes():
        yield from node.outputs


def _evaluated(dim: int | ir.SymbolicDim, symbol: str, size: int) -> int | ir.SymbolicDim:
    if isinstance(dim, int) or not dim.value or symbol not in dim.value:
        return dim
    try:
        found = dim.evaluate({symbol: size})
    except Exception:  # a name that is no expression
        return dim
    return int(found) if isinstance(found, int) else dim


def _node_cost(node: ir.Node, function: ir.Function | None) -> NodeCost:
    output = node.outputs[0] if node.outputs else None
    weights = filter(_is_parameter, _distinct(node.inputs))
    return NodeCost(
        name=node.name or "",
        operator=_operator(node),
        shape=shape_of(output),
        flops=flops(node) if function is None else flops_of_call(node, function),
        bytes=_bytes(node),
        parameters=0 if node.op_type in _READS_NOTHING else sum(elements(v) or 0 for v in weights),
        contains=tuple(_operator(n) for n in function or () if n.op_type != "Constant"),
    )


def _operator(node: ir.Node) -> str:
    return node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"


def _bytes(node: ir.Node) -> int | None:
    written = total(*(_size(value) for value in node.outputs if value.name))
    read = _distinct(node.inputs)
    if node.op_type in _READS_NOTHING:
        return written
    if node.op_type in _PICKS and read:
        return total(written, written, *map(_size, read[1:]))
    return total(written, *map(_size, read))


def _least_bytes(graph: ir.Graph) -> int | None:
    constants = _distinct(
        value for node in graph for value in node.inputs if value and value.is_initializer()
    )
    ports = _distinct((*graph.inputs, *graph.outputs))
    moved = [value for value in ports if not value.is_initializer()]
    return total(*map(_size, moved), *map(_least_read, constants))


def _least_read(weight: ir.Value) -> int | None:
    """All of a weight; of a table whose rows are only picked, no more than is picked."""
    whole, uses = _size(weight), weight.uses()
    if all(use.node.op_type in _PICKS and use.idx == 0 for use in uses):
        picked = total(*(_size(use.node.outputs[0]) for use in uses))
        return None if whole is None or picked is None else min(whole, picked)
    return whole


def _size(value: ir.Value) -> int | None:
    """Bytes of a value."""
    if value.dtype is None or value.dtype is ir.DataType.STRING:
        return None
    bits = product(elements(value), value.dtype.bitwidth)
    return None if bits is None else math.ceil(bits / 8)


def _is_parameter(value: ir.Value | None) -> bool:
    if value is None or not value.is_initializer() or value.dtype is None:
        return False
    return value.dtype not in (ir.DataType.INT64, ir.DataType.BOOL) and shape_of(value) != ()


def _distinct(values: Iterable[ir.Value | None]) -> list[ir.Value]:
    return list({id(value): value for value in values if value is not None}.values())
