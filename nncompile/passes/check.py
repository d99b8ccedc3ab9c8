"""The check after every pass: is it still a graph, and still the same model from outside?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import onnx
import onnx_ir as ir

from nncompile.passes.values import subgraphs


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
    yield from _graph_faults(model, model.graph, model.opset_imports, frozenset(), frozenset())
    for function in model.functions.values():
        yield from _graph_faults(model, function.graph, function.opset_imports, frozenset(), frozenset())


def _graph_faults(
    model: ir.Model,
    graph: ir.Graph,
    opsets: Mapping[str, int],
    outer: frozenset[int],
    outer_names: frozenset[str],
) -> Iterator[str]:
    weights = [value for value in graph.initializers.values() if not value.is_graph_input()]
    names = set(outer_names)
    for value in (*graph.inputs, *weights):
        yield from _name_fault(value, names)
    for value in weights:
        if value.const_value is None:
            yield f"left weight {value.name!r} without data"
    known = {id(value) for value in (*graph.inputs, *weights)} | outer
    own = {id(value) for value in (*graph.inputs, *weights)}
    for node in graph:
        yield from _operator_faults(model, opsets, node)
        for read in node.inputs:
            if read is not None and id(read) not in known:
                yield f"left {node.name or node.op_type!r} reading {read.name!r} before it is computed"
        for subgraph in subgraphs(node):
            yield from _graph_faults(model, subgraph, opsets, frozenset(known), frozenset(names))
        for value in node.outputs:
            yield from _name_fault(value, names)
            known.add(id(value))
            own.add(id(value))
    for value in graph.outputs:
        if id(value) not in own:
            yield f"left the output {value.name!r} uncomputed"


def _name_fault(value: ir.Value, names: set[str]) -> Iterator[str]:
    if value.name and value.name in names:
        yield f"gave two values the name {value.name!r}"
    names.add(value.name or "")


def _operator_faults(model: ir.Model, opsets: Mapping[str, int], node: ir.Node) -> Iterator[str]:
    """What no operator set offers, or a function that does not take or return what its caller thinks."""
    version, function = opsets.get(node.domain), model.functions.get(node.op_identifier())
    if version is None:
        yield f"used operator set {node.domain!r} without importing it"
    elif function is not None:
        if len(node.inputs) > len(function.inputs) or len(node.outputs) > len(function.outputs):
            yield f"gave {node.name or node.op_type!r} more inputs or outputs than its function has"
    elif node.domain == "":
        try:
            schema = onnx.defs.get_schema(node.op_type, version, "")
        except onnx.defs.SchemaError:
            yield f"used the operator {node.op_type!r}, which opset {version} does not have"
            return
        for name in node.attributes.keys() - schema.attributes.keys():
            yield f"gave {node.op_type} the attribute {name!r}, which it does not have"
    elif node.overload:
        yield f"called the function {node.op_type!r} ({node.overload}), which is not there"
