"""The check after every pass: is it still a graph, and still the same model from outside?"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import onnx_ir as ir


def interface(model: ir.Model) -> tuple[tuple[str | None, ir.DataType | None], ...]:
    """Names and dtypes of the inputs and outputs, which no pass may change."""
    graph = model.graph
    return (
        *((value.name, value.dtype) for value in graph.inputs),
        (None, None),
        *((value.name, value.dtype) for value in graph.outputs),
    )


def faults(model: ir.Model, expected: tuple[tuple[str | None, ir.DataType | None], ...]) -> Iterator[str]:
    """What is wrong with a graph after a pass; nothing where it is well-formed.

    Args:
        model: The graph.
        expected: Its `interface` before the pass.
    """
    if interface(model) != expected:
        yield f"changed the inputs or outputs from {expected} to {interface(model)}"
    yield from _graph_faults(model.graph, frozenset(), model.opset_imports.keys())


def _graph_faults(graph: ir.Graph, outer: frozenset[int], domains: Collection[str]) -> Iterator[str]:
    known = {id(value) for value in (*graph.inputs, *graph.initializers.values())} | outer
    names: set[str] = set()
    for value in graph.initializers.values():
        if value.const_value is None and not value.is_graph_input():
            yield f"left weight {value.name!r} without data"
    for node in graph:
        if (node.domain or "") not in domains:
            yield f"used operator set {node.domain!r} without importing it"
        for read in node.inputs:
            if read is not None and id(read) not in known:
                yield f"left {node.name or node.op_type!r} reading {read.name!r} before it is computed"
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.GRAPH:
                yield from _graph_faults(attribute.as_graph(), frozenset(known), domains)
            elif attribute.type == ir.AttributeType.GRAPHS:
                for subgraph in attribute.as_graphs():
                    yield from _graph_faults(subgraph, frozenset(known), domains)
        for value in node.outputs:
            known.add(id(value))
            if value.name and value.name in names:
                yield f"gave two values the name {value.name!r}"
            names.add(value.name or "")
    for value in graph.outputs:
        if id(value) not in known:
            yield f"left the output {value.name!r} uncomputed"
