"""The native kernels' algorithms: Winograd's or not, samples in lanes or not; one choice for all batches.

An algorithm changes how sums round. With a choice for each batch a sample would get other bits in another
batch; threads, workers and pieces, which change none, are each batch's own (`plans.disagreement`).

The kernels choose by cost. Each shape of convolution for which the two costs are close is first given to the
other algorithm alone, and no samples are put into lanes; what of that was faster, over all batches, is then
done together. The result replaces the kernels' own choice where it is faster over all batches, and slower at
none, beyond the noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from nncompile_runtime.bootstrap import Estimate, median_estimate
from nncompile_runtime.findings import Regime, table
from nncompile_runtime.kernels import Kernels, Layer
from nncompile_runtime.plan import LONGEST_WINOGRAD, Plan
from nncompile_runtime.race import Race
from nncompile_runtime.trial import Trial

_CLOSE = 2.0  # times the other's cost
_MOST = 4  # shapes of convolutions that are tried

LANES = "lanes"
Change = Layer | str
"""A layer to run by its other algorithm, or LANES, not to put samples into lanes."""


def choices(kernels: Kernels, *, exact: bool) -> tuple[Change, ...]:
    """What may be changed: layers whose two costs are about the same, the closest first, and lanes.

    Args:
        kernels: What they chose by themselves.
        exact: Whether they have to do without Winograd's algorithm.
    """
    close = [layer for layer in kernels.layers if 1 / _CLOSE <= layer.cost <= _CLOSE]
    close.sort(key=lambda layer: abs(math.log(layer.cost)))
    too_many = len(",".join(layer.name for layer in kernels.layers)) > LONGEST_WINOGRAD
    lanes = (LANES,) if kernels.lanes else ()
    return lanes if exact or too_many else (*close[:_MOST], *lanes)


def changed(plan: Plan, kernels: Kernels, changes: Sequence[Change]) -> Plan:
    """A plan whose kernels chose by themselves, with changes to that."""
    update: dict[str, object] = {}
    if LANES in changes:
        update["lanes"] = False
    if any(layer in changes for layer in kernels.layers):
        winograd = [layer.name for layer in kernels.layers if layer.winograd is not (layer in changes)]
        update["winograd"] = ",".join(winograd) or "never"
    return plan.model_copy(update=update)


def settle(
    trial: Trial,
    regimes: Sequence[Regime],
    kernels: Kernels,
    seconds: float,
    timing: Callable[..., Race[Plan]],
) -> list[Regime]:
    """Find the algorithms that are fastest over all batches.

    Args:
        trial: How plans are tried.
        regimes: What was found at each batch while the kernels chose.
        kernels: What they chose.
        seconds: About how long it may take.
        timing: As `race`.

    Returns:
        The regimes, each that runs the native kernels with the choice that was found and what was tried.
    """
    native = [regime for regime in regimes if regime.chosen.native]
    alone = [(change,) for change in choices(kernels, exact=trial.subject.default.exact)]
    if not native or not alone:
        return list(regimes)
    share = seconds / 2 / len(native)
    first = [_compared(trial, one, kernels, alone, share, timing) for one in native]
    better = tuple(change for (change,) in alone if _gain(first, (change,)).value > 1)
    last = [_compared(trial, one, kernels, [better], share, timing) for one in native] if better else first
    taken = bool(better) and _gain(last, better).low > 1
    taken = taken and all(median_estimate(one.ratios(better)).high >= 1 for one in last)
    found = {
        before.regime.batch: _told(before, after, better if taken else ())
        for before, after in zip(first, last, strict=True)
    }
    return [found.get(regime.batch, regime) for regime in regimes]


@dataclass(frozen=True)
class _Compared:
    """A regime's plan against itself with changes."""

    regime: Regime
    kernels: Kernels
    race: Race[Plan]
    rejected: Mapping[Plan, str]

    def plan(self, changes: Sequence[Change]) -> Plan:
        return changed(self.regime.chosen, self.kernels, changes)

    def ratios(self, changes: Sequence[Change]) -> npt.NDArray[Any]:
        """How many times as fast the changes are, round by round; 0 where they answer otherwise."""
        own = self.race.rounds[self.regime.chosen]
        plan = self.plan(changes)
        return np.zeros(len(own)) if plan in self.rejected else np.divide(own, self.race.rounds[plan])


def _compared(
    trial: Trial,
    regime: Regime,
    kernels: Kernels,
    tried: Sequence[Sequence[Change]],
    seconds: float,
    timing: Callable[..., Race[Plan]],
) -> _Compared:
    rejected: dict[Plan, str] = {}
    kept = [trial.subject.yardstick, regime.chosen]
    others = [changed(regime.chosen, kernels, changes) for changes in tried]
    entrants = trial.enter([*kept, *others], regime.batch, rejected)
    measured = timing(entrants, kept, seconds, finalists=len(others))
    entrants.clear()
    trial.sessions.keep([])  # the next comparison has sessions of its own (tuning._confirmed)
    return _Compared(regime, kernels, measured, rejected)


def _gain(compared: Sequence[_Compared], changes: Sequence[Change]) -> Estimate:
    """How many times as fast changes make the regimes: their geometric mean, round by round."""
    ratios = [one.ratios(changes) for one in compared]
    fewest = min(map(len, ratios))
    product = np.prod([rounds[:fewest] for rounds in ratios], axis=0)
    return median_estimate(product ** (1 / len(ratios)))


def _told(first: _Compared, last: _Compared, changes: Sequence[Change]) -> Regime:
    """The regime with the changes, and all that was tried of it."""
    regime, chosen = first.regime, first.plan(changes)
    more = table(first.race, last.race, chosen, {**first.rejected, **last.rejected})
    tried = {one.plan: one for one in (*regime.tried, *more)}
    return replace(regime, chosen=chosen, tried=tuple(tried.values()))
