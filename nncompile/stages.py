"""What flows through the compiler. Each stage is made from the one before, and only by its own step.

`nn.Module -> CapturedModel -> OptimizedModel -> VerifiedModel -> artifact`: an artifact is built from
a `VerifiedModel` alone, so saving what was not verified (or expressly not to be) is a type error.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nncompile_runtime.manifest import Signature, Verification

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

    from nncompile_runtime.session import Session


@dataclass(frozen=True)
class CapturedModel:
    """A module as a graph, before any pass.

    Attributes:
        name: The module's class name.
        graph: The exporter's graph; never changed, passes work on a clone.
        signature: How it is called.
        module: The module on the CPU, in the precision that was asked for: the yardstick of verification.
        example: The example inputs, flat, as captured (batch of at least 2 where it is dynamic).
        reference: The module that is right in float64: `module`, or what it was cast from.
    """

    name: str
    graph: ir.Model
    signature: Signature
    module: torch.nn.Module
    example: tuple[torch.Tensor, ...]
    reference: torch.nn.Module


@dataclass(frozen=True)
class Firing:
    """A place where a pass changed the graph.

    Attributes:
        rule: The rule; where a pass is not made of rules, the step of it.
        node: The node at which the pattern ended, or the node or weight that is gone.
        gain: What that was measured to gain; empty where nothing was measured.
    """

    rule: str
    node: str
    gain: str = ""


@dataclass(frozen=True)
class Refusal:
    """A rule's pattern was there, but its conditions did not hold.

    Attributes:
        rule: The rule.
        node: The node at which the pattern ended.
        reason: Why it was left alone.
    """

    rule: str
    node: str
    reason: str


@dataclass(frozen=True)
class PassReport:
    """What one pass did.

    Attributes:
        name: The pass.
        changes: How often it changed the graph.
        nodes_before: Number of nodes before it.
        nodes_after: Number of nodes after it.
        seconds: How long it took, its check included.
        refusals: Near-misses, with reasons.
        firings: Where it changed the graph.
    """

    name: str
    changes: int
    nodes_before: int
    nodes_after: int
    seconds: float
    refusals: tuple[Refusal, ...] = ()
    firings: tuple[Firing, ...] = ()


@dataclass(frozen=True)
class OptimizedModel:
    """A graph after the passes, serialised: these bytes are what is verified, saved and run."""

    captured: CapturedModel
    model: bytes
    passes: tuple[PassReport, ...]


@dataclass(frozen=True)
class VerifiedModel:
    """A graph whose answers were compared with eager PyTorch's, or were expressly not to be.

    Attributes:
        optimized: The graph.
        verification: What was compared, for the manifest.
        session: In which it was compared; None where it was not.
        exact: Whether the native kernels do without Winograd's algorithm: asked for, or found necessary.
    """

    optimized: OptimizedModel
    verification: Verification
    session: Session | None = None
    exact: bool = False
