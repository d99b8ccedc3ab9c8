"""What is compiled of a graph of dynamo's: a module of the tensors that differ from call to call."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from operator import attrgetter
from typing import Any

import torch
from torch import fx
from torch.fx import GraphModule, Node
from torch.fx.node import map_aggregate

from nncompile.dynamo.cut import Cut

_MODES = {"_set_grad_enabled", "_enter_inference_mode", "_exit_inference_mode"}  # they compute nothing


class Graph(torch.nn.Module):
    """A graph as a module like any other: torch.export passes over the hooks of a `GraphModule`."""

    def __init__(self, part: GraphModule) -> None:
        """Wrap `part`."""
        super().__init__()
        self.part = part

    def forward(self, *inputs: torch.Tensor) -> Any:
        """Call the graph."""
        return self.part(*inputs)


def computing(
    graph: GraphModule,
    found: Cut,
    inputs: Sequence[Node],
    constants: Mapping[Node, Any],
    sizes: Collection[Node],
) -> torch.nn.Module:
    """A function of some inputs of a graph, for the CPU.

    Args:
        graph: What dynamo traced.
        found: Where it is cut.
        inputs: The placeholders that stay inputs, in this order.
        constants: Placeholders that become constants: weights, and numbers.
        sizes: Placeholders that are the size of the first input's first dimension.
    """
    part, values = fx.Graph(), dict[Node, Any]()
    attributes: dict[str, Any] = {}

    def attribute(name: str, value: Any) -> Node:
        inference = isinstance(value, torch.Tensor) and value.is_inference()  # torch.export takes none
        attributes[name] = value.clone() if inference else value
        return part.get_attr(name)

    values.update({node: part.placeholder(node.name) for node in inputs})
    for node in graph.graph.nodes:
        if node not in found.needed or node in values:
            continue
        if node in sizes:
            values[node] = part.call_method("size", (values[inputs[0]], 0))
        elif node in constants:
            value = constants[node]
            values[node] = attribute(node.name, value) if isinstance(value, torch.Tensor) else value
        elif node.op == "get_attr":
            values[node] = attribute(node.target, attrgetter(node.target)(graph))
        elif node.op == "call_method" and node.target == "item" and node.args[0] in constants:
            values[node] = constants[node.args[0]].item()
        elif getattr(node.target, "__name__", "") not in _MODES:
            values[node] = _copied(node, part, values)
    part.output(tuple(values[node] for node in found.computed))
    return Graph(GraphModule(attributes, part))


def _copied(node: Node, part: fx.Graph, values: Mapping[Node, Any]) -> Node:
    """The same node in another graph, on the CPU."""

    def moved(value: Any) -> Any:
        if isinstance(value, Node):
            return values[value]
        on_gpu = isinstance(value, (str, torch.device)) and str(value).startswith("cuda")
        return torch.device("cpu") if on_gpu else value

    target, args, kwargs = node.target, map_aggregate(node.args, moved), map_aggregate(node.kwargs, moved)
    if node.op == "call_method" and target == "cuda":
        target, args, kwargs = "cpu", args[:1], {}
    copy = part.create_node(node.op, target, args, kwargs, node.name)
    copy.meta = {key: value for key, value in node.meta.items() if key == "stack_trace"}
    return copy
