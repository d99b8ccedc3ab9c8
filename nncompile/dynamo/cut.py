"""A graph of dynamo's in two: tensors that are computed, and what PyTorch makes of them and of the inputs.

Computed are tensors with memory of their own. An output that lies in the memory of an input, of a weight or
of another output stays a view of it. PyTorch takes that, and sizes, numbers and None among the outputs.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch.fx import Graph, GraphModule, Node

from nncompile.dynamo.observed import Observed, tensors_in
from nncompile_runtime.errors import CaptureError


@dataclass
class Cut:
    """Where a graph is cut.

    Attributes:
        computed: The nodes whose tensors are to be computed.
        rest: The other nodes that the outputs need, inputs and weights excepted.
        needed: All nodes that computing takes.
    """

    computed: list[Node] = field(default_factory=list)
    rest: set[Node] = field(default_factory=set)
    needed: set[Node] = field(default_factory=set)


def cut(graph: GraphModule, observed: Observed) -> Cut:
    """Find what has to be computed, by where the values of one run lie.

    Raises:
        CaptureError: A compiled graph could not do what this one does; or an output shares its memory with
            another in a way that views do not give.
    """
    found = Cut()
    memory = {n: _storages(observed.values[n]) for n in graph.graph.nodes if n.op != "output"}
    origin: dict[int, Node] = {}  # the first tensor in each memory
    for node, storages in memory.items():
        if isinstance(observed.values[node], torch.Tensor):
            for storage in storages:
                origin.setdefault(storage, node)

    def compute(node: Node) -> None:
        if node not in found.computed:
            found.computed.append(node)

    def need(node: Node) -> None:
        if node in found.rest or node.op in ("placeholder", "get_attr"):
            return
        if node in [origin.get(storage) for storage in memory[node]]:
            compute(node)
            return
        before = set().union(*(memory[source] for source in node.all_input_nodes))
        if node in observed.writing or memory[node] - before:
            observed.check(found.computed)
            raise CaptureError(
                f"Outputs of the graph share memory, which {node.name!r} writes.",
                remedy="Return copies of them: y.clone().",
            )
        found.rest.add(node)
        for source in node.all_input_nodes:
            need(source)

    outputs = next(node for node in graph.graph.nodes if node.op == "output").all_input_nodes
    given = set().union(*(memory[node] for node in memory if node.op in ("placeholder", "get_attr")))
    for node in outputs:
        others = given.union(*(memory[other] for other in outputs if other is not node))
        if isinstance(observed.values[node], torch.Tensor) and not memory[node] & others:
            compute(node)
        else:
            need(node)
    observed.check(found.computed)
    ahead = [*found.computed, *(observed.writing if found.computed else ())]
    while ahead:
        node = ahead.pop()
        if node not in found.needed:
            found.needed.add(node)
            ahead += node.all_input_nodes
    return found


def without_computing(graph: GraphModule, found: Cut) -> GraphModule | None:
    """The rest of a graph, called with all inputs and then what was computed; None where it adds nothing."""
    output = next(node for node in graph.graph.nodes if node.op == "output")
    if output.args == (tuple(found.computed),):
        return None
    rest, copies = Graph(), dict[Node, Node]()
    for node in graph.graph.nodes:
        if node.op == "placeholder":
            copies[node] = rest.placeholder(node.name)
    for node in found.computed:
        copies[node] = rest.placeholder(node.name)
    for node in graph.graph.nodes:
        if node in found.rest or node.op in ("get_attr", "output"):
            copies[node] = rest.node_copy(node, copies.__getitem__)
    return GraphModule(graph, rest)


def _storages(value: object) -> set[int]:
    return {x.untyped_storage()._cdata for x in tensors_in(value) if x.layout is torch.strided}
