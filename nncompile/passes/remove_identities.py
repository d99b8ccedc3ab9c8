"""Identity, and Dropout in inference, removed.

Pattern: `Dropout(x, ratio?, training_mode?)` whose mask nobody reads and whose training_mode is absent
or constant false; `Identity(x)`. Both return x itself (ONNX operator documentation).

A graph output keeps its name and a value of its own: an Identity that computes one goes only where the
node before it, in the same graph, can compute that output instead.
"""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from nncompile.passes.contract import Outcome, Pass
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


def _identities(model: ir.Model) -> list[ir.Node]:
    graphs = (model.graph, *model.graph.subgraphs())
    return [n for graph in graphs for n in graph if n.op_type == "Identity" and n.domain in ("", "ai.onnx")]


def _bypass(node: ir.Node) -> bool:
    """Let the users of an Identity read its input; False where it must stay."""
    source, result, graph = node.inputs[0], node.outputs[0], node.graph
    if source is None or not isinstance(graph, ir.Graph):
        return False
    if result.is_graph_output():
        before = source.producer()
        if before is None or before.graph is not graph or source.is_graph_output():
            return False
        places = [i for i, output in enumerate(graph.outputs) if output is result]
        source.name, result.name = result.name, f"{result.name}_identity"
        for place in places:
            graph.outputs[place] = source
    source.shape = source.shape if source.shape is not None else result.shape
    source.type = source.type if source.type is not None else result.type
    result.replace_all_uses_with(source)
    graph.remove(node, safe=True)
    return True


def _run(model: ir.Model) -> Outcome:
    given = set(_identities(model))
    dropouts = _dropouts(model)
    removed = [node for node in _identities(model) if _bypass(node)]
    return Outcome(dropouts.changes + len(given.intersection(removed)), dropouts.refusals)


REMOVE_IDENTITIES = Pass("remove-identities", "Identity, and Dropout in inference, removed", _run)
