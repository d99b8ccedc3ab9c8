"""nncompile, tuned: `Predictor.predict` with the plans that `Predictor.tune` finds on this machine."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from nncompile.bench.engines import EngineError, Subject
from nncompile.bench.engines.nncompile import Compiled
from nncompile_runtime import container
from nncompile_runtime.predictor import load

NAME = "nncompile-tuned"
SECONDS = 10.0


@contextmanager
def opened(subject: Subject) -> Iterator[Compiled]:
    """The engine for a subject, tuned on a copy of its own, once: the copy is found in the subject's folder.

    Raises:
        EngineError: This version of the runtime cannot tune.
    """
    copy = subject.folder / "tuned.onnx"
    if copy.exists():
        yield Compiled(load(copy, device="cpu"), NAME)
        return
    predictor: Any = load(subject.path, device="cpu")
    if not hasattr(predictor, "tune"):
        raise EngineError("This version of nncompile cannot tune a model: Predictor has no tune().")
    start = time.perf_counter()
    predictor.tune(seconds=SECONDS)
    seconds = time.perf_counter() - start
    keeps_plans = predictor.manifest is not None
    if keeps_plans:
        container.write(copy, predictor.artifact)
        predictor = load(copy, device="cpu")
    engine = Compiled(predictor, NAME)
    engine.compile_seconds, engine.reopens = seconds, keeps_plans
    yield engine
