"""Nodes whose inputs are all constant, replaced by their result (onnxscript's optimiser).

The operators that only move or retype data are folded at any size: their result is no larger than the
weight it replaces. Others are folded up to onnxscript's default limits, so that no Expand or
ConstantOfShape blows up the file.
"""

from __future__ import annotations

import onnx_ir as ir
import onnx_ir.passes.common as common
from onnxscript import optimizer

from nncompile.passes.contract import Outcome, Pass, node_count

_NEVER_GROW = frozenset({"Cast", "Flatten", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})


def _should_fold(node: ir.Node) -> bool | None:
    return True if node.op_type in _NEVER_GROW and node.domain in ("", "ai.onnx") else None


def _run(model: ir.Model) -> Outcome:
    before = node_count(model)
    optimizer.fold_constants(model, onnx_shape_inference=True, should_fold=_should_fold)
    common.RemoveUnusedNodesPass()(model)
    return Outcome(before - node_count(model))


def _lift(model: ir.Model) -> Outcome:
    before = node_count(model)
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    return Outcome(before - node_count(model))


FOLD_CONSTANTS = Pass("fold-constants", "nodes with constant inputs replaced by their result", _run)
LIFT_CONSTANTS = Pass(
    "lift-constants", "Constant nodes turned into weights, where rules look for them", _lift
)
