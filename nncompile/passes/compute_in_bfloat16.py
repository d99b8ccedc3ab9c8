"""Sums of products, and what follows on them, in bfloat16; for `target="cuda"` and `precision="bfloat16"`.

Until here such a graph is float32: a bfloat16 number is a float32 number (nncompile/bfloat16.py). ONNX
Runtime's CUDA provider sums the products of bfloat16 in float32 and rounds each result, as PyTorch does.
Which operators it has is in bfloat16_kernels.py. An operator follows where all that it reads is bfloat16
already or constant; casts stand at the border. The file then needs a GPU.

Convolutions of bfloat16 need operator set 22, for which the provider lacks other kernels. Where the graph
holds one of those that cannot be spelled out otherwise, it stays in its operator set, and convolutions in
float32 (with TF32).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import chain

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common

from nncompile.passes.bfloat16_kernels import (
    FOLLOWERS,
    ON_WIDE,
    PRODUCTS,
    WIDE,
    WIDE_FOLLOWERS,
    WIDE_PRODUCTS,
)
from nncompile.passes.contract import Outcome, Pass
from nncompile.passes.rewriting import new_weight
from nncompile.passes.spelled_out import can_be_spelled_out, spell_out
from nncompile.passes.values import Array, constant, weights
from nncompile.stages import Firing, Refusal

_FIRST_IR_VERSION = 10  # with operator set 22 (onnx/docs/Versioning.md)
_FLOAT, _NARROW = ir.DataType.FLOAT, ir.DataType.BFLOAT16


def _run(model: ir.Model) -> Outcome:
    graph, version = model.graph, model.opset_imports[""]
    layers = [node for node in graph if node.op_type in WIDE_PRODUCTS]
    obstacle = _not_on_wide(model) if layers and version < WIDE else None
    refusals: list[Refusal] = []
    if obstacle is not None:
        reason = f"it needs operator set {WIDE}, for which ONNX Runtime's CUDA provider has no {obstacle}"
        refusals = [_refusal(layer, reason) for layer in layers]
    elif layers:
        version = max(version, WIDE)
    chosen = _chosen(graph, version, refusals)
    if not chosen:
        return Outcome(0, tuple(refusals))
    firings = tuple(Firing("ComputeInBfloat16", node.name or node.op_type) for node in chosen)
    model.opset_imports[""], model.ir_version = version, max(model.ir_version, _FIRST_IR_VERSION)
    left = [node for node in graph if node.op_type == "MaxPool" and node not in chosen]
    for node in left if version >= WIDE else ():
        spell_out(graph, node)
    spelled = [spell_out(graph, node) if can_be_spelled_out(node) else [node] for node in chosen]
    _narrow(graph, [*chain.from_iterable(spelled)])
    common.RemoveUnusedNodesPass()(model)
    common.NameFixPass()(model)
    return Outcome(len(firings), tuple(refusals), firings)


def _not_on_wide(model: ir.Model) -> str | None:
    """An operator that would not run on the GPU in the wider operator set; None where all do."""
    for node in model.graph.all_nodes():
        if node.domain == "" and node.op_type not in ON_WIDE and not can_be_spelled_out(node):
            return node.op_type
        if node.op_identifier() in model.functions:
            return node.op_type
    return None


def _chosen(graph: ir.Graph, version: int, refusals: list[Refusal]) -> list[ir.Node]:
    """The nodes to compute in bfloat16, in order; says which cannot be for their constants."""
    products = PRODUCTS | (WIDE_PRODUCTS if version >= WIDE else frozenset())
    chosen: list[ir.Node] = []
    narrow = {value for node in graph for value in node.outputs if _was_narrow(value) is not None}
    for node in graph:
        reads = [value for value in node.inputs if value is not None and value.dtype == _FLOAT]
        if node.domain or not reads or (len(node.outputs) > 1 and node.op_type != "Split"):
            continue
        given = [value for value in reads if constant(value) is not None]
        if node.op_type not in products and not (
            _can_follow(node, version)
            and all(value in narrow or value in given for value in reads)
            and (len(given) < len(reads) or node.op_type == "Gather")  # of a table by indices
        ):
            continue
        if any(_leaves_the_range(value) for value in given):
            refusals.append(_refusal(node, "a constant is beyond the range of bfloat16"))
            continue
        chosen.append(node)
        narrow.update(value for value in node.outputs if value.dtype == _FLOAT)
    return chosen


def _can_follow(node: ir.Node, version: int) -> bool:
    if version >= WIDE and (node.op_type in WIDE_FOLLOWERS or node.op_type == "MaxPool"):
        return True  # _not_on_wide looked at the pool
    return node.op_type in FOLLOWERS or (node.op_type != "MaxPool" and can_be_spelled_out(node))


def _leaves_the_range(weight: ir.Value) -> bool:
    array = weights(weight)
    return bool((np.isinf(_rounded(array)) & np.isfinite(array)).any())


def _rounded(array: Array) -> Array:
    with np.errstate(over="ignore"):
        return array.astype(_NARROW.numpy())


def _narrow(graph: ir.Graph, nodes: Sequence[ir.Node]) -> None:
    """Let nodes, given in order, read and write bfloat16."""
    inside, narrowed = set(nodes), dict[ir.Value, ir.Value]()
    for node in nodes:
        for i, value in enumerate(node.inputs):
            if value is not None and value.dtype == _FLOAT:
                if value not in narrowed:
                    narrowed[value] = _narrowed(graph, value)
                node.replace_input_with(i, narrowed[value])
        for value in node.outputs:
            if value.dtype == _FLOAT:
                value.type = ir.TensorType(_NARROW)  # not value.dtype: values may share a type
    for node in nodes:
        for value in node.outputs:
            if value.dtype == _NARROW:
                _widen_for_others(graph, value, inside)


def _narrowed(graph: ir.Graph, value: ir.Value) -> ir.Value:
    """A float32 value as one of bfloat16."""
    array, source, producer = constant(value), _was_narrow(value), value.producer()
    if array is not None:
        return new_weight(graph, f"{value.name}_bfloat16", _rounded(array))
    if source is not None:
        return source
    cast = _cast(value, _NARROW)
    if producer is None or producer.graph is not graph:
        graph.insert_before(graph[0], cast)
    else:
        graph.insert_after(producer, cast)
    return cast.outputs[0]


def _was_narrow(value: ir.Value) -> ir.Value | None:
    """The value of bfloat16 that a cast made this of; None where it comes from elsewhere."""
    cast = value.producer()
    if cast is None or cast.op_type != "Cast" or value.dtype != _FLOAT or cast.inputs[0] is None:
        return None
    return cast.inputs[0] if cast.inputs[0].dtype == _NARROW else None


def _widen_for_others(graph: ir.Graph, value: ir.Value, inside: Collection[ir.Node]) -> None:
    """Let the nodes that are not `inside`, and who takes the graph's outputs, read float32 as before."""
    readers = [(user, index) for user, index in value.uses() if user not in inside]
    is_output = value.is_graph_output()
    if not readers and not is_output:
        return
    cast = _cast(value, _FLOAT)
    wide, producer = cast.outputs[0], value.producer()
    assert producer is not None  # noqa: S101 - a node inside
    graph.insert_after(producer, cast)
    for user, index in readers:
        user.replace_input_with(index, wide)
    if is_output:
        graph.outputs[:] = [wide if output is value else output for output in graph.outputs]
        value.name, wide.name = f"{value.name}_bfloat16", value.name


def _cast(value: ir.Value, dtype: ir.DataType) -> ir.Node:
    cast = ir.node("Cast", [value], {"to": dtype}, name=f"{value.name}/Cast")
    cast.outputs[0].dtype, cast.outputs[0].shape = dtype, value.shape
    return cast


def _refusal(node: ir.Node, reason: str) -> Refusal:
    return Refusal("ComputeInBfloat16", node.name or node.op_type, reason)


COMPUTE_IN_BFLOAT16 = Pass(
    "compute-in-bfloat16",
    "sums of products, and what follows on them, in bfloat16 on the GPU",
    _run,
    targets=("cuda",),
    precisions=("bfloat16",),
)
