"""The driver of rewrite rules: matching by onnxscript, safety and bookkeeping here.

The matcher refuses a match whose inner values have other uses or are graph outputs; rules do not
repeat that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnx_ir.passes.common as common
from onnx_ir.convenience import replace_nodes_and_values
from onnxscript.rewriter import MatchResult, RewriteRule, RewriteRuleClassBase
from onnxscript.rewriter._basics import MatchingTracer, MatchStatus

from nncompile.passes.contract import Outcome
from nncompile.stages import Firing, Refusal

NOTHING_TO_DO = ""

_MAX_SWEEPS = 8
_OWN_INPUT = "an inner value of the pattern is also one of its inputs"
_OTHER_USES = "Matched nodes have other uses"


@dataclass(frozen=True)
class Match:
    """What a pattern bound: values by the names that the pattern gave them."""

    values: Mapping[str, ir.Value]

    def __getitem__(self, name: str) -> ir.Value:
        """The value bound to a name."""
        return self.values[name]

    def node(self, name: str) -> ir.Node:
        """The node that computes the value bound to a name."""
        node = self.values[name].producer()
        if node is None:
            raise ValueError(f"the pattern binds {name!r} to a value that no node computes")
        return node


class Rule(RewriteRuleClassBase):
    """One rewrite; it keeps no state between its three parts.

    `pattern(self, op, x, ...)` is the nodes to look for, written with `op.Operator(...)`; its arguments,
    and outputs named with `_outputs=[...]`, are what a `Match` holds.
    """

    pattern: Callable[..., Any]

    def refusal(self, match: Match) -> str | None:
        """Why a match must be left alone, in words for the user; None where it may be rewritten.

        `NOTHING_TO_DO` is for what is as it should be already: no near-miss, so it is not reported.
        """
        raise NotImplementedError

    def replacement(self, op: Any, match: Match) -> Any:
        """What to put in its place: `op.Operator(...)`, weights as `op.initializer(tensor, name=...)`."""
        raise NotImplementedError

    def gain(self, match: Match) -> str:
        """What a rewrite was measured to gain, for the report; empty where nothing was measured."""
        del match
        return ""

    def check(self, op: Any, *args: Any, **bound: Any) -> MatchResult:
        """What onnxscript calls; see `refusal`."""
        del op, args
        reason = self.refusal(Match(bound))
        return MatchResult() if reason is None else MatchResult().fail(reason)

    def rewrite(self, op: Any, *args: Any, **bound: Any) -> Any:
        """What onnxscript calls; see `replacement`."""
        del args
        return self.replacement(op, Match(bound))


class _Driven(NamedTuple):
    """A rule, and what onnxscript runs of it."""

    rule: Rule
    native: RewriteRule

    @classmethod
    def of(cls, rule: Rule) -> _Driven:
        return cls(rule, RewriteRule(rule.pattern, rule.rewrite, rule.check, name=rule.name))


class _NearMisses(MatchingTracer):
    """Receives every attempt of the matcher in one sweep, and keeps those that came close."""

    def __init__(self) -> None:
        super().__init__()
        self.refusals: list[Refusal] = []

    def log(
        self,
        rule: RewriteRule,
        container: ir.Graph | ir.Function,
        node: ir.Node,
        match_result: MatchResult,
        status: MatchStatus,
    ) -> None:
        del container
        reason = match_result.reason
        if status is MatchStatus.NO_MATCH:
            if not reason.startswith(_OTHER_USES):
                return
            reason = "an inner value of the pattern is used elsewhere or is a graph output"
        elif status is MatchStatus.SUCCESS or reason == NOTHING_TO_DO:
            return
        self.refusals.append(Refusal(str(rule), node.name or node.op_type, reason))


def apply_rules(*kinds: Callable[[], Rule]) -> Callable[[ir.Model], Outcome]:
    """A pass that applies rules until none fires; the first rule that matches a node wins."""
    rules = [_Driven.of(kind()) for kind in kinds]

    def run(model: ir.Model) -> Outcome:
        firings: list[Firing] = []
        near = _NearMisses()
        for _ in range(_MAX_SWEEPS):
            near = _NearMisses()
            swept = [firing for graph in _graphs(model) for firing in _sweep(model, graph, rules, near)]
            firings += swept
            if not swept:
                break
        if firings:
            common.NameFixPass()(model)
        return Outcome(len(firings), tuple(near.refusals), tuple(firings))

    return run


def _graphs(model: ir.Model) -> Iterator[ir.Graph]:
    yield model.graph
    yield from model.graph.subgraphs()


def _sweep(model: ir.Model, graph: ir.Graph, rules: Sequence[_Driven], near: _NearMisses) -> Iterator[Firing]:
    """Go over a graph once; says of each change where it was, after making it."""
    for node in graph:
        for rule, native in rules:
            delta = native.try_rewrite(model, graph, node, tracer=near)
            if delta is None:
                continue
            if _reads_what_goes(delta.match.nodes, delta.new_nodes):
                near.refusals.append(Refusal(str(native), node.name or node.op_type, _OWN_INPUT))
                _discard(delta.new_nodes)
                continue
            gain = rule.gain(Match(delta.match.bindings))
            for value in delta.new_initializers:
                value.name = unused_name(graph, value.name or "weight")
                graph.register_initializer(value)
            _inherit_names(delta.match.nodes, delta.new_nodes)
            replace_nodes_and_values(
                graph, node, delta.match.nodes, delta.new_nodes, delta.match.outputs, delta.new_outputs
            )
            yield Firing(str(native), node.name or node.op_type, gain)
            break


def _reads_what_goes(old: Sequence[ir.Node], new: Sequence[ir.Node]) -> bool:
    """Whether the replacement reads a value whose node is about to be removed."""
    return any(value is not None and value.producer() in old for node in new for value in node.inputs)


def _discard(nodes: Sequence[ir.Node]) -> None:
    """Let go of what nodes read, so that a value counts its users in the graph alone."""
    for node in nodes:
        for i in range(len(node.inputs)):
            node.replace_input_with(i, None)


def unused_name(graph: ir.Graph, name: str) -> str:
    """The name, or the name with a number, that no weight of the graph has."""
    taken = graph.initializers
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name}_{number}"
    return free


def new_weight(graph: ir.Graph, name: str, array: npt.NDArray[Any]) -> ir.Value:
    """A weight added to a graph, under the name or one like it."""
    value = ir.val(unused_name(graph, name), const_value=ir.tensor(np.ascontiguousarray(array)))
    graph.register_initializer(value)
    return value


def _inherit_names(old: Sequence[ir.Node], new: Sequence[ir.Node]) -> None:
    """Keep the module path of the first matched node, so that a layer can be found again."""
    named = [node.name for node in old if node.name and "/" in node.name]
    for node in new:
        if named:
            node.name = f"{named[-1].rpartition('/')[0]}/{node.op_type}"
