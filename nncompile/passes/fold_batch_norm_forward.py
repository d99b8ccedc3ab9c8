"""BatchNormalization into the convolution or linear layer behind it.

Patterns: `f(BatchNormalization(x))`, where f is Conv without padding, or Gemm, with constant weights;
`Gemm(Reshape(BatchNormalization(x)))` and the same with Flatten, where each row of x becomes one row; and all
of these at once where several layers read the batch norm.

Algebra: with `s = scale / sqrt(var + epsilon)` and `t = bias - mean * s`, for input channels c, output
channels o and kernel positions k,

    b(o) + sum over c, k of W(o, c, k) * (x(c, k) * s(c) + t(c))
      =  b'(o) + sum over c, k of W'(o, c, k) * x(c, k)

    W'(o, c, k) = W(o, c, k) * s(c)        b'(o) = b(o) + sum over c, k of W(o, c, k) * t(c)

where c runs over the inputs of o's group. With padding it does not hold: f pads with 0 behind the batch
norm, and before it the border would have to be `-t / s`. A Gemm behind a flattened plane is a convolution
whose kernel is the plane: column `c * positions + k` of its input is position k of channel c. Gemm's `alpha`
scales the second term of b' too; `beta` is folded into b'. Computed in float64 and rounded once. (The algebra
of Ioffe and Szegedy, "Batch Normalization", arXiv:1502.03167, section 3.1, on the other side of the layer.)

Of several readers each gets a batch norm of its own first, and only if every one can take it: as long as one
needs its result, it must be computed.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir

from nncompile.passes.affine import batch_norm, batch_norm_fault
from nncompile.passes.contract import Outcome, Pass
from nncompile.passes.rewriting import Match, Rule, apply_rules
from nncompile.passes.values import (
    Array,
    channel_bias,
    float_attribute,
    int_attribute,
    ints_attribute,
    kernel_view,
    rounding_fault,
    static_shape,
    string_attribute,
    weight_fault,
    weights,
    with_weights,
)
from nncompile.stages import Refusal

_LAYERS, _FLATTENING = ("Conv", "Gemm"), ("Flatten", "Reshape")


class _FoldBatchNormForward(Rule):
    """Shared by both linear operators."""

    operator: ClassVar[str]

    def pattern(self, op: Any, x: ir.Value) -> Any:
        norm = op.BatchNormalization(x, _allow_other_inputs=True, _outputs=["normed"])
        return getattr(op, self.operator)(norm, _allow_other_inputs=True, _outputs=["y"])

    def refusal(self, match: Match) -> str | None:
        return _fault(match.node("normed"), match.node("y"))

    def replacement(self, op: Any, match: Match) -> Any:
        return self.layer(op, match, match["x"])

    def layer(self, op: Any, match: Match, x: ir.Value) -> Any:
        """The layer with the batch norm in its weights, on a new input."""
        layer = match.node("y")
        kernel, bias = _parts(layer, match.node("normed"))
        return with_weights(op, layer, x, kernel, bias, "bn")


class FoldBatchNormIntoNextConv(_FoldBatchNormForward):
    """`Conv(BatchNormalization(x))` to `Conv(x)`."""

    operator = "Conv"


class FoldBatchNormIntoNextGemm(_FoldBatchNormForward):
    """`Gemm(BatchNormalization(x))` to `Gemm(x)`."""

    operator = "Gemm"


class FoldBatchNormThroughReshape(_FoldBatchNormForward):
    """`Gemm(Reshape(BatchNormalization(x)))` to `Gemm(Reshape(x))`."""

    operator = "Gemm"
    flattening: ClassVar[str] = "Reshape"

    def pattern(self, op: Any, x: ir.Value) -> Any:
        norm = op.BatchNormalization(x, _allow_other_inputs=True, _outputs=["normed"])
        flat = getattr(op, self.flattening)(norm, _allow_other_inputs=True, _outputs=["flat"])
        return op.Gemm(flat, _allow_other_inputs=True, _outputs=["y"])

    def refusal(self, match: Match) -> str | None:
        return _fault(match.node("normed"), match.node("y"), match.node("flat"))

    def replacement(self, op: Any, match: Match) -> Any:
        flat = match.node("flat")
        rows = getattr(op, self.flattening)(match["x"], *flat.inputs[1:], **flat.attributes)
        rows.type, rows.shape = match["flat"].type, match["flat"].shape
        return self.layer(op, match, rows)


class FoldBatchNormThroughFlatten(FoldBatchNormThroughReshape):
    """`Gemm(Flatten(BatchNormalization(x)))` to `Gemm(Flatten(x))`."""

    flattening = "Flatten"


def _fault(norm: ir.Node, layer: ir.Node, flat: ir.Node | None = None) -> str | None:
    """Why a layer cannot take the batch norm in front of it; None where it can."""
    reason = (
        batch_norm_fault(norm)
        or weight_fault(layer)
        or _attribute_fault(layer)
        or (_flattening_fault(norm, flat) if flat is not None else None)
    )
    if reason is not None:
        return reason
    weight = weights(layer.inputs[1])
    before = kernel_view(layer, np.ascontiguousarray(weight))
    if channel_bias(layer, before.shape[0] * before.shape[1]) is None:
        return f"a bias of shape {list(weights(layer.inputs[2]).shape)} is not one value for each channel"
    kernel, bias = _parts(layer, norm)
    return rounding_fault(kernel_view(layer, kernel), bias, before, weight.dtype)


def _attribute_fault(layer: ir.Node) -> str | None:
    """Why the layer's attributes forbid it; None where they do not."""
    if layer.op_type == "Gemm":
        # Channels are axis 1 of x: with transA they would be Gemm's rows.
        return "Gemm transposes its input" if int_attribute(layer, "transA", 0) else None
    pads, mode = ints_attribute(layer, "pads"), string_attribute(layer, "auto_pad", "NOTSET")
    if any(pads or ()):
        return f"the convolution pads by {list(pads or ())}"
    return None if mode in ("NOTSET", "VALID") else f"the convolution pads as {mode}"


def _flattening_fault(norm: ir.Node, flat: ir.Node) -> str | None:
    """Why rows of the batch norm's result may not become rows of a matrix; None where they do."""
    shape, rows = static_shape(norm.outputs[0]) or (None,), static_shape(flat.outputs[0])
    sizes = [size for size in shape[1:] if size is not None]
    if rows is None or len(sizes) < max(1, len(shape) - 1):
        return "the size of the plane is not known"
    if len(rows) != 2 or rows[1] != prod(sizes) or rows[1] == 0:
        return f"{sizes} values of each row are not flattened to one row"
    return None


def _parts(layer: ir.Node, norm: ir.Node) -> tuple[Array, Array]:
    """The new weight and bias, in float64."""
    kernel = np.array(weights(layer.inputs[1]), np.float64, order="C")
    view = kernel_view(layer, kernel)
    group, outputs, inputs, _ = view.shape
    scale, shift = (
        np.repeat(part, group * inputs // part.size).reshape(group, 1, inputs, 1) for part in batch_norm(norm)
    )
    with np.errstate(all="ignore"):
        added = (view * shift).sum((2, 3)).reshape(-1) * float_attribute(layer, "alpha", 1.0)
        view *= scale
        return kernel, channel_bias(layer, group * outputs) + added


_fold = apply_rules(
    FoldBatchNormIntoNextConv,
    FoldBatchNormIntoNextGemm,
    FoldBatchNormThroughReshape,
    FoldBatchNormThroughFlatten,
)
_Reader = tuple[ir.Node | None, ir.Node]  # a flattening in between, and the layer


def _run(model: ir.Model) -> Outcome:
    refusals = tuple(_give_each_reader_its_own(model))
    outcome = _fold(model)
    return Outcome(outcome.changes, refusals + outcome.refusals, outcome.firings)


def _give_each_reader_its_own(model: ir.Model) -> Iterator[Refusal]:
    """Copy a batch norm for each of several layers that can all take it; says which cannot."""
    for graph in (model.graph, *model.graph.subgraphs()):
        for norm in graph:
            readers = _readers(norm)
            if len(readers) < 2:
                continue
            faults = [_fault(norm, layer, flat) for flat, layer in readers]
            for fault in filter(None, faults):
                reason = f"one of {len(readers)} layers that read the batch norm cannot take it: {fault}"
                yield Refusal("FoldBatchNormIntoEachReader", norm.name or norm.op_type, reason)
                break
            else:
                for flat, layer in readers:
                    value = _copy(norm, norm.inputs[0], layer)
                    layer.replace_input_with(0, value if flat is None else _copy(flat, value, layer))
                flats = {flat: None for flat, _ in readers if flat is not None}
                graph.remove([*flats, norm], safe=True)


def _readers(norm: ir.Node) -> list[_Reader]:
    """The layers that read a batch norm; none where anything else needs its result."""
    if norm.op_type != "BatchNormalization" or norm.domain not in ("", "ai.onnx"):
        return []
    found: list[_Reader] = []
    places = []
    for node, place in norm.outputs[0].uses():
        flat = node if node.op_type in _FLATTENING else None
        ends = [(node, place)] if flat is None else flat.outputs[0].uses()
        found += [(flat, layer) for layer, _ in ends]
        places += [place, *(index for _, index in ends)]
        if not ends or (flat is not None and flat.outputs[0].is_graph_output()):
            return []
    layers = [layer for _, layer in found]
    if norm.outputs[0].is_graph_output() or any(places):
        return []
    if any(layer.op_type not in _LAYERS or layer.graph is not norm.graph for layer in layers):
        return []
    return found


def _copy(node: ir.Node, x: ir.Value | None, before: ir.Node) -> ir.Value:
    """The result of a copy of a node with another first input, inserted before a node."""
    copy = ir.node(node.op_type, [x, *node.inputs[1:]], dict(node.attributes), name=node.name)
    copy.outputs[0].type, copy.outputs[0].shape = node.outputs[0].type, node.outputs[0].shape
    before.graph.insert_before(before, copy)  # type: ignore[union-attr]
    return copy.outputs[0]


FOLD_BATCH_NORM_FORWARD = Pass(
    "fold-batch-norm-forward",
    "batch norm folded into the unpadded convolutions or linear layers behind it",
    _run,
)
