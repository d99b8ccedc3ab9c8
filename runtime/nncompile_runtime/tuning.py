"""Finding the fastest plan for each batch on this machine (docs/plans.md).

For each measured batch: the yardstick (plain ONNX Runtime) and the default plan, against the ways to share
the work, then against the options of the best way; for all batches together: the native kernels' algorithms.
Every candidate's answers are compared with the yardstick's before it is timed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from nncompile_runtime import cuda_candidates
from nncompile_runtime.algorithms import choices, settle
from nncompile_runtime.candidates import variations, ways
from nncompile_runtime.device_arrays import library_of
from nncompile_runtime.errors import InputError
from nncompile_runtime.findings import Regime, Tuning, table
from nncompile_runtime.manifest import Signature
from nncompile_runtime.plan import MAX_BATCH, Plan
from nncompile_runtime.race import Race, race
from nncompile_runtime.trial import Subject, Trial

BATCHES = (1, 8, 64, 256)
Progress = Callable[[str, float], None]
"""Told what is done next, and which share of the work is behind it (0 to 1)."""

_BETWEEN = 0.1  # share of the time for the batches between the measured ones
_ALGORITHMS = 0.2  # likewise for the native kernels' algorithms, where there is a choice
_CONFIRMING, _NEW_SESSIONS = 0.3, 2  # share of the last race's time to confirm its winner, and how often
_AFFORDABLE = 50  # a batch that was not asked for is measured where so many calls fit into its time


def tune(
    subject: Subject,
    seconds: float,
    batches: Sequence[int] | None = None,
    sizes: Mapping[str, int] | None = None,
    progress: Progress | None = None,
    *,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> Tuning:
    """Measure plans; see `Predictor.tune`.

    Args:
        subject: What to tune.
        seconds: About how long it may take.
        batches: Rows to measure at; None takes 1, 8, 64 and 256, as far as the time allows.
        sizes: Sizes of free dimensions other than the batch, by symbol.
        progress: Told how far it is.
        clock: Seconds that only grow.
        sleep: Waits for a number of seconds.

    Raises:
        InputError: An argument makes no sense, a free dimension has no size, or the yardstick cannot run
            a batch.
    """
    every = _checked(seconds, batches, subject.signature)
    _check_place(subject.like, subject.default.device)
    timing = partial(race, clock=clock, sleep=sleep)
    begin = clock()
    trial = Trial(subject, sizes or {})
    kernels = trial.sessions.get(subject.default).kernels
    algorithms = _ALGORITHMS if choices(kernels, exact=subject.default.exact) else 0.0
    measured = every
    if batches is None:
        measured = _affordable(trial, every, seconds * (1 - _BETWEEN - algorithms) / len(every), clock)
    left_out = every[len(measured) :]
    if left_out:  # one choice serves all batches, so it must be measured at large ones too
        algorithms = 0.0
    end = begin + seconds * (1 - _BETWEEN - algorithms)
    regimes: list[Regime] = []
    for number, batch in enumerate(measured):
        share = max(0.0, end - clock()) / (len(measured) - number)
        span = (0.95 - algorithms) / len(measured)
        tell = _teller(progress, batch, span * number, span)
        regimes.append(_tuned(trial, batch, clock() + share, timing, tell, clock))
    if algorithms:
        if progress is not None:
            progress("algorithms of the native kernels", 0.95 - algorithms)
        regimes = settle(trial, regimes, kernels, seconds * algorithms, timing)
    if progress is not None:
        progress("between the measured batches", 0.95)
    plans = _between(trial, regimes, seconds * _BETWEEN, timing)
    if left_out and regimes[-1].chosen != _untuned(trial):
        plans[_halfway(regimes[-1].batch, left_out[0]) + 1] = _untuned(trial)
    return Tuning(plans, subject.yardstick, tuple(regimes), left_out, clock() - begin)


def _tuned(
    trial: Trial,
    batch: int,
    end: float,
    timing: Callable[..., Race[Plan]],
    tell: Progress,
    clock: Callable[[], float],
) -> Regime:
    subject = trial.subject
    rejected: dict[Plan, str] = {}
    native = trial.sessions.get(subject.default).kernels.active
    untuned = _untuned(trial)
    kept = list(dict.fromkeys((subject.yardstick, untuned)))
    cut = subject.cut and batch > 1
    tried = (
        cuda_candidates.ways(untuned, batch, cut=cut)
        if subject.yardstick.provider == "cuda"
        else ways(subject.yardstick, subject.processors, batch, native=native, cut=cut)
    )
    entrants = trial.enter([*kept, *tried], batch, rejected)
    kept = [plan for plan in kept if plan in entrants]
    tell(f"{len(entrants)} ways to share the work", 0.0)
    first = timing(entrants, kept, max(0.0, end - clock()) / 2)
    best = min(first.finalists, key=lambda plan: float(np.median(first.rounds[plan])))
    convolutions = "Conv" in subject.model.facts.operators and not (best.native and native)
    options = (
        cuda_candidates.variations(best, subject.model)
        if best.provider == "cuda"
        else variations(best, convolutions=convolutions, native=best.native and native, batch=batch)
    )
    entrants.clear()  # with the losers' sessions
    trial.sessions.keep([*kept, best])
    entrants = trial.enter([*kept, best, *options], batch, rejected)
    kept = [plan for plan in kept if plan in entrants]
    tell(f"{len(entrants)} settings of {best}", 0.5)
    last = timing(entrants, kept, max(0.0, end - clock()) * (1 - _CONFIRMING))
    entrants.clear()
    chosen = _confirmed(trial, batch, last, kept, timing, max(0.0, end - clock()))
    trial.sessions.keep([*kept, chosen])
    return Regime(batch, chosen, table(first, last, chosen, rejected))


def _confirmed(
    trial: Trial,
    batch: int,
    last: Race[Plan],
    kept: Sequence[Plan],
    timing: Callable[..., Race[Plan]],
    seconds: float,
) -> Plan:
    """The winner if it wins in new sessions too, else plain ONNX Runtime if that does, else the default.

    Where a session's memory happens to lie makes it faster or slower for as long as it lives
    (nncompile/bench/sessions.py), so one session of each compares their luck as well.
    """
    default = kept[-1]
    if default.provider == "cuda":
        return last.winner
    asked = dict.fromkeys((last.winner, kept[0]))
    challengers = [plan for plan in asked if last.ratio(default, plan).low > 1]
    for plan in challengers:
        share = seconds / (_NEW_SESSIONS * len(challengers))
        if all(_beats(trial, batch, default, plan, timing, share) for _ in range(_NEW_SESSIONS)):
            return plan
    return default


def _beats(
    trial: Trial, batch: int, base: Plan, plan: Plan, timing: Callable[..., Race[Plan]], seconds: float
) -> bool:
    """Whether a plan is faster than another beyond the noise, both in sessions of their own."""
    trial.sessions.keep([])
    entrants = trial.enter([base, plan], batch, {})
    pair = {one: entrants[one] for one in (base, plan) if one in entrants}
    return len(pair) == 2 and timing(pair, [base], seconds).ratio(base, plan).low > 1


def _between(
    trial: Trial, regimes: Sequence[Regime], seconds: float, timing: Callable[..., Race[Plan]]
) -> dict[int, Plan]:
    """From where on each plan serves: of two neighbours, the better one halfway serves the gap."""
    plans = {1: regimes[0].chosen}
    for low, high in pairwise(regimes):
        if low.chosen == high.chosen:
            continue
        start = high.batch
        middle = _halfway(low.batch, high.batch)
        if low.batch < middle < high.batch:
            entrants = trial.enter([low.chosen, high.chosen], middle, {})
            pair = [plan for plan in (low.chosen, high.chosen) if plan in entrants]
            if len(pair) == 2:
                taken = timing({plan: entrants[plan] for plan in pair}, pair, seconds / len(regimes))
                low_is_better = taken.ratio(low.chosen, high.chosen).value <= 1
                start = high.batch if low_is_better else low.batch + 1
        plans[start] = high.chosen
    return plans


def _halfway(low: int, high: int) -> int:
    """The batch between two that is as many times the one as the other is times it."""
    return round(math.sqrt(low * high))


def _untuned(trial: Trial) -> Plan:
    """What would run without tuning: the default, without the native kernels where those have no regions."""
    default = trial.subject.default
    active = trial.sessions.get(default).kernels.active
    return default if active else default.model_copy(update={"native": False})


def _check_place(like: Any, device: str) -> None:
    """Calls can be measured on arrays like this one."""
    if like is None:
        return
    library = library_of(like)
    if library is None or library.device(like) != device:
        what = type(like).__name__ if library is None else library.described(like)
        raise InputError(
            f"like is {what}, and the model runs on {device}.",
            remedy=f"Give a torch tensor or a CuPy array on {device}, or leave it out.",
        )


def _checked(seconds: float, batches: Sequence[int] | None, signature: Signature) -> tuple[int, ...]:
    if not (isinstance(seconds, (int, float)) and math.isfinite(seconds) and seconds > 0):
        raise InputError(f"seconds is {seconds!r}.", remedy="Give how long tuning may take, such as 10.")
    if signature.batch is None:
        if batches is not None:
            raise InputError(
                f"The model's batch is fixed, so batches={list(batches)} cannot be measured.",
                remedy="Leave batches out, or compile with dynamic_batch=True.",
            )
        return (1,)
    chosen = BATCHES if batches is None else tuple(batches)
    if not chosen or any(type(batch) is not int or not 1 <= batch <= MAX_BATCH for batch in chosen):
        raise InputError(
            f"batches is {list(chosen)}.", remedy=f"Give one or more whole numbers from 1 to {MAX_BATCH}."
        )
    return tuple(sorted(set(chosen)))


def _affordable(
    trial: Trial, batches: tuple[int, ...], share: float, clock: Callable[[], float]
) -> tuple[int, ...]:
    """The smallest batch, and others up to the first of which too few calls fit into `share` seconds."""
    for number, batch in enumerate(batches[1:], 1):
        if _one_call(trial, batch, clock) * _AFFORDABLE > share:
            return batches[:number]
    return batches


def _one_call(trial: Trial, batch: int, clock: Callable[[], float]) -> float:
    """Seconds of the fastest of three calls under the yardstick."""
    call = trial.call(trial.subject.yardstick, batch)
    moments = [clock()]
    for _ in range(3):
        call()
        moments.append(clock())
    return min(end - start for start, end in pairwise(moments))


def _teller(progress: Progress | None, batch: int, start: float, span: float) -> Progress:
    def tell(what: str, share: float) -> None:
        if progress is not None:
            progress(f"batch {batch}: {what}", start + span * share)

    return tell
