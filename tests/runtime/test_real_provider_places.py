"""ONNX Runtime's real CUDA provider on two GPUs and in a forked child, on a CUDA that computes nothing."""

from __future__ import annotations

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
