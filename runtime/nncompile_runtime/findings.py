"""What tuning found: every plan that was tried, the one that won at each batch, and where each serves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from nncompile_runtime.bootstrap import Estimate
from nncompile_runtime.plan import Plan
from nncompile_runtime.plans import Plans
from nncompile_runtime.race import Race


@dataclass(frozen=True)
class Tried:
    """A plan at one batch.

    Attributes:
        plan: The plan.
        ratio: How many times as fast as the yardstick, in the last rung that it ran in; None where it
            was not timed.
        p50: Seconds of a call, the median; 0 where it was not timed.
        p99: Seconds of a call, the 99th percentile.
        outcome: `chosen`, `lost the last rung`, `dropped early`, or why it was not timed.
    """

    plan: Plan
    ratio: Estimate | None
    p50: float
    p99: float
    outcome: str


@dataclass(frozen=True)
class Regime:
    """What was found at one batch.

    Attributes:
        batch: Rows of each call.
        chosen: The plan that won.
        tried: Every plan, the yardstick first.
    """

    batch: int
    chosen: Plan
    tried: tuple[Tried, ...]


@dataclass(frozen=True)
class Tuning:
    """What `tune` found.

    Attributes:
        plans: By the smallest batch that each serves; the first key is 1.
        yardstick: Plain ONNX Runtime.
        regimes: One for each batch that was measured.
        left_out: Batches that would have taken too long; what would run without tuning serves them.
        seconds: How long it took.
    """

    plans: Plans
    yardstick: Plan
    regimes: tuple[Regime, ...]
    left_out: tuple[int, ...]
    seconds: float


def table(
    first: Race[Plan], last: Race[Plan], chosen: Plan, rejected: Mapping[Plan, str]
) -> tuple[Tried, ...]:
    """Every plan once, with what its last race says of it."""
    table = []
    for plan in dict.fromkeys((*first.rounds, *last.rounds)):
        run = last if plan in last.rounds else first
        compared = run.to_yardstick(plan)
        outcome = "dropped early"
        if plan in last.finalists:
            outcome = "chosen" if plan == chosen else "lost the last rung"
        table.append(Tried(plan, compared, run.percentile(plan, 50), run.percentile(plan, 99), outcome))
    return (*table, *(Tried(plan, None, 0.0, 0.0, why) for plan, why in rejected.items()))
