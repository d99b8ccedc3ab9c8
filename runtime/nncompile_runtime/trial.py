"""What is tuned, and how a plan is tried: opened, fed, its answers compared before it is timed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from nncompile_runtime.answers import difference
from nncompile_runtime.container import ModelFile
from nncompile_runtime.cuda_session import CudaSession
from nncompile_runtime.device_arrays import library_of
from nncompile_runtime.errors import NncompileError
from nncompile_runtime.feeds import standard_feed
from nncompile_runtime.manifest import Signature
from nncompile_runtime.nesting import Nesting
from nncompile_runtime.plan import Plan
from nncompile_runtime.race import Entrant
from nncompile_runtime.regimes import Sessions
from nncompile_runtime.session import Session


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
        like: What is measured are calls on arrays like this one, which lies on the GPU to tune for; None
            measures calls on arrays of numpy.
    """

    model: ModelFile
    signature: Signature
    yardstick: Plan
    default: Plan
    processors: int
    cut: bool
    predict: Callable[[Plan, Session], Callable[..., Any]]
    flatten: Callable[[Any], list[Any]]
    like: Any = None


class Trial:
    """Opens candidates on their inputs, and says whether they answer as the yardstick does."""

    def __init__(self, subject: Subject, sizes: Mapping[str, int]) -> None:
        """Try plans for `subject`, whose free dimensions other than the batch have these sizes."""
        self.subject, self._sizes = subject, sizes
        self.sessions = Sessions(subject.model)
        self._nested = Nesting(subject.signature.arguments)

    def call(self, plan: Plan, batch: int) -> Callable[[], Any]:
        """`predict` under a plan, on the standard inputs; it ends when the answer is there."""
        flat: list[Any] = standard_feed(self.subject.signature, batch, self._sizes)
        like, session = self.subject.like, self.sessions.get(plan)
        library = library_of(like)
        if library is not None:
            flat = [library.to_gpu(array, like) for array in flat]
        args, kwargs = self._nested(flat)
        call = partial(self.subject.predict(plan, session), *args, **kwargs)
        if library is None or not isinstance(session, CudaSession):
            return call
        return partial(_finished, call, session, library.callers_stream(like))

    def answer(self, call: Callable[[], Any]) -> list[Any]:
        """The outputs of a call, as arrays of numpy."""
        outputs = self.subject.flatten(call())
        library = library_of(self.subject.like)
        return outputs if library is None else [library.to_host(output) for output in outputs]

    def enter(self, plans: Iterable[Plan], batch: int, rejected: dict[Plan, str]) -> dict[Plan, Entrant]:
        """The plans that answer as the yardstick does, ready to be timed; why not goes into `rejected`."""
        yardstick = self.subject.yardstick
        reference = self.answer(self.call(yardstick, batch))
        entrants: dict[Plan, Entrant] = {}
        for plan in dict.fromkeys((yardstick, *plans)):
            if plan in rejected:
                continue
            try:
                call = self.call(plan, batch)
                fault = difference(reference, self.answer(call), self.subject.model.precision)
            except NncompileError as error:
                fault = error.problem
            if fault is None or plan == yardstick:
                entrants[plan] = Entrant(call, spins=plan.threads > 1 and plan.spinning)
            else:
                rejected[plan] = fault
        return entrants


def _finished(call: Callable[[], Any], session: CudaSession, stream: int) -> Any:
    """What a call returns, when the caller's stream is done with it."""
    result = call()
    session.wait_for(stream)
    return result
