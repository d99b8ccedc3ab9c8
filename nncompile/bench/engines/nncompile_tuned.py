"""nncompile, tuned: `Predictor.predict` with the plans that `Predictor.tune` finds on this machine."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from nncompile.bench.engines import EngineError, Subject
from nncompile.bench.engines.nncompile import Compiled
from nncompile_runtime.predictor import load

SECONDS = 10.0


@contextmanager
def opened(subject: Subject) -> Iterator[Compiled]:
    """The engine for a subject, tuned on a copy of its own.

    Raises:
        EngineError: This version of the runtime cannot tune.
    """
    predictor: Any = load(subject.path, device="cpu")
    if not hasattr(predictor, "tune"):
        raise EngineError("This version of nncompile cannot tune a model: Predictor has no tune().")
    start = time.perf_counter()
    predictor.tune(seconds=SECONDS)
    engine = Compiled(predictor, "nncompile-tuned")
    engine.compile_seconds = time.perf_counter() - start
    yield engine
