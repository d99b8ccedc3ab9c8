"""Nodes whose inputs are all constant, replaced by their result (onnxscript's optimiser).

What is no larger than a constant that it is computed from is folded at any size: weights in another order or
type, and weights that are normalised (Qiao et al., "Weight Standardization", arXiv:1903.10520) each time they
are used. Others are folded up to onnxscript's default limits, so that no Expand or ConstantOfShape blows up
the file.
"""

from __future__ import annotations

import logging
import math
import sys

import onnx_ir as ir
import onnx_ir.passes.common as common
from onnxscript.optimizer._constant_folding import FoldConstantsPass

from nncompile.passes.contract import Pass, from_ir_pass
from nncompile.passes.values import static_shape

_RANDOM = frozenset(
    {
        "Bernoulli",
        "Dropout",
        "Multinomial",
        "RandomNormal",
        "RandomNormalLike",
        "RandomUniform",
        "RandomUniformLike",
    }
)
_GROW = frozenset({"ConstantOfShape", "Expand", "OneHot", "Pad", "Range", "Resize", "Tile"})
# onnxscript's evaluator runs in Python, and these take long.
_SLOW = frozenset({"Conv", "ConvTranspose", "GRU", "LSTM", "RNN"})
# Quantised weights stay a quarter as large, and what runs them in integers looks for these.
_QUANTISED = frozenset({"DequantizeLinear", "QuantizeLinear"})
_LARGEST_INPUT, _LARGEST_OUTPUT = 8192, 512 * 512  # elements; onnxscript's defaults

# It warns of operators with several outputs, which it leaves alone.
logging.getLogger("onnxscript.optimizer").setLevel(logging.ERROR)


def _should_fold(node: ir.Node) -> bool | None:
    if node.domain not in ("", "ai.onnx"):
        return None
    if node.op_type in _RANDOM | _QUANTISED:
        return False
    sizes = static_shape(node.outputs[0])
    if sizes is None or None in sizes:
        return False if node.op_type in _GROW else None
    elements = math.prod(size or 0 for size in sizes)
    if elements > max((_size(value) for value in node.inputs), default=0):
        return None if elements <= _LARGEST_OUTPUT else False
    if node.op_type in _SLOW:
        return None
    grows = elements > _LARGEST_OUTPUT and all(elements > _size(v) or _stays(v) for v in node.inputs)
    return not grows


def _size(value: ir.Value | None) -> int:
    return 0 if value is None or value.const_value is None else value.const_value.size


def _stays(value: ir.Value | None) -> bool:
    """Whether a constant is still read when all that can be folded is."""
    return value is not None and (
        value.is_graph_output() or not all(map(_of_constants_alone, value.consumers()))
    )


def _of_constants_alone(node: ir.Node) -> bool:
    pending, seen = [node], {node}
    while pending:
        for value in pending.pop().inputs:
            if value is None or (value.const_value is not None and not value.is_graph_input()):
                continue
            producer = value.producer()
            if producer is None or producer.op_type in _RANDOM:
                return False
            if producer not in seen:
                seen.add(producer)
                pending.append(producer)
    return True


def _fold() -> FoldConstantsPass:
    return FoldConstantsPass(
        shape_inference=True,
        input_size_limit=_LARGEST_INPUT,
        output_size_limit=sys.maxsize,  # `_should_fold` knows which constants make room
        should_fold=_should_fold,
    )


def _lift() -> common.LiftConstantsToInitializersPass:
    return common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)


FOLD_CONSTANTS = Pass(
    "fold-constants",
    "nodes with constant inputs replaced by their result",
    from_ir_pass(_fold, common.RemoveUnusedNodesPass),
)
LIFT_CONSTANTS = Pass(
    "lift-constants", "Constant nodes turned into weights, where rules look for them", from_ir_pass(_lift)
)
