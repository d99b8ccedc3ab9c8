"""Identity, and Dropout in inference, removed.

Pattern: `Dropout(x, ratio?, training_mode?)` whose mask nobody reads and whose training_mode is absent
or constant false; `Identity(x)`. Both return x itself (ONNX operator documentation). An Identity that
gives a graph output a name of its own stays.
"""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
import onnx_ir.passes.common as common

from nncompile.passes.contract import Outcome, Pass, from_ir_pass
from nncompile.passes.rewriting import Match, Rule, apply_rules
from nncompile.passes.values import constant, given_input


class DropoutToIdentity(Rule):
    """`Dropout(x)` to `Identity(x)` outside training."""

    def pattern(self, op: Any, x: ir.Value) -> Any:
        return op.Dropout(x, _allow_other_inputs=True, _outputs=["kept"])

    def refusal(self, match: Match) -> str | None:
        node = match.node("kept")
        mode = given_input(node, 2)
        if mode is not None:
            training = constant(mode)
            if training is None:
                return "training_mode is not constant"
            if training.any():
                return "training_mode is true"
        if any(output.uses() or output.is_graph_output() for output in node.outputs[1:]):
            return "the mask is used"
        return None

    def replacement(self, op: Any, match: Match) -> Any:
        return op.Identity(match["x"])


_dropouts = apply_rules(DropoutToIdentity)
_identities = from_ir_pass(common.IdentityEliminationPass())


def _run(model: ir.Model) -> Outcome:
    dropouts, identities = _dropouts(model), _identities(model)
    return Outcome(max(dropouts.changes, identities.changes), dropouts.refusals)


REMOVE_IDENTITIES = Pass("remove-identities", "Identity, and Dropout in inference, removed", _run)
