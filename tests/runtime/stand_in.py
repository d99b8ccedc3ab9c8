"""ONNX Runtime's real CUDA provider in a process of its own, on a CUDA that computes nothing (stand_in.c)."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import onnx

_HERE = Path(__file__).parent
_ROOT = _HERE.parents[1]
# Found by name: the provider opens it only when it is asked for.
_OF_CUDNN = re.compile(rb"\0(cudnn[A-Z]\w+)(?=\0)")
_BEGINNING = """
import json, os, threading
import numpy as np
import onnxruntime
onnxruntime.preload_dlls = lambda *_, **__: None  # NVIDIA's own libraries, if they are installed
import nncompile_runtime as runtime
from nncompile_runtime.errors import NncompileError
from nncompile_runtime.session import onnxruntime as ort
model = os.environ["MODEL"]
CUDA = {"provider": "cuda"}

def load(**plan):
    return runtime.load(model, device="cuda", plan={**CUDA, **plan})

def calls():
    with open(os.environ["STAND_IN_LOG"]) as log:
        return log.read().splitlines()

def say(what):
    print(json.dumps(what), flush=True)
"""


def provider() -> Path | None:
    """The file of the CUDA provider, where the installed ONNX Runtime has it."""
    spec = find_spec("onnxruntime")
    folders = (spec.submodule_search_locations or []) if spec else []
    files = [Path(folder) / "capi" / "libonnxruntime_providers_cuda.so" for folder in folders]
    return next((file for file in files if file.exists()), None)


def can_be_built() -> bool:
    """Whether there are a compiler and a provider to build for."""
    return provider() is not None and bool(shutil.which("cc")) and bool(shutil.which("nm"))


def build(folder: Path, libraries: Sequence[str]) -> None:
    """Make one library under the names of all that the provider needs: what stand_in.c lacks returns 0."""
    file = provider()
    assert file is not None
    listed = _run("nm", "-D", "--undefined-only", str(file)).split()
    wanted = dict(name.partition("@")[::2] for name in listed if re.match("_*cu", name))
    wanted |= dict.fromkeys((name.decode() for name in _OF_CUDNN.findall(file.read_bytes())), "")
    source = (_HERE / "stand_in.c").read_text()
    there = set(re.findall(r"\b(\w+)\(", source))
    rest = "".join(f"int {name}(void) {{ return 0; }}\n" for name in wanted if name not in there)
    (folder / "stand_in.c").write_text(source + rest)
    script = ""
    for version in sorted(set(wanted.values()) - {""}):  # what a library's functions are linked by: its name
        names = "".join(f"{name}; " for name, of in wanted.items() if of == version)
        script += f"{version} {{ {names}}};\n"
    (folder / "versions").write_text(script)
    made = folder / "stand_in.so"
    options = ("-w", "-O1", "-shared", "-fPIC", f"-Wl,--version-script={folder / 'versions'}")
    _run("cc", *options, str(folder / "stand_in.c"), "-o", str(made))
    for name in (*libraries, "libcuda.so.1"):
        (folder / name).symlink_to(made)


@dataclass(frozen=True)
class Told:
    """What a process said.

    Attributes:
        said: What its program gave to `say`.
        calls: What CUDA was asked to do.
    """

    said: list[Any]
    calls: list[str]


def run(library: Path, folder: Path, model: onnx.ModelProto, program: str) -> Told:
    """Run a program after `_BEGINNING`, on a model."""
    file, log = folder / "model.onnx", folder / "log"
    file.write_bytes(model.SerializeToString())
    log.write_text("")
    path = os.pathsep.join([str(_ROOT / "runtime"), *(os.path.abspath(entry or ".") for entry in sys.path)])
    environment = {"LD_LIBRARY_PATH": str(library), "PYTHONPATH": path, "MODEL": str(file)}
    output = _run(
        sys.executable, "-c", _BEGINNING + program, environment={**environment, "STAND_IN_LOG": str(log)}
    )
    return Told([json.loads(line) for line in output.splitlines()], log.read_text().splitlines())


def _run(*command: str, environment: Mapping[str, str] | None = None) -> str:
    done = subprocess.run(
        command, env={**os.environ, **(environment or {})}, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
