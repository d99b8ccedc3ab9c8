"""What a pass is: a name and a change to a graph that keeps every answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import onnx_ir as ir

from nncompile.stages import Refusal
from nncompile_runtime.errors import PassError


@dataclass(frozen=True)
class Outcome:
    """What a pass did to the graph it was given.

    Attributes:
        changes: How often it changed something; 0 promises that the graph is as it was.
        refusals: Near-misses, with reasons.
    """

    changes: int
    refusals: tuple[Refusal, ...] = ()


@dataclass(frozen=True)
class Pass:
    """A named step of the pipeline.

    Attributes:
        name: As users write it in `passes=[...]` and `--disable-pass`.
        summary: One line for `nncompile inspect --passes`.
        run: Changes the given graph in place.
    """

    name: str
    summary: str
    run: Callable[[ir.Model], Outcome]


class BrokenPassError(PassError):
    """A pass raised, or left the graph malformed.

    Attributes:
        name: The pass.
    """

    def __init__(self, name: str, what: str) -> None:
        """Say which pass, and what happened."""
        super().__init__(
            f"Pass {name!r} {what}.",
            remedy=f"Leave it out with --disable-pass {name} and report it as a bug.",
        )
        self.name = name


def node_count(model: ir.Model) -> int:
    """Number of nodes, subgraphs and functions included."""
    return sum(1 for _ in model.graph.all_nodes()) + sum(
        1 for function in model.functions.values() for _ in function.all_nodes()
    )


def from_ir_pass(*steps: ir.passes.PassBase) -> Callable[[ir.Model], Outcome]:
    """Run onnx_ir passes; the change is counted in nodes and weights, and is at least 1 if they say so."""

    def run(model: ir.Model) -> Outcome:
        size = node_count(model) + len(model.graph.initializers)
        modified = False
        for step in steps:
            modified = step(model).modified or modified
        changes = abs(size - node_count(model) - len(model.graph.initializers))
        return Outcome(max(changes, 1) if modified else 0)

    return run
