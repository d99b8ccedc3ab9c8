"""The plans of one loaded model by batch, and their sessions: opened when needed, shared where equal."""

from __future__ import annotations

import logging
import threading
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from nncompile_runtime import batching, devices
from nncompile_runtime.container import ModelFile
from nncompile_runtime.cuda_options import unsuited
from nncompile_runtime.cuda_session import CudaSession, open_session
from nncompile_runtime.device_calls import DeviceCalls
from nncompile_runtime.errors import DeviceError, PlanError
from nncompile_runtime.forks import give_up_when_forked, keep_for_ever
from nncompile_runtime.inputs import Array
from nncompile_runtime.machine import this_machine
from nncompile_runtime.manifest import Signature
from nncompile_runtime.plan import Plan
from nncompile_runtime.plans import Plans, choose, default_of, disagreement
from nncompile_runtime.session import Runner, Session

_log = logging.getLogger("nncompile")


class Sessions:
    """The open sessions of one model: one for all plans that differ only in how batches are cut."""

    def __init__(
        self, model: ModelFile, ready: Sequence[Session] = (), *, refusal: DeviceError | None = None
    ) -> None:
        """Keep sessions of `model`, beginning with those that are open; `refusal` says why none can be."""
        self.model = model
        self._refusal = refusal
        self._lock = threading.Lock()
        self._open = {session.plan.session: session for session in ready}

    def get(self, plan: Plan) -> Session:
        """The session that runs `plan`; opens it where there is none.

        Raises:
            ModelLoadError: ONNX Runtime refuses the graph.
            DeviceError: The plan's provider cannot be had.
        """
        if self._refusal is not None:
            raise self._refusal
        with self._lock:
            if plan.session not in self._open:
                self._open[plan.session] = open_session(self.model, plan.session)
            return self._open[plan.session]

    def keep(self, plans: Sequence[Plan]) -> None:
        """Let go of the sessions that none of `plans` runs in."""
        wanted = {plan.session for plan in plans}
        with self._lock:
            self._open = {plan: session for plan, session in self._open.items() if plan in wanted}

    def __len__(self) -> int:
        """How many are open."""
        return len(self._open)


class Regimes:
    """Which plan serves which batch.

    Attributes:
        plans: By the smallest batch that each serves; the first key is 1.
        sessions: The sessions they run in.
        checked: How feeds are run, by shapes that a call has checked, of one input or of all; kept by the
            predictor.
    """

    def __init__(
        self, plans: Plans, sessions: Sessions, signature: Signature, *, rows_independent: bool
    ) -> None:
        """Serve batches as `plans` say; they are cut only where `rows_independent`.

        Raises:
            PlanError: The plans disagree about the native kernels' algorithm.
        """
        fault = disagreement(plans)
        if fault is not None:
            raise PlanError(
                f"The plans do not go together: {fault}.",
                remedy="Give them one `winograd`, one `lanes` and one `exact`.",
            )
        self.plans: Mapping[int, Plan] = dict(sorted(plans.items()))
        self.sessions = sessions
        self._starts, self._chosen = list(self.plans), list(self.plans.values())
        self._signature, self._rows_independent = signature, rows_independent
        self._opened: list[Session | None] = [None] * len(self._chosen)
        self._calls: list[DeviceCalls | None] = [None] * len(self._chosen)
        self._making = threading.Lock()
        self.checked: dict[tuple[int, ...] | tuple[tuple[int, ...], ...], Runner] = {}
        give_up_when_forked(self)

    def give_up_sessions(self) -> None:
        """In a forked child: the next call opens sessions of this process, on a GPU it is refused."""
        keep_for_ever(self.sessions, self._opened, self._calls, self.checked.copy())
        self.checked.clear()
        refusal = None if self.first.provider == "cpu" else _forked(self.first.device)
        self.sessions = Sessions(self.sessions.model, refusal=refusal)
        self._opened = [None] * len(self._chosen)
        self._calls = [None] * len(self._chosen)
        self._making = threading.Lock()

    @property
    def first(self) -> Plan:
        """The plan of the smallest batches."""
        return self._chosen[0]

    def plan(self, batch: int) -> Plan:
        """The plan that serves a batch; an empty one counts as 1."""
        return self._chosen[self._number(batch)]

    def runner(self, batch: int) -> Runner:
        """A function from a checked feed of `batch` rows to the graph's outputs."""
        number = self._number(batch)
        plan, session = self._chosen[number], self._session(number)
        cut = plan.micro_batch if self._rows_independent else None
        if isinstance(session, CudaSession):
            return self._device_calls(number, session)
        if cut is None and batch > batching.FEWEST_ROWS and self._rows_independent and session.plain:
            return partial(_run_bounded, session, self._signature)
        if batch > 0 and (cut is None or (batch <= cut and plan.workers == 1)):
            return session.run
        return partial(_run_cut, session, self._signature, cut, plan.workers)

    def _device_calls(self, number: int, session: CudaSession) -> DeviceCalls:
        with self._making:
            calls = self._calls[number]
            if calls is None:
                calls = self._calls[number] = DeviceCalls(
                    self.sessions.model,
                    self._chosen[number],
                    session,
                    self._signature,
                    rows_independent=self._rows_independent,
                )
            return calls

    def _number(self, batch: int) -> int:
        return max(0, bisect_right(self._starts, batch) - 1)

    def _session(self, number: int) -> Session:
        """Of the regime of that number; looked up once, because a plan is slow to compare."""
        session = self._opened[number]
        if session is None:
            session = self._opened[number] = self.sessions.get(self._chosen[number])
        return session


def _forked(device: str) -> DeviceError:
    return DeviceError(
        f"The model was loaded on {device} before this process was forked; CUDA does not work in a child.",
        remedy="Start workers with multiprocessing's spawn or forkserver, or load the model in them only.",
    )


def _run_cut(
    session: Session, signature: Signature, piece: int | None, at_once: int, feed: dict[str, Array]
) -> list[Array]:
    return batching.run(session, signature, feed, piece, at_once)


def _run_bounded(session: Session, signature: Signature, feed: dict[str, Array]) -> list[Array]:
    """Where no plan cuts a batch that is large."""
    piece = batching.default_piece(signature, feed, session.plan.threads)
    return batching.run(session, signature, feed, piece)


def opened(
    model: ModelFile, device: str, plan: Plan | Mapping[str, Any] | None, ready: Session | None
) -> tuple[Plans, Session]:
    """The plans to run by and the first one's session, on the first device that can be had.

    Args:
        model: The graph.
        device: `cpu`, `cuda`, `cuda:1` or `auto`.
        plan: The user's; None takes those stored for this machine, or the default.
        ready: A session on the same graph, which serves where its plan is the one to run.

    Raises:
        DeviceError: The device cannot be had, or contradicts the plan.
        PlanError: The user's plan is invalid.
        ModelLoadError: ONNX Runtime refuses the graph.
    """
    stored = model.manifest.plans if model.manifest else {}
    tried = devices.candidates(device)
    operators, machine = model.facts.operators, this_machine()
    for candidate in tried:
        default = default_of(model, machine, candidate.provider, candidate.number)
        plans = choose(plan, stored, machine, default)
        faults = (
            unsuited(p, operators, model.precision, in_bfloat16=model.in_bfloat16) for p in plans.values()
        )
        fault = next(filter(None, faults), None)
        if fault is not None:
            if plan is not None:
                raise PlanError(f"The plan is invalid for {model.name}: {fault}.", remedy="Leave it out.")
            _log.warning("The stored plans are invalid for this graph (%s); using the default.", fault)
            plans = {1: default}
        first = plans[1]
        if device != "auto" and first.device != str(candidate):
            raise DeviceError(
                f"device={device!r} contradicts the plan's {first.device}.", remedy="Give one of the two."
            )
        if ready is not None and ready.plan.session == first.session:
            return plans, ready
        try:
            return plans, open_session(model, first.session)
        except DeviceError as error:
            if plan is not None or candidate is tried[-1]:
                raise
            devices.say_cpu(str(error))
    raise AssertionError("candidates() names at least one device")
