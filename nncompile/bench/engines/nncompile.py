"""nncompile: `Predictor.predict` with the plan that it was loaded with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from nncompile.bench.engines import Array, Feed, Subject
from nncompile.calling import Calling
from nncompile_runtime.predictor import Predictor, load


class Compiled:
    """The artifact as a user of the Python API runs it."""

    compile_seconds = 0.0
    reopens = True

    def __init__(self, predictor: Predictor, name: str = "nncompile") -> None:
        """Prepare to call `predictor`."""
        self.name = name
        plan = predictor.plan
        settings = plan.model_dump(exclude_defaults=True, exclude={"threads", "provider", "device_id"})
        special = "".join(f", {key}={value}" for key, value in settings.items())
        kernels = f", {predictor.session.kernels.note}" if predictor.native else ""
        self.description = f"predict, {plan.device}{kernels}{special}"
        self.threads: int | None = plan.threads
        calling = Calling(predictor.signature)
        self._names = calling.names
        self._predict = calling.adapt(predictor.predict, checked=False)

    def run(self, feed: Feed) -> list[Array]:
        """All outputs of `predict`."""
        return self._predict([feed[name] for name in self._names])


@contextmanager
def opened(subject: Subject) -> Iterator[Compiled]:
    """The engine for a subject."""
    yield Compiled(load(subject.path, device="cpu"))
