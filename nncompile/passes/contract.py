"""What a pass is: a name and a change to a graph that keeps every answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import get_args

import onnx_ir as ir

from nncompile.options import CompileOptions
from nncompile.stages import Firing, Refusal
from nncompile_runtime.errors import PassError
from nncompile_runtime.manifest import Precision, Target


@dataclass(frozen=True)
class Outcome:
    """What a pass did to the graph it was given.

    Attributes:
        changes: How often it changed something; 0 promises that the graph is as it was.
        refusals: Near-misses, with reasons.
        firings: Where it changed something, as far as the pass can tell.
    """

    changes: int
    refusals: tuple[Refusal, ...] = ()
    firings: tuple[Firing, ...] = ()


@dataclass(frozen=True)
class Pass:
    """A named step of the pipeline.

    Attributes:
        name: As users write it in `passes=[...]` and `--disable-pass`.
        summary: One line for `nncompile inspect --passes`.
        run: Changes the given graph in place.
        targets: What it may run for.
        precisions: Likewise.
        fit: Makes `run` for a compile's options, where they matter to it.
    """

    name: str
    summary: str
    run: Callable[[ir.Model], Outcome]
    targets: tuple[Target, ...] = get_args(Target)
    precisions: tuple[Precision, ...] = get_args(Precision)
    fit: Callable[[CompileOptions], Callable[[ir.Model], Outcome]] | None = None

    def fitted(self, options: CompileOptions) -> Pass:
        """The pass as a compile with these options runs it."""
        return self if self.fit is None else replace(self, run=self.fit(options))


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
    """Number of nodes, subgraphs included; a call of a function is one, whatever the function holds."""
    return sum(1 for _ in model.graph.all_nodes())


def from_ir_pass(*makers: Callable[[], ir.passes.PassBase]) -> Callable[[ir.Model], Outcome]:
    """Run onnx_ir passes, made anew for each model; the nodes and weights that are gone are counted."""

    def run(model: ir.Model) -> Outcome:
        kept = {id(part): part for part in _parts(model)}  # keeps the ids from being used again
        modified = False
        firings: list[Firing] = []
        for make in makers:
            step = make()
            modified = step(model).modified or modified
            left = set(map(id, _parts(model)))
            rule, gone = type(step).__name__.removesuffix("Pass"), [part for part in kept if part not in left]
            firings += [Firing(rule, _name(kept.pop(part))) for part in gone]
        return Outcome(max(len(firings), int(modified)), firings=tuple(firings))

    return run


def _parts(model: ir.Model) -> Iterator[ir.Node | ir.Value | ir.Function]:
    """Every node and weight, and the functions and operator sets."""
    for graph in (model.graph, *model.graph.subgraphs()):
        yield from graph
        yield from graph.initializers.values()
    yield from model.functions.values()


def _name(part: ir.Node | ir.Value | ir.Function) -> str:
    return part.name or (part.op_type if isinstance(part, ir.Node) else "")
