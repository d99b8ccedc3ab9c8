"""Nodes whose inputs are all constant, replaced by their result (onnxscript's optimiser).

The operators that only move or retype data are folded at any size: their result is no larger than the
weight it replaces. Others are folded up to onnxscript's default limits, so that no Expand or
ConstantOfShape blows up the file.
"""

from __future__ import annotations

import logging

import onnx_ir as ir
import onnx_ir.passes.common as common
from onnxscript.optimizer._constant_folding import FoldConstantsPass

from nncompile.passes.contract import Pass, from_ir_pass

_NEVER_GROW = frozenset({"Cast", "Flatten", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})
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
_LARGEST_INPUT, _LARGEST_OUTPUT = 8192, 512 * 512  # elements; onnxscript's defaults

# It warns of operators with several outputs, which it leaves alone.
logging.getLogger("onnxscript.optimizer").setLevel(logging.ERROR)


def _should_fold(node: ir.Node) -> bool | None:
    if node.domain not in ("", "ai.onnx"):
        return None
    if node.op_type in _RANDOM:
        return False
    return True if node.op_type in _NEVER_GROW else None


def _fold() -> FoldConstantsPass:
    return FoldConstantsPass(
        shape_inference=True,
        input_size_limit=_LARGEST_INPUT,
        output_size_limit=_LARGEST_OUTPUT,
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
