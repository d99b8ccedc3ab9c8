"""nncompile, tuned: `Predictor.predict` with the plans that `Predictor.tune` finds on this machine."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from nncompile.bench.engines import Subject
from nncompile.bench.engines.nncompile import Compiled
from nncompile_runtime import container
from nncompile_runtime.predictor import Predictor, load

NAME = "nncompile-tuned"
SECONDS = 10.0


def tuned(
    subject: Subject,
    device: str,
    *,
    seconds: float | None = None,
    batches: Sequence[int] | None = None,
    like: Any = None,
) -> tuple[Predictor, float, bool]:
    """Tune a copy of the subject's file, once: later calls find it in the subject's folder.

    Args:
        subject: What is benchmarked.
        device: Where to run it.
        seconds: About how long to tune; None takes `SECONDS`.
        batches: Rows to tune at; None takes those of `Predictor.tune`.
        like: See there.

    Returns:
        The predictor, the seconds that tuning took now, and whether the copy is there to be opened again.

    Raises:
        DeviceError: The device cannot be had.
    """
    copy = subject.folder / "tuned.onnx"
    if copy.exists():
        return load(copy, device=device), 0.0, True
    predictor = load(subject.path, device=device)
    start = time.perf_counter()
    predictor.tune(seconds=SECONDS if seconds is None else seconds, batches=batches, like=like)
    taken = time.perf_counter() - start
    keeps_plans = predictor.manifest is not None
    if keeps_plans:
        container.write(copy, predictor.artifact)
    return predictor, taken, keeps_plans


@contextmanager
def opened(subject: Subject) -> Iterator[Compiled]:
    """The engine for a subject."""
    predictor, seconds, again = tuned(subject, "cpu")
    engine = Compiled(predictor, NAME)
    engine.compile_seconds, engine.reopens = seconds, again
    yield engine
