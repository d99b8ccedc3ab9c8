import json
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import onnx
import pytest

from nncompile_runtime.cuda import Cuda


def test_inspect_shows_the_signature_and_the_verification(run, exported):
    result = run("inspect", exported.model)
    assert result.code == 0
    for text in ("float32[batch, 1, 8, 8]", "Conv 1", "Gemm 1", "fold-batch-norm 1", "verified", "cat, dog"):
        assert text in result.out


def test_inspect_json(run, exported):
    found = json.loads(run("inspect", exported.model, "--json").out)
    assert found["inputs"] == [{"name": "x", "dtype": "float32", "shape": ["batch", 1, 8, 8]}]
    assert found["operators"]["Conv"] == 1
    assert found["manifest"]["verification"]["batches"] == [1, 2, 3, 8]


def test_inspect_a_file_from_elsewhere(run, folder, exported):
    model = onnx.load(exported.model)
    del model.metadata_props[:]
    onnx.save(model, folder / "plain.onnx")
    result = run("inspect", "plain.onnx")
    assert result.code == 0
    assert "did not write" in result.out


def test_verify_accepts_the_module_it_came_from(run, exported):
    result = run("verify", exported.model, "nets.py:Small", "-w", exported.weights)
    assert result.code == 0
    assert "verified against eager PyTorch" in result.out


def test_verify_refuses_other_weights(run, exported):
    result = run("verify", exported.model, "nets.py:Small")
    assert result.code == 1
    assert "does not answer as the module does" in result.err


@pytest.mark.parametrize("other", ["Pair", "Branching", "factory"])
def test_verify_with_another_class_names_the_files_own(run, exported, other):
    result = run("verify", exported.model, f"nets.py:{other}")
    assert result.code == 1
    named = f"small.onnx was exported from Small, and this is {other}: name Small."
    assert (named in result.err.split("  fix:")[1]) == (other != "factory")


def test_inspect_with_another_class_names_the_files_own(run, exported):
    result = run("inspect", exported.model, "--module", "nets.py:Pair")
    assert result.code == 1
    assert "missing 1 required positional argument" in result.err
    remedy = result.err.split("  fix:")[1]
    assert "small.onnx was exported from Small, and this is Pair: name Small." in remedy


def test_another_class_that_fits_is_shown_but_said(run, exported):
    result = run("inspect", exported.model, "--module", "nets.py:Random")
    assert result.code == 0
    assert result.err.endswith("small.onnx was exported from Small, and this is Random\n")
    same = run("inspect", exported.model, "--module", "nets.py:factory", "--arg", "out=3")
    assert (same.code, same.err) == (0, "")


def test_verify_gives_a_number_its_shape(run, folder):
    np.savez(folder / "inputs.npz", left=np.ones((3, 4), "f4"), right=np.float32(2))
    assert run("export", "nets.py:Pair", "-i", "inputs.npz", "-o", "pair.onnx").code == 0
    result = run("verify", "pair.onnx", "nets.py:Pair")
    assert (result.code, result.err) == (0, "")
    assert "verified against eager PyTorch" in result.out


def test_verify_needs_a_manifest(run, folder, exported):
    model = onnx.load(exported.model)
    del model.metadata_props[:]
    onnx.save(model, folder / "plain.onnx")
    result = run("verify", "plain.onnx", "nets.py:Small")
    assert result.code == 1
    assert "no manifest" in result.err


def test_doctor_is_content_here(run):
    result = run("doctor")
    assert result.code == 0
    assert result.out.startswith("python ")
    assert "ok: models run on this machine" in result.out
    found = json.loads(run("doctor", "--json").out)
    assert "CPUExecutionProvider" in found["providers"]
    assert found["problems"] == []


GPU = Cuda("13.0", "13.2", 2, {"libcublas.so.13": "/lib/libcublas.so.13", "libcudnn.so.9": None}, "", "")
NO_GPU = Cuda("13.0", None, 0, {"libcudnn.so.9": None}, "there is no NVIDIA driver", "Install one.")


def test_doctor_shows_what_there_is_of_cuda(run, monkeypatch):
    monkeypatch.setattr("nncompile.cli.doctor.examine", lambda _: GPU)
    result = run("doctor")
    assert result.code == 0
    rows = [line.split() for line in result.out.splitlines()]
    for row in (
        ["cuda", "provider", "built", "for", "CUDA", "13.0"],
        ["cuda", "driver", "serves", "CUDA", "13.2"],
        ["cuda", "GPUs", "2"],
        ["libcublas.so.13", "/lib/libcublas.so.13"],
        ["libcudnn.so.9", "MISSING"],
    ):
        assert row in rows
    assert "device='cuda' is refused" not in result.out


def test_doctor_says_why_cuda_is_refused_and_what_to_do(run, monkeypatch):
    monkeypatch.setattr("nncompile.cli.doctor.examine", lambda _: NO_GPU)
    found = json.loads(run("doctor", "--json").out)
    assert found["cuda"]["driver"] is None
    assert found["cuda"]["libraries"] == {"libcudnn.so.9": None}
    (note,) = [note for note in found["notes"] if "device='cuda' is refused" in note]
    assert note.endswith("there is no NVIDIA driver. Install one.")
    rows = [line.split() for line in run("doctor").out.splitlines()]
    assert ["cuda", "driver", "none", "found"] in rows


def test_doctor_says_where_a_model_runs(run, monkeypatch, exported):
    def shown(*arguments):
        return " ".join(run("doctor", exported.model, *arguments).out.split())

    assert "nodes CPUExecutionProvider: all" in shown("--device", "cpu")
    placed = {"CUDAExecutionProvider": {"Relu": 1, "Conv": 2}}
    on_gpu = SimpleNamespace(plan=SimpleNamespace(provider="cuda"), session=SimpleNamespace(native=placed))
    monkeypatch.setattr("nncompile_runtime.predictor.load", lambda file, device: on_gpu)
    monkeypatch.setattr("nncompile.cli.doctor.placement", lambda native: native)
    assert json.loads(run("doctor", exported.model, "--json").out)["placement"] == placed
    assert "nodes CUDAExecutionProvider: 2 Conv, 1 Relu" in shown()


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [(["none.onnx"], "none.onnx"), ([None, "--device", "cuda:99"], "cuda:99 cannot be had")],
)
def test_doctor_finds_a_model_that_does_not_run_here(run, exported, arguments, problem):
    result = run("doctor", *(argument or exported.model for argument in arguments))
    assert result.code == 1
    (told,) = [line for line in result.out.splitlines() if line.startswith("PROBLEM")]
    assert problem in told


@pytest.mark.parametrize("path", [None, "/kernels.so"])
def test_doctor_says_in_one_line_whether_native_kernels_run(run, monkeypatch, path):
    package = ModuleType("nncompile_kernels")
    package.library_path = lambda: path
    package.info = lambda: {"version": "9.9", "built": ["avx2"], "used": path and "avx2"}
    monkeypatch.setitem(sys.modules, "nncompile_kernels", package)
    shown = run("doctor")
    assert shown.code == 0
    lines = [line.strip() for line in shown.out.splitlines() if "kernels" in line]
    lines = [line for line in lines if not line.startswith("fingerprint")]
    if path:
        assert [line.split(maxsplit=2) for line in lines] == [
            ["native", "kernels", "nncompile-kernels 9.9 (avx2)"]
        ]
    else:
        why = "nncompile-kernels 9.9 has no kernels for this processor"
        assert [line.split() for line in lines[:1]] == [["native", "kernels", "none"]]
        assert lines[1:] == [f"note: {why}: fused regions run at plain speed"]


@pytest.mark.parametrize("found", [{}, {"onnxruntime": "1.31.1", "onnxruntime-gpu": "1.31.1"}])
def test_doctor_finds_a_missing_or_double_onnxruntime(run, monkeypatch, found):
    from nncompile_runtime import session

    session.onnxruntime.cache_clear()
    monkeypatch.setattr(session, "installed_onnxruntime", lambda: found)
    if not found:
        monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    try:
        result = run("doctor")
    finally:
        session.onnxruntime.cache_clear()
    assert result.code == 1
    assert "PROBLEM" in result.out
    assert "pip install 'nncompile[" in result.out
