"""What a pass is: a name and a change to a graph that keeps every answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
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


def from_ir_pass(*makers: Callable[[], ir.passes.PassBase]) -> Callable[[ir.Model], Outcome]:
    """Run onnx_ir passes, made anew for each model; the nodes and weights that are gone are counted."""

    def run(model: ir.Model) -> Outcome:
        before = set(map(id, _parts(model)))
        kept = list(_parts(model))  # keeps the ids from being used again
        modified = False
        for make in makers:
            modified = make()(model).modified or modified
        gone = len(before - set(map(id, _parts(model))))
        del kept
        return Outcome(max(gone, int(modified)))

    return run


def _parts(model: ir.Model) -> Iterator[object]:
    """Every node and weight, and the functions and operator sets."""
    for graph in (model.graph, *model.graph.subgraphs()):
        yield from graph
        yield from graph.initializers.values()
    yield from model.functions.values()
