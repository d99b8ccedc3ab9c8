"""Nodes, weights, functions and operator sets that no graph output depends on, removed (onnx_ir)."""

from __future__ import annotations

import onnx_ir.passes.common as common

from nncompile.passes.contract import Pass, from_ir_pass

REMOVE_DEAD_CODE = Pass(
    "remove-dead-code",
    "nodes and weights that no output depends on, removed",
    from_ir_pass(
        common.RemoveUnusedNodesPass, common.RemoveUnusedFunctionsPass, common.RemoveUnusedOpsetsPass
    ),
)
