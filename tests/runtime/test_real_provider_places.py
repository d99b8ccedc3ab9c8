"""ONNX Runtime's real CUDA provider on two GPUs, forked, from packages, on a CUDA that computes nothing."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from . import stand_in
from .test_real_provider import linear


@pytest.mark.parametrize("plan", [{}, {"cuda_graph": True}])
def test_two_models_on_two_gpus_stay_on_theirs(
    cuda_library: Path, tmp_path: Path, plan: dict[str, bool]
) -> None:
    """In one thread, in turn; the thread's own GPU is the same after as before."""
    program = f"""
import ctypes
os.environ["STAND_IN_GPUS"] = "2"
cuda, current = ctypes.CDLL("libcudart.so.13"), ctypes.c_int()
plans = [{{**CUDA, "device_id": number, **{plan}}} for number in (0, 1)]
models = [runtime.load(model, device=f"cuda:{{number}}", plan=plan) for number, plan in enumerate(plans)]
for own in (0, 1):
    cuda.cudaSetDevice(own)
    for predictor in (*models, *models[::-1]):
        before = len(calls())
        predictor(np.ones((2 << own, 4), np.float32))
        cuda.cudaGetDevice(ctypes.byref(current))
        products = {{call for call in calls()[before:] if call.startswith("product")}}
        say([predictor.device, sorted(products), current.value == own])
try:
    runtime.load(model, device="cuda:2")
except NncompileError as error:
    say(str(error))
"""
    *said, refused = stand_in.run(cuda_library, tmp_path, linear(), program).said
    places = {"cuda:0": "product", "cuda:1": "product on 1"}
    for number, (device, products, same) in enumerate(said):
        replayed = bool(plan) and number % 4 >= 2
        assert (products, same) == ([] if replayed else [places[device]], True)
    assert [device for device, *_ in said] == ["cuda:0", "cuda:1", "cuda:1", "cuda:0"] * 2
    assert "cuda:2 cannot be had: the driver shows 2 GPUs. Choose from cuda:0 to cuda:1" in refused


def test_a_forked_child_asks_nothing_of_cuda_and_ends_quietly(cuda_library: Path, tmp_path: Path) -> None:
    program = """
import sys
predictor, x = load(cuda_graph=True), np.ones((2, 4), np.float32)
predictor(x)
before = len(calls())
sys.stdout.flush()
child = os.fork()
if child == 0:
    os.dup2(os.open(os.environ["STAND_IN_LOG"], os.O_WRONLY | os.O_APPEND), 2)  # what is said on stderr
    try:
        predictor(x)
    except NncompileError as error:
        say(str(error))
    del predictor
    sys.exit()
os.waitpid(child, 0)
say(calls()[before:])
"""
    refused, calls = stand_in.run(cuda_library, tmp_path, linear(), program).said
    assert "before this process was forked" in refused
    assert calls == []


def test_libraries_of_another_entry_of_pythons_path_are_enough(
    cuda_library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the system looks are only driver and runtime; the rest is a package, and nobody imports torch."""
    system, package = tmp_path / "system", tmp_path / "entry" / "nvidia" / "cu" / "lib"
    system.mkdir()
    package.mkdir(parents=True)
    for file in cuda_library.glob("*.so.*"):
        if file.name.startswith(("libcuda.", "libcudart.")):
            (system / file.name).symlink_to(cuda_library / "stand_in.so")
            continue
        names = (f"-Wl,-soname,{file.name}", f"-Wl,-rpath,{cuda_library}", "-Wl,--no-as-needed")
        made = ["cc", "-shared", *names, "-o", package / file.name, cuda_library / "stand_in.so"]
        subprocess.run(list(map(str, made)), check=True)
    monkeypatch.syspath_prepend(tmp_path / "entry")
    program = """
import sys
y = load().predict(np.ones((2, 4), np.float32))
say([list(y.shape), "torch" in sys.modules])
"""
    assert stand_in.run(system, tmp_path, linear(), program).said == [[[2, 3], False]]
