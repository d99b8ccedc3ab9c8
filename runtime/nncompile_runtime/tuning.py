"""Finding the fastest plan for each batch on this machine (docs/plans.md).

For each measured batch: the yardstick (plain ONNX Runtime) and the default plan, against the ways to share
the work, then against the options of the best way. Every candidate's answers are compared with the
yardstick's before it is timed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from nncompile_runtime.answers import difference
from nncompile_runtime.bootstrap import Estimate
from nncompile_runtime.candidates import variations, ways
from nncompile_runtime.container import ModelFile
from nncompile_runtime.errors import InputError, NncompileError
from nncompile_runtime.feeds import standard_feed
from nncompile_runtime.manifest import Signature
from nncompile_runtime.plan import MAX_BATCH, Plan, Plans
from nncompile_runtime.race import Entrant, Race, race
from nncompile_runtime.regimes import Sessions
from nncompile_runtime.session import Session
from nncompile_runtime.structure import unflattener

BATCHES = (1, 8, 64, 256)
Progress = Callable[[str, float], None]
"""Told what is done next, and which share of the work is behind it (0 to 1)."""

_BETWEEN = 0.1  # share of the time for the batches between the measured ones
_AFFORDABLE = 50  # a batch that was not asked for is measured where so many calls fit into its time


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
        left_out: Batches that would have taken too long; the largest measured one's plan serves them.
        seconds: How long it took.
    """

    plans: Plans
    yardstick: Plan
    regimes: tuple[Regime, ...]
    left_out: tuple[int, ...]
    seconds: float


@dataclass(frozen=True)
class Subject:
    """What is tuned, and how a plan is tried.

    Attributes:
        model: The graph.
        signature: How it is called.
        yardstick: Plain ONNX Runtime on the device to tune for.
        default: The plan without tuning.
        processors: Threads that a plan may keep busy.
        cut: Whether a batch may be cut.
        predict: `predict` of a predictor that runs one plan in a session.
        flatten: The tensors of what that returns.
    """

    model: ModelFile
    signature: Signature
    yardstick: Plan
    default: Plan
    processors: int
    cut: bool
    predict: Callable[[Plan, Session], Callable[..., Any]]
    flatten: Callable[[Any], list[Any]]


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
    asked = _checked(seconds, batches, subject.signature)
    timing = partial(race, clock=clock, sleep=sleep)
    begin = clock()
    end = begin + seconds * (1 - _BETWEEN)
    regimes: list[Regime] = []
    left_out: list[int] = []
    trial = _Trial(subject, sizes or {})
    for number, batch in enumerate(asked):
        share = max(0.0, end - clock()) / (len(asked) - number)
        if batches is None and regimes and _one_call(trial, batch, clock) * _AFFORDABLE > share:
            left_out = list(asked[number:])
            break
        tell = _teller(progress, batch, number, len(asked))
        regimes.append(_tuned(trial, batch, clock() + share, timing, tell, clock))
    if progress is not None:
        progress("between the measured batches", 0.95)
    plans = _between(trial, regimes, seconds * _BETWEEN, timing)
    return Tuning(plans, subject.yardstick, tuple(regimes), tuple(left_out), clock() - begin)


class _Trial:
    """Opens candidates on their inputs, and says whether they answer as the yardstick does."""

    def __init__(self, subject: Subject, sizes: Mapping[str, int]) -> None:
        self.subject, self._sizes = subject, sizes
        self.sessions = Sessions(subject.model)
        self._positional = [
            unflattener(a.structure) for a in subject.signature.arguments if not a.keyword_only
        ]
        self._named = {
            a.name: unflattener(a.structure) for a in subject.signature.arguments if a.keyword_only
        }

    def call(self, plan: Plan, batch: int) -> Callable[[], Any]:
        """`predict` under a plan, on the standard inputs."""
        flat = standard_feed(self.subject.signature, batch, self._sizes)
        args = [nest(flat) for nest in self._positional]
        kwargs = {name: nest(flat) for name, nest in self._named.items()}
        return partial(self.subject.predict(plan, self.sessions.get(plan)), *args, **kwargs)

    def enter(self, plans: Iterable[Plan], batch: int, rejected: dict[Plan, str]) -> dict[Plan, Entrant]:
        """The plans that answer as the yardstick does, ready to be timed; why not goes into `rejected`."""
        yardstick = self.subject.yardstick
        reference = self.subject.flatten(self.call(yardstick, batch)())
        entrants: dict[Plan, Entrant] = {}
        for plan in dict.fromkeys((yardstick, *plans)):
            if plan in rejected:
                continue
            try:
                call = self.call(plan, batch)
                fault = difference(reference, self.subject.flatten(call()))
            except NncompileError as error:
                fault = error.problem
            if fault is None or plan == yardstick:
                entrants[plan] = Entrant(call, spins=plan.threads > 1 and plan.spinning)
            else:
                rejected[plan] = fault
        return entrants


def _tuned(
    trial: _Trial,
    batch: int,
    end: float,
    timing: Callable[..., Race[Plan]],
    tell: Progress,
    clock: Callable[[], float],
) -> Regime:
    subject = trial.subject
    rejected: dict[Plan, str] = {}
    native = trial.sessions.get(subject.default).kernels.active
    kept = [subject.yardstick, *([subject.default] if native else [])]
    tried = ways(subject.yardstick, subject.processors, batch, native=native, cut=subject.cut and batch > 1)
    entrants = trial.enter([*kept, *tried], batch, rejected)
    kept = [plan for plan in kept if plan in entrants]
    tell(f"{len(entrants)} ways to share the work", 0.0)
    first = timing(entrants, kept, max(0.0, end - clock()) / 2)
    best = min(first.finalists, key=lambda plan: float(np.median(first.rounds[plan])))
    convolutions = "Conv" in subject.model.facts.operators and not (best.native and native)
    entrants.clear()  # with the losers' sessions
    trial.sessions.keep([*kept, best])
    entrants = trial.enter([*kept, best, *variations(best, convolutions=convolutions)], batch, rejected)
    kept = [plan for plan in kept if plan in entrants]
    tell(f"{len(entrants)} settings of {best}", 0.5)
    last = timing(entrants, kept, max(0.0, end - clock()))
    chosen = last.winner
    entrants.clear()
    trial.sessions.keep([*kept, chosen])
    return Regime(batch, chosen, _table(first, last, chosen, rejected))


def _table(
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


def _between(
    trial: _Trial, regimes: Sequence[Regime], seconds: float, timing: Callable[..., Race[Plan]]
) -> dict[int, Plan]:
    """From where on each plan serves: of two neighbours, the better one halfway serves the gap."""
    plans = {1: regimes[0].chosen}
    for low, high in pairwise(regimes):
        if low.chosen == high.chosen:
            continue
        start = high.batch
        middle = round(math.sqrt(low.batch * high.batch))
        if low.batch < middle < high.batch:
            entrants = trial.enter([low.chosen, high.chosen], middle, {})
            pair = [plan for plan in (low.chosen, high.chosen) if plan in entrants]
            if len(pair) == 2:
                taken = timing({plan: entrants[plan] for plan in pair}, pair, seconds / len(regimes))
                low_is_better = taken.ratio(low.chosen, high.chosen).value <= 1
                start = high.batch if low_is_better else low.batch + 1
        plans[start] = high.chosen
    return plans


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


def _one_call(trial: _Trial, batch: int, clock: Callable[[], float]) -> float:
    """Seconds of the fastest of three calls under the yardstick."""
    call = trial.call(trial.subject.yardstick, batch)
    moments = [clock()]
    for _ in range(3):
        call()
        moments.append(clock())
    return min(end - start for start, end in pairwise(moments))


def _teller(progress: Progress | None, batch: int, number: int, total: int) -> Progress:
    def tell(what: str, share: float) -> None:
        if progress is not None:
            progress(f"batch {batch}: {what}", 0.95 * (number + share) / total)

    return tell
