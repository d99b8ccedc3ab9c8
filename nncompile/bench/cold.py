"""What an engine costs before it is warm: loading, the first call, memory. Each in a fresh process.

`python -m nncompile.bench.cold ENGINE FOLDER` is that process; it prints JSON. The folder holds what the
benchmark's own engines made of the module, so that an exporter neither takes time nor memory here.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from nncompile.bench.apart import apart
from nncompile.bench.engines import EngineError, Feed, Subject, first_line, open_engine
from nncompile.bench.gpu_memory import GpuMemory
from nncompile.bench.inputs import make_feed
from nncompile.bench.results import Cold
from nncompile_runtime.manifest import Signature

_REQUEST, _MODULE = "cold.json", "module.pt"
_RUN_THE_FILE = ("nncompile", "nncompile-tuned", "onnxruntime", "openvino", "ncnn")
_PATIENCE = 600  # seconds


def write_request(subject: Subject, feed_of: Mapping[str, Any]) -> None:
    """Leave in the subject's folder what the processes need.

    Args:
        subject: What is benchmarked.
        feed_of: The arguments of `make_feed` but for the signature.
    """
    request = {
        "path": os.path.abspath(subject.path),
        "signature": subject.signature.model_dump_json(),
        "threads": subject.threads,
        "device": subject.device,
        "precision": subject.precision,
        "feed": dict(feed_of),
        "problem": _save_module(subject),
    }
    (subject.folder / _REQUEST).write_text(json.dumps(request), encoding="utf-8")


def measure_cold(
    name: str, compile_seconds: float | None, subject: Subject, patience: float = _PATIENCE
) -> Cold:
    """Start an engine in a process of its own.

    Args:
        name: The engine's.
        compile_seconds: How long making its files took before; None where that is not known.
        subject: What is benchmarked, after `write_request`.
        patience: Seconds after which the process is ended, with the compilers that it may have started.

    Raises:
        EngineError: The process fails; the message says how.
    """
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(entry or os.getcwd() for entry in sys.path),
        "TORCHINDUCTOR_CACHE_DIR": str(compiled_code(name, subject.folder)),
    }
    command = [sys.executable, "-m", __name__, name, str(subject.folder)]
    try:
        with apart(
            command, environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            printed, errors = process.communicate(timeout=patience)
    except subprocess.TimeoutExpired as error:
        raise EngineError(f"A fresh process with it takes longer than {patience:.0f} s.") from error
    if process.returncode:
        last = (errors.strip().splitlines() or [f"exit code {process.returncode}"])[-1]
        raise EngineError(f"A fresh process with it fails: {last[:400]}")
    cold = Cold(**json.loads(printed.splitlines()[-1]))
    return replace(cold, compile_seconds=cold.compile_seconds or compile_seconds)


def compiled_code(name: str, folder: Path) -> Path:
    """Where the process of an engine leaves what torch.compile made and measured, in a subject's folder."""
    return folder / f"inductor-{name}"


def start(name: str, folder: Path) -> Cold:
    """Open an engine and call it once, in this process.

    Raises:
        EngineError: It cannot be had here.
    """
    request = json.loads((folder / _REQUEST).read_text(encoding="utf-8"))
    signature = Signature.model_validate_json(request["signature"])
    feed: Feed = make_feed(signature, **request["feed"])
    device = request["device"]
    gpu = None if device == "cpu" else GpuMemory(int(device.partition(":")[2] or 0))
    before = gpu.used() if gpu else 0
    begin = time.perf_counter()
    module = None if name in _RUN_THE_FILE else _load_module(folder, request["problem"])
    subject = Subject(
        request["path"], signature, module, request["threads"], feed, folder, device, request["precision"]
    )
    with open_engine(name, subject) as engine:
        load_seconds = time.perf_counter() - begin - engine.compile_seconds
        compiled_before, begin = engine.compile_seconds, time.perf_counter()
        engine.run(feed)
        first = time.perf_counter() - begin - (engine.compile_seconds - compiled_before)
        batch = request["feed"]["batch"]
        taken = (gpu.used() - before) / 2**20 if gpu else None
        return Cold(name, batch, engine.compile_seconds, load_seconds, first, _peak_mib(), taken)


def _save_module(subject: Subject) -> str:
    """Why the module is not there for other processes; empty where it is."""
    if subject.module is None:
        return "No module was given."
    import torch

    try:
        torch.save(subject.module, subject.folder / _MODULE)
    except Exception as error:
        return f"The module cannot be pickled: {first_line(error)}"
    return ""


def _load_module(folder: Path, problem: str) -> Any:
    if problem:
        raise EngineError(problem)
    import torch

    return torch.load(folder / _MODULE, weights_only=False)  # this benchmark wrote it


def _peak_mib() -> float:
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
    # Not ru_maxrss: on Linux it starts from what the parent held when it started this process.
    return int(status.partition("VmHWM:")[2].split()[0]) / 2**10


if __name__ == "__main__":
    try:
        sys.stdout.write(json.dumps(asdict(start(sys.argv[1], Path(sys.argv[2])))) + "\n")
    except Exception as failure:
        sys.exit(first_line(failure))
