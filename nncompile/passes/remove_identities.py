"""Identity, and Dropout in inference, removed.

Pattern: `Dropout(x, ratio?, training_mode?)` whose mask nobody reads and whose training_mode is absent
or constant false; `Identity(x)`. Both return x itself (ONNX operator documentation). An Identity that
gives a graph output a name of its own stays.
"""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
import onnx_ir.passes.common as common
from onnxscript.rewriter import MatchResult, RewriteRuleClassBase

from nncompile.passes.contract import Outcome, Pass, from_ir_pass
from nncompile.passes.rewriting import apply_rules
from nncompile.passes.values import constant


class DropoutToIdentity(RewriteRuleClassBase):
    """`Dropout(x)` to `Identity(x)` outside training."""

    def pattern(self, op: Any, x: ir.Value) -> Any:
        return op.Dropout(x, _allow_other_inputs=True, _outputs=["kept"])

    def check(self, context: Any, kept: ir.Value, **_: Any) -> MatchResult:
        del context
        result = MatchResult()
        node = kept.producer()
        mode = node.inputs[2] if len(node.inputs) > 2 else None
        if mode is not None:
            training = constant(mode)
            if training is None:
                return result.fail("training_mode is not constant")
            if training.any():
                return result.fail("training_mode is true")
        if any(output.uses() or output.is_graph_output() for output in node.outputs[1:]):
            return result.fail("the mask is used")
        return result

    def rewrite(self, op: Any, x: ir.Value, **_: Any) -> ir.Value:
        return op.Identity(x)


_dropouts = apply_rules(DropoutToIdentity.rule())
_identities = from_ir_pass(common.IdentityEliminationPass())


def _run(model: ir.Model) -> Outcome:
    dropouts, identities = _dropouts(model), _identities(model)
    return Outcome(max(dropouts.changes, identities.changes), dropouts.refusals)


REMOVE_IDENTITIES = Pass("remove-identities", "Identity, and Dropout in inference, removed", _run)
