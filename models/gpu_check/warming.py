"""torch.compile's code made beforehand, in a process that can be ended: autotuning may take minutes.

Inductor keeps what it compiled and measured in a folder (`TORCHINDUCTOR_CACHE_DIR`), where the process that
is timed finds it. Without this, a peer that takes too long would end the check with all that it found.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from models.gpu_check.context import Context
from nncompile.bench.cold import compiled_code, measure_cold, write_request
from nncompile.bench.engines import EngineError, Subject
from nncompile.bench.inputs import make_feed
from nncompile_runtime import container

_CACHE = "TORCHINDUCTOR_CACHE_DIR"


@contextmanager
def warmed(
    engine: str, context: Context, name: str, precision: str, batch: int, seconds: float
) -> Iterator[str]:
    """Compile a network for an engine; meanwhile this process finds what that left.

    Args:
        engine: The engine's name.
        context: What is checked.
        name: The network.
        precision: Of its file.
        batch: Rows of the call that is compiled.
        seconds: How long it may take.

    Yields:
        Why the engine cannot be had in this time; empty where it can.

    Raises:
        NotRunError: The network is not there.
    """
    file = context.file(name, precision)
    about = container.read(file).manifest
    assert about is not None
    before = os.environ.get(_CACHE)
    with tempfile.TemporaryDirectory() as folder:
        subject = Subject(
            str(file),
            about.signature,
            context.module(name),
            1,
            make_feed(about.signature, 2),
            Path(folder),
            context.device,
            precision,
        )
        write_request(subject, {"batch": batch, "sizes": {}, "seed": 0})
        os.environ[_CACHE] = str(compiled_code(engine, subject))
        try:
            yield _why_not(engine, subject, seconds)
        finally:
            os.environ.pop(_CACHE)
            os.environ |= {_CACHE: before} if before is not None else {}


def _why_not(engine: str, subject: Subject, seconds: float) -> str:
    try:
        measure_cold(engine, None, subject, patience=seconds)
    except EngineError as error:
        return str(error)
    return ""
