"""What torch.compile makes for the engines that are compared, made before the checks begin.

Autotuning may take minutes, and it measures, so that nothing else may run beside it. Inductor keeps what it
compiled and measured in a folder (`TORCHINDUCTOR_CACHE_DIR`), where the process that is timed finds it. It
runs in a process that can be ended: an engine that takes too long is left out, with the reason.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from models.gpu_check.context import Context
from models.gpu_check.record import OF_PEERS, Record, this_maker
from models.gpu_check.table import Finding, NotRunError
from nncompile.bench.cold import compiled_code, measure_cold, write_request
from nncompile.bench.engines import EngineError, Subject
from nncompile.bench.inputs import make_feed
from nncompile_runtime import container

_CACHE = "TORCHINDUCTOR_CACHE_DIR"


@dataclass(frozen=True)
class Peer:
    """An engine that compiles a network's module.

    Attributes:
        engine: Its name.
        network: The network's.
        precision: Of the network's file.
        batch: Rows of the call that is compiled.
        seconds: How long that may take.
    """

    engine: str
    network: str
    precision: str
    batch: int
    seconds: float

    @property
    def what(self) -> str:
        """Its name in a record."""
        return f"{self.network}, {self.precision}, batch {self.batch}: {self.engine}"


REDUCE_OVERHEAD, MAX_AUTOTUNE = "torch-compile-reduce-overhead", "torch-compile-max-autotune"
PEERS = (
    *(Peer(REDUCE_OVERHEAD, name, "float32", 1, 120.0) for name in ("lenet5", "net", "mlp")),
    Peer(MAX_AUTOTUNE, "resnet18", "float16", 256, 300.0),
)


def warm(context: Context) -> Iterator[Finding]:
    """Compile for each engine what is not there yet, one after the other; the record lies beside it.

    `passed` where the engine can be had, else `not run` with the reason.
    """
    assert context.peers is not None
    folder = context.peers.absolute()  # which another process reads
    maker, record = this_maker(OF_PEERS), Record.read(folder)
    if record is None or record.maker != maker:
        for peer in PEERS:
            shutil.rmtree(compiled_code(peer.engine, folder), ignore_errors=True)
        record = Record(maker)
    folder.mkdir(parents=True, exist_ok=True)
    for peer in PEERS:
        if peer.network not in context.networks or peer.precision not in context.precisions:
            continue
        known = record.found.get(peer.what)
        if known is not None and known.verdict == "passed":
            yield Finding(peer.what, "passed", "was there")
            continue
        start = time.perf_counter()
        why = _why_not(context, folder, peer)
        said = why or f"compiled in {time.perf_counter() - start:.1f} s"
        record.found[peer.what] = Finding(peer.what, "not run" if why else "passed", said)
        record.write(folder)
        yield record.found[peer.what]


@contextmanager
def warmed(context: Context, engine: str) -> Iterator[dict[str, str]]:
    """Meanwhile this process finds what was made for an engine.

    Yields:
        Network -> why the engine cannot be had for it, where it cannot.
    """
    folder = context.peers
    record = Record.read(folder) if folder is not None else None
    if folder is None or record is None:
        yield {}
        return
    found = {peer.network: record.found.get(peer.what) for peer in PEERS if peer.engine == engine}
    before = os.environ.get(_CACHE)
    os.environ[_CACHE] = str(compiled_code(engine, folder.absolute()))
    try:
        yield {name: known.said for name, known in found.items() if known and known.verdict != "passed"}
    finally:
        os.environ.pop(_CACHE)
        os.environ |= {_CACHE: before} if before is not None else {}


def _why_not(context: Context, folder: Path, peer: Peer) -> str:
    """Why an engine cannot be had for a network in its time; empty where it can."""
    try:
        file, module = context.file(peer.network, peer.precision), context.module(peer.network)
        about = container.read(file).manifest
        assert about is not None
        example = make_feed(about.signature, 2)
        place = context.device, peer.precision
        subject = Subject(str(file), about.signature, module, 1, example, folder, *place)
        write_request(subject, {"batch": peer.batch, "sizes": {}, "seed": 0})
        measure_cold(peer.engine, None, subject, patience=peer.seconds)
    except (NotRunError, EngineError) as error:
        return str(error)
    except Exception as error:  # which is one peer's, and not the end of all checks
        return f"{type(error).__name__}: {error}"
    return ""
