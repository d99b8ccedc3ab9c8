"""One-dimensional convolutions, and what stands between them, as two-dimensional ones of height 1.

Pattern: a region of the graph that is connected by tensors (n, c, length), made of Conv, pools, batch norm,
activations, and sums, products and concatenations of such tensors.

Algebra: with x' = Unsqueeze(x, 2) of shape (n, c, 1, length), and a kernel of 1 x k, stride 1 x s, padding
0 x p and dilation 1 x d,

    Conv1d(x) = Squeeze(Conv2d(x'), 2)

because the window is one row high and there is one row; likewise for pools. Elementwise operators and those
along the channels do not look at the shape behind it. Inside the region Unsqueeze and Squeeze cancel, so each
tensor that enters it is unsqueezed once and each that leaves it squeezed; neither copies anything.

When it pays: ONNX Runtime has its blocked layout, with depthwise convolutions and pools of its own, for two
dimensions only; one-dimensional convolutions it multiplies as matrices. Channels that do not fill the blocks
(of 16 with AVX-512) lose, and so does a single kernel of 1. With ONNX Runtime 1.31 on one core with AVX-512,
two convolutions of 16, 32, 48 or 64 channels and kernels of 3 are 1.1 to 1.5 times as fast, with pools behind
them 1.3 to 2, depthwise ones 1.2 to 4; of 24 or 40 channels 0.8, with kernels of 1 alone 0.9. So: every
convolution of a region fills blocks of 16 outputs, and one of them at least has a kernel larger than 1 and
fills blocks of 16 inputs.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common

from nncompile.passes.contract import Outcome, Pass
from nncompile.passes.rewriting import new_weight
from nncompile.passes.values import (
    constant,
    given_input,
    int_attribute,
    ints_attribute,
    static_shape,
    weights,
)
from nncompile.stages import Firing, Refusal

_BLOCK = 16
_RULE = "Conv1dToConv2d"
_FIRST_OPSET = 13  # Unsqueeze and Squeeze with axes as an input
# Operators of one tensor (n, c, length), which is their first input.
_UNARY = frozenset(
    {
        *("AveragePool", "BatchNormalization", "Celu", "Clip", "Elu", "Erf", "Gelu", "GlobalAveragePool"),
        *("GlobalMaxPool", "HardSigmoid", "HardSwish", "LeakyRelu", "MaxPool", "Mish", "Relu", "Selu"),
        *("Sigmoid", "Softplus", "Softsign", "Swish", "Tanh", "ThresholdedRelu"),
    }
)
_ARITHMETIC = frozenset({"Add", "Div", "Mul", "Sub"})
# What the height gets in front of what the length has.
_HEIGHT = {"kernel_shape": 1, "strides": 1, "dilations": 1, "pads": 0}


def _run(model: ir.Model) -> Outcome:
    if model.opset_imports.get("", 0) < _FIRST_OPSET:
        return Outcome(0)
    firings: list[Firing] = []
    refusals: list[Refusal] = []
    for graph in (model.graph, *model.graph.subgraphs()):
        refusals += (_refusal(node, reason) for node in graph if (reason := _fault(node)) is not None)
        for region in _regions(graph):
            convolutions = [node for node in region if node.op_type == "Conv"]
            if any(_pays(node) for node in convolutions):
                _lift(graph, region)
                firings += (Firing(_RULE, node.name or "Conv") for node in convolutions)
            else:
                reason = f"no kernel larger than 1 around it has a multiple of {_BLOCK} channels"
                refusals += (_refusal(node, reason) for node in convolutions)
    if firings:
        common.NameFixPass()(model)
    return Outcome(len(firings), tuple(refusals), tuple(firings))


def _refusal(node: ir.Node, reason: str) -> Refusal:
    return Refusal(_RULE, node.name or "Conv", reason)


def _is_conv1d(node: ir.Node) -> bool:
    weight = constant(given_input(node, 1)) if node.op_type == "Conv" and node.domain == "" else None
    return weight is not None and weight.ndim == 3


def _fault(node: ir.Node) -> str | None:
    """Why a one-dimensional convolution has no blocked layout; None where it has, and for other nodes."""
    if not _is_conv1d(node):
        return None
    weight, group = weights(node.inputs[1]), int_attribute(node, "group", 1)
    outputs, inputs = weight.shape[0] // group, weight.shape[1]
    if weight.dtype != np.float32:
        return f"the weights are of dtype {weight.dtype}"
    if inputs == outputs == 1:
        return None if group % _BLOCK == 0 else f"{group} channels are no multiple of {_BLOCK}"
    if outputs % _BLOCK or (group > 1 and inputs % _BLOCK):
        return f"{inputs} inputs and {outputs} outputs of a group do not fill blocks of {_BLOCK}"
    return None


def _pays(node: ir.Node) -> bool:
    _, inputs, kernel = weights(node.inputs[1]).shape
    return bool(kernel > 1 and inputs * int_attribute(node, "group", 1) % _BLOCK == 0)


def _rows(node: ir.Node) -> tuple[int, ...]:
    """Which inputs are tensors of the region; none where the node cannot be part of one."""
    if node.domain != "" or len(node.outputs) > 1:  # the places of maxima, statistics
        return ()
    places: tuple[int, ...] = ()
    if node.op_type in _UNARY or (_is_conv1d(node) and _fault(node) is None):
        places = (0,)
    elif node.op_type == "Concat" and int_attribute(node, "axis", 0) == 1:
        places = tuple(range(len(node.inputs)))
    elif node.op_type in _ARITHMETIC:
        places = tuple(i for i, value in enumerate(node.inputs) if not _is_number(value))
    return places if all(_is_row(node.inputs[i]) for i in places) else ()


def _is_number(value: ir.Value | None) -> bool:
    array = constant(value)
    return array is not None and bool(array.shape in ((), (1,)))


def _is_row(value: ir.Value | None) -> bool:
    """Whether a value is no weight, and of shape (n, c, length)."""
    return value is not None and value.const_value is None and len(static_shape(value) or ()) == 3


def _regions(graph: ir.Graph) -> Iterator[dict[ir.Node, tuple[int, ...]]]:
    """Nodes that are connected by tensors, in the graph's order, with the inputs that connect them."""
    nodes = {node: places for node in graph if (places := _rows(node))}
    left = set(nodes)
    for first in nodes:
        region: set[ir.Node] = set()
        found = [first] if first in left else []
        while found:
            node = found.pop()
            region.add(node)
            left.discard(node)
            before = (value.producer() for i in nodes[node] if (value := node.inputs[i]) is not None)
            behind = (user for user, i in node.outputs[0].uses() if i in nodes.get(user, ()))
            found += (near for near in (*before, *behind) if near in left)
        if region:
            yield {node: places for node, places in nodes.items() if node in region}


def _lift(graph: ir.Graph, region: dict[ir.Node, tuple[int, ...]]) -> None:
    """Add the height to the tensors, weights and attributes of a region."""
    axes = new_weight(graph, "height_axis", np.array([2]))
    inside = {node.outputs[0] for node in region}
    lifted: dict[ir.Value | None, ir.Value] = {}
    for node, places in region.items():
        for i in places:
            value = node.inputs[i]
            if value is not None and value not in inside:
                if value not in lifted:
                    lifted[value] = _reshaped(node, "Unsqueeze", value, axes)
                    lifted[value].shape = _with_height(value)
                    graph.insert_before(node, _producer(lifted[value]))
                node.replace_input_with(i, lifted[value])
        if node.op_type == "Conv":
            kernel = node.inputs[1]
            if kernel not in lifted:
                lifted[kernel] = new_weight(graph, f"{kernel.name}_2d", weights(kernel)[:, :, None])  # type: ignore[union-attr]
            node.replace_input_with(1, lifted[kernel])
        for name, size in _HEIGHT.items():
            given = ints_attribute(node, name)
            if given is not None:
                sizes = (size, given[0], size, given[1]) if name == "pads" else (size, *given)
                node.attributes[name] = ir.AttrInt64s(name, sizes)
    for node in region:
        _leave(graph, node, region, axes)


def _leave(graph: ir.Graph, node: ir.Node, region: dict[ir.Node, tuple[int, ...]], axes: ir.Value) -> None:
    """Give a node's result its height; all that is not of the region reads it without."""
    value = node.outputs[0]
    others = [(user, i) for user, i in value.uses() if i not in region.get(user, ())]
    places = [i for i, output in enumerate(graph.outputs) if output is value]
    shape, value.shape = value.shape, _with_height(value)
    if not others and not places:
        return
    row = _reshaped(node, "Squeeze", value, axes)
    row.shape = shape
    graph.insert_after(node, _producer(row))
    for user, i in others:
        user.replace_input_with(i, row)
    for i in places:
        graph.outputs[i] = row
    if places:
        row.name, value.name = value.name, f"{value.name}_2d"


def _reshaped(near: ir.Node, operator: str, value: ir.Value, axes: ir.Value) -> ir.Value:
    """The result of a new node, named after one that stands near it."""
    node = ir.node(operator, [value, axes], name=f"{(near.name or '').rpartition('/')[0]}/{operator}")
    node.outputs[0].type = value.type
    return node.outputs[0]


def _producer(value: ir.Value) -> ir.Node:
    node = value.producer()
    if node is None:
        raise ValueError(f"no node computes {value}")
    return node


def _with_height(value: ir.Value) -> ir.Shape | None:
    return None if value.shape is None else ir.Shape([*value.shape[:2], 1, *value.shape[2:]])


CONV1D_TO_CONV2D = Pass(
    "conv1d-to-conv2d",
    "one-dimensional convolutions as two-dimensional ones, for which ONNX Runtime has its blocked layout",
    _run,
)
