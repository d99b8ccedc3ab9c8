"""CUDA's libraries are found in any package that Python would import, and torch is not imported for that."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from nncompile_runtime import cuda_libraries

# Those of CUDA 99 are on no machine.
_OF_CUDA = ("libcudart.so.99", "libcublasLt.so.99", "libcublas.so.99", "libcufft.so.98")
# In a process of its own, because what is loaded stays. Only driver and provider are made up.
_PROGRAM = """
import ctypes, json, sys
from types import SimpleNamespace
from nncompile_runtime import cuda

class Driver:
    def cuInit(self, flags): return 0
    def cuDriverGetVersion(self, out): out._obj.value = 99000; return 0
    def cuDeviceGetCount(self, out): out._obj.value = 1; return 0

runtime = SimpleNamespace(get_available_providers=lambda: [cuda.PROVIDER], cuda_version="99.0")
found = cuda.examine(runtime, lambda name: Driver() if name == "libcuda.so.1" else ctypes.CDLL(name))
print(json.dumps([found.libraries, found.fault, found.remedy, "torch" in sys.modules]))
"""
needs_a_compiler = pytest.mark.skipif(not shutil.which("cc"), reason="there is no C compiler")


def place(root: Path, folder_of: Mapping[str, str], *needed: str) -> dict[str, str]:
    """Make libraries, each in its folder, that hold names alone: theirs, and of what they need; the files."""
    files = {name: root / folder / name for name, folder in folder_of.items()}
    options, linked = ("-shared", "-Wl,--no-as-needed"), ("-x", "none", *needed) if needed else ()
    for name, file in files.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            ["cc", *options, f"-Wl,-soname,{name}", "-o", str(file), "-x", "c", os.devnull, *linked],
            check=True,
        )
    return {name: str(file) for name, file in files.items()}


def examined(*entries: Path) -> tuple[dict[str, str | None], str, str]:
    """What is found with further entries before Python's path, by a process that does not import torch."""
    paths = [*map(str, entries), *(os.path.abspath(entry or ".") for entry in sys.path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-c", _PROGRAM]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    libraries, fault, remedy, imported = json.loads(done.stdout)
    assert not imported
    return libraries, fault, remedy


def test_names_are_those_of_the_version() -> None:
    assert set(cuda_libraries.names_of("13.0")) == {
        "libcudart.so.13",
        "libcublas.so.13",
        "libcublasLt.so.13",
        "libcurand.so.10",
        "libcufft.so.12",
        "libcudnn.so.9",
    }


def test_a_library_that_is_here_is_shown_by_its_file() -> None:
    name = "libm.so.6"
    ctypes.CDLL(name)
    files = cuda_libraries._files((name, "libnone.so.1"), ctypes.CDLL)
    assert str(files[name]).endswith(f"/{name}")
    assert files["libnone.so.1"] is None


@needs_a_compiler
def test_packages_of_two_entries_and_of_torch_are_looked_into(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    cudart, of_blas, blas, fft = _OF_CUDA
    curand, cudnn = "libcurand.so.10", "libcudnn.so.9"
    made = place(one, {cudart: "nvidia/cuda_runtime/lib", curand: "nvidia/curand/lib", fft: "torch/lib"})
    made |= place(two, {of_blas: "nvidia/cu99/lib", cudnn: "nvidia/cudnn/lib"})
    made |= place(two, {blas: "nvidia/cu99/lib"}, made[of_blas])
    (one / "torch/__init__.py").write_text("raise RuntimeError('nobody asked for torch')")
    libraries, fault, remedy = examined(one, two)
    assert (fault, remedy) == ("", "")
    for name in _OF_CUDA:
        assert libraries[name] == made[name]
    assert None not in libraries.values()


@needs_a_compiler
def test_what_is_in_no_package_is_named_and_where_was_looked(tmp_path: Path) -> None:
    cudart, of_blas, blas, _ = _OF_CUDA
    place(tmp_path, {cudart: "nvidia/cu99/lib", blas: "elsewhere/cu99/lib"})
    (tmp_path / "nvidia/cu99/lib" / of_blas).write_bytes(b"no library")
    libraries, fault, remedy = examined(tmp_path)
    assert libraries[cudart]
    assert (libraries[of_blas], libraries[blas]) == (None, None)
    assert f"needs {of_blas}, {blas}" in fault
    assert cudart not in fault
    assert str(tmp_path / "nvidia") in fault
    assert "pip install 'onnxruntime-gpu[cuda,cudnn]'" in remedy


def test_a_module_without_a_spec_is_no_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", type(sys)("torch"))
    assert [folder for folder in cuda_libraries.folders() if folder.parent.name == "torch"] == []
