"""Which convolutions the native kernels run by Winograd's algorithm: one choice for all batches, measured.

The algorithm changes how sums round. With a choice for each batch a sample would get other bits in another
batch; threads, workers and pieces, which change none, are each batch's own (`plan.disagreement`).

The kernels choose by cost. Each shape of convolution for which the two costs are close is first given to the
other algorithm alone; those which that made faster, over all batches, are then given to it together. The
result replaces the kernels' own choice where it is faster over all batches, and slower at none, beyond the
noise.
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
from nncompile_runtime.kernels import Layer
from nncompile_runtime.plan import LONGEST_WINOGRAD, Plan
from nncompile_runtime.race import Race
from nncompile_runtime.trial import Trial

_CLOSE = 2.0  # times the other's cost
_MOST = 4  # shapes of convolutions that are tried

Layers = tuple[Layer, ...]


def contested(layers: Layers) -> Layers:
    """Those for which the two algorithms cost about the same, the closest first."""
    close = [layer for layer in layers if 1 / _CLOSE <= layer.cost <= _CLOSE]
    return tuple(sorted(close, key=lambda layer: abs(math.log(layer.cost)))[:_MOST])


def with_other_algorithm(plan: Plan, layers: Layers, changed: Layers) -> Plan:
    """The plan with the other algorithm for some layers.

    Args:
        plan: A plan whose kernels choose by cost.
        layers: All for which there is a choice, as the kernels made it.
        changed: Those of them that are to run by the other algorithm.
    """
    winograd = [layer.name for layer in layers if layer.winograd is not (layer in changed)]
    return plan.model_copy(update={"winograd": ",".join(winograd) or "never"})


def settle(
    trial: Trial,
    regimes: Sequence[Regime],
    layers: Layers,
    seconds: float,
    timing: Callable[..., Race[Plan]],
) -> list[Regime]:
    """Find which convolutions run by Winograd's algorithm.

    Args:
        trial: How plans are tried.
        regimes: What was found at each batch while the kernels chose.
        layers: All for which there is a choice, as the kernels made it.
        seconds: About how long it may take.
        timing: As `race`.

    Returns:
        The regimes, each that runs the native kernels with the choice that was found and what was tried.
    """
    native = [regime for regime in regimes if regime.chosen.native]
    alone = [(layer,) for layer in contested(layers)]
    if not native or not alone or len(",".join(layer.name for layer in layers)) > LONGEST_WINOGRAD:
        return list(regimes)
    share = seconds / 2 / len(native)
    first = [_compared(trial, one, layers, alone, share, timing) for one in native]
    better = tuple(layer for (layer,) in alone if _gain(first, layers, (layer,)).value > 1)
    last = [_compared(trial, one, layers, [better], share, timing) for one in native] if better else first
    taken = bool(better) and _gain(last, layers, better).low > 1
    taken = taken and all(one.ratio(layers, better).high >= 1 for one in last)
    found = {
        before.regime.batch: _told(before, after, layers, better if taken else ())
        for before, after in zip(first, last, strict=True)
    }
    return [found.get(regime.batch, regime) for regime in regimes]


@dataclass(frozen=True)
class _Compared:
    """A regime's plan against itself with other algorithms."""

    regime: Regime
    race: Race[Plan]
    rejected: Mapping[Plan, str]

    def rounds(self, layers: Layers, changed: Layers) -> npt.NDArray[Any]:
        """How many times as fast the change is, round by round; 0 where it answers otherwise."""
        own, other = self.regime.chosen, with_other_algorithm(self.regime.chosen, layers, changed)
        if other in self.rejected:
            return np.zeros(len(self.race.rounds[own]))
        return np.divide(self.race.rounds[own], self.race.rounds[other])

    def ratio(self, layers: Layers, changed: Layers) -> Estimate:
        return median_estimate(self.rounds(layers, changed))


def _compared(
    trial: Trial,
    regime: Regime,
    layers: Layers,
    changes: Sequence[Layers],
    seconds: float,
    timing: Callable[..., Race[Plan]],
) -> _Compared:
    rejected: dict[Plan, str] = {}
    kept = [trial.subject.yardstick, regime.chosen]
    others = [with_other_algorithm(regime.chosen, layers, changed) for changed in changes]
    entrants = trial.enter([*kept, *others], regime.batch, rejected)
    measured = timing(entrants, kept, seconds, finalists=len(others))
    entrants.clear()
    trial.sessions.keep(kept)
    return _Compared(regime, measured, rejected)


def _gain(compared: Sequence[_Compared], layers: Layers, changed: Layers) -> Estimate:
    """How many times as fast a change makes the regimes: their geometric mean, round by round."""
    rounds = [one.rounds(layers, changed) for one in compared]
    fewest = min(map(len, rounds))
    product = np.prod([ratios[:fewest] for ratios in rounds], axis=0)
    return median_estimate(product ** (1 / len(rounds)))


def _told(first: _Compared, last: _Compared, layers: Layers, changed: Layers) -> Regime:
    """The regime with the change, and all that was tried of it."""
    regime = first.regime
    chosen = with_other_algorithm(regime.chosen, layers, changed) if changed else regime.chosen
    more = table(first.race, last.race, chosen, {**first.rejected, **last.rejected})
    tried = {one.plan: one for one in (*regime.tried, *more)}
    return replace(regime, chosen=chosen, tried=tuple(tried.values()))
