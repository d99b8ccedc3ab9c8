"""OptimizedModel -> VerifiedModel: compare with eager PyTorch; on a mismatch, find the pass and drop it."""

from __future__ import annotations

import logging
from collections.abc import Callable

from nncompile.stages import CapturedModel, OptimizedModel, VerifiedModel
from nncompile.verify.suite import Failure, Suite
from nncompile_runtime.errors import VerificationError
from nncompile_runtime.manifest import Verification

_log = logging.getLogger("nncompile")

Optimize = Callable[[frozenset[str]], OptimizedModel]


def verify(captured: CapturedModel, optimize: Optimize) -> VerifiedModel:
    """Compare the optimised graph with eager PyTorch; leave out each pass that breaks the numbers.

    Args:
        captured: The module and its example.
        optimize: Runs the passes without those named, always from the captured graph.

    Raises:
        VerificationError: The graph is wrong with no pass at all.
    """
    suite = Suite(captured)
    dropped: tuple[str, ...] = ()
    while True:
        model = optimize(frozenset(dropped))
        outcome = suite.compare(model)
        if isinstance(outcome, Verification):
            return VerifiedModel(model, outcome.model_copy(update={"dropped_passes": dropped}))
        guilty = _bisect(suite, optimize, model, frozenset(dropped), outcome)
        if guilty is None:
            raise VerificationError(
                f"The graph is wrong with no pass at all. {outcome.what}.", remedy=suite.explain_first(captured)
            )
        _log.warning("Pass %r changes the answers and is left out. %s.", guilty, outcome.what)
        dropped = (*dropped, guilty)


def skip(model: OptimizedModel) -> VerifiedModel:
    """Mark a graph as expressly not verified."""
    return VerifiedModel(model, Verification(status="skipped"))


def _bisect(
    suite: Suite, optimize: Optimize, model: OptimizedModel, dropped: frozenset[str], failure: Failure
) -> str | None:
    """The pass whose addition makes the failing case fail; None where it fails without any."""
    active = [report.name for report in model.passes if report.changes]

    def fails(count: int) -> bool:
        without = dropped | frozenset(active[count:])
        return isinstance(suite.compare(optimize(without), only=failure.case), Failure)

    if fails(0):
        return None
    good, bad = 0, len(active)
    while bad - good > 1:
        middle = (good + bad) // 2
        good, bad = (good, middle) if fails(middle) else (middle, bad)
    return active[bad - 1]
