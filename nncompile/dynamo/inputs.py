"""What the inputs of a graph of dynamo's are: weights, numbers, tensors; and which size is the batch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from sympy import Expr, Symbol
from torch.fx import GraphModule, Node

_STATIC = "_dynamo_static_input_type"  # how dynamo marks parameters, buffers and other attributes of modules


@dataclass(frozen=True)
class Inputs:
    """The inputs of a graph by their place among its arguments.

    Attributes:
        nodes: The placeholders.
        weights: Tensors of modules, which become constants.
        numbers: Numbers, and tensors that stand for one: a graph is compiled for each value.
        tensors: The other tensors.
        batched: Those tensors whose first dimension is the batch, where its size is symbolic.
        batches: The numbers that are this size.
    """

    nodes: tuple[Node, ...]
    weights: tuple[int, ...]
    numbers: tuple[int, ...]
    tensors: tuple[int, ...]
    batched: tuple[int, ...] = ()
    batches: tuple[int, ...] = ()


def inputs_of(graph: GraphModule) -> Inputs:
    """Sort the inputs of a graph by what dynamo noted at its placeholders."""
    nodes = tuple(node for node in graph.graph.nodes if node.op == "placeholder")
    weights: list[int] = []
    numbers: list[int] = []
    tensors: list[int] = []
    for place, node in enumerate(nodes):
        kind = tensors
        if not isinstance(node.meta["example_value"], torch.Tensor) or _stands_for_a_number(node):
            kind = numbers
        elif (node.meta.get("tensor_dict") or {}).get(_STATIC):
            kind = weights
        kind.append(place)
    batched, batches = _batch(nodes, numbers, tensors)
    return Inputs(nodes, tuple(weights), tuple(numbers), tuple(tensors), batched, batches)


def _stands_for_a_number(node: Node) -> bool:
    """A float of Python that differs from call to call, say: dynamo makes a tensor of it, and asks that."""
    return any(user.op == "call_method" and user.target == "item" for user in node.users)


def _batch(
    nodes: tuple[Node, ...], numbers: list[int], tensors: list[int]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Tensors and numbers with the symbol in dimension 0 of the first tensor, if it is nowhere else."""
    shapes = {
        place: [_symbolic(size) for size in nodes[place].meta["example_value"].shape] for place in tensors
    }
    first = next((shape for shape in shapes.values() if shape), None)
    if first is None or not isinstance(first[0], Symbol):
        return (), ()
    batch = first[0]
    elsewhere = [size for shape in shapes.values() for size in shape[1:]]
    elsewhere += [shape[0] for shape in shapes.values() if shape and shape[0] != batch]
    if any(batch in size.free_symbols for size in elsewhere if isinstance(size, Expr)):
        return (), ()
    batched = tuple(place for place, shape in shapes.items() if shape and shape[0] == batch)
    return batched, tuple(p for p in numbers if _symbolic(nodes[p].meta["example_value"]) == batch)


def _symbolic(size: object) -> object:
    """The expression of a symbolic size; any other value as it is."""
    return size.node.expr if isinstance(size, torch.SymInt) else size
