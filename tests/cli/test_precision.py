"""--precision and --target, and what inspect and verify say of files made with them."""

import json

import pytest

from nncompile.passes import PIPELINE, fuse_linear_relu
from nncompile.passes.layer_race import Verdict
from nncompile.report import FOREIGN_OPERATORS, caveats
from nncompile_runtime import container
from nncompile_runtime.devices import NVIDIA_DRIVER
from nncompile_runtime.manifest import PassRecord

EXPORT = ("export", "nets.py:Small", "-s", "1x1x8x8")


@pytest.fixture
def half(run, folder, exported):
    result = run(*EXPORT, "-w", exported.weights, "--precision", "float16", "-o", "half.onnx")
    assert result.code == 0
    return "half.onnx"


def test_a_float16_file_is_half_the_size_and_verifies(run, folder, exported, half):
    about = container.read(folder / half).manifest
    assert (about.precision, about.verification.rtol) == ("float16", 1e-2)
    run(*EXPORT, "-w", exported.weights, "-o", "plain.onnx")
    saved = (folder / "plain.onnx").stat().st_size - (folder / half).stat().st_size
    assert saved > 3 * 144 * 2 * 0.9  # most of the weights of the linear layer
    result = run("verify", half, "nets.py:Small", "-w", exported.weights, "--json")
    assert result.code == 0
    assert json.loads(result.out)["rtol"] == 1e-2
    assert json.loads(result.out)["outputs"][0]["eager_max_abs"] > 1e-5


def test_a_float16_file_does_not_verify_with_other_weights(run, half):
    assert "does not answer as the module does" in run("verify", half, "nets.py:Small").err


def test_inspect_captures_a_float16_file_in_float16(run, exported, half):
    result = run("inspect", half, "--module", "nets.py:Small", "-w", exported.weights, "--json")
    assert result.code == 0
    assert json.loads(result.out)["manifest"]["precision"] == "float16"
    shown = run("inspect", half, "--module", "nets.py:Small", "-w", exported.weights, "--passes")
    assert "precision float16" in shown.out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--precision", "tf32"], "tf32: verified in float32"),
        (["--precision", "bfloat16"], "bfloat16: inputs and weights are rounded to it"),
        (["--target", "cuda"], "opens in ONNX Runtime only: com.microsoft.FusedConv"),
    ],
)
def test_what_to_know_about_a_file_is_said_at_export_and_by_inspect(run, options, said):
    result = run(*EXPORT, *options, "-o", "a.onnx")
    assert result.code == 0
    assert said in result.out
    assert said in run("inspect", "a.onnx").out
    report = json.loads(run(*EXPORT, *options, "-o", "a.onnx", "--json").out)
    assert any(said in line for line in report["caveats"])


def test_there_is_nothing_to_know_about_a_plain_file(run):
    report = json.loads(run(*EXPORT, "-o", "a.onnx", "--json").out)
    assert report["caveats"] == []
    assert caveats("float32", [PassRecord(name="fuse-conv-relu", changes=0)]) == []


def test_an_operator_of_two_passes_is_told_once():
    records = [PassRecord(name=name, changes=1) for name in FOREIGN_OPERATORS]
    assert len(records) == 2
    (line,) = caveats("float32", records)
    assert "com.microsoft.FusedConv" in line


def test_every_pass_that_portable_files_do_without_is_known():
    special = {step.name for step in PIPELINE if "portable" not in step.targets}
    assert special == set(FOREIGN_OPERATORS) | {"compute-in-bfloat16"}  # whose operators are ONNX's


@pytest.fixture
def on_gpu(run, folder, exported):
    """A file that computes in bfloat16 on a GPU, exported where there is none."""
    options = ("--precision", "bfloat16", "--target", "cuda", "-o", "gpu.onnx")
    result = run(*EXPORT, "-w", exported.weights, *options)
    assert result.code == 0
    assert "runs on an NVIDIA GPU only" in result.out
    return "gpu.onnx"


def test_a_bfloat16_file_for_a_gpu_is_verified_without_one(run, folder, exported, on_gpu):
    about = container.read(folder / on_gpu).manifest
    assert (about.precision, about.verification.status) == ("bfloat16", "verified")
    assert about.verification.dropped_passes == ()
    assert next(step.changes for step in about.passes if step.name == "compute-in-bfloat16") > 0
    assert run("verify", on_gpu, "nets.py:Small", "-w", exported.weights).code == 0
    assert "does not answer as the module does" in run("verify", on_gpu, "nets.py:Small").err


def test_a_bfloat16_file_for_a_gpu_may_go_unverified(run, folder):
    options = ("--precision", "bfloat16", "--target", "cuda", "--no-verify", "--exact", "-o", "gpu.onnx")
    result = run(*EXPORT, *options)
    assert result.code == 0
    assert "NOT VERIFIED" in result.out
    assert container.read(folder / "gpu.onnx").manifest.verification.status == "skipped"


@pytest.mark.parametrize("command", [["tune"], ["inspect", "--profile"], ["bench"]])
def test_a_bfloat16_file_for_a_gpu_is_refused_on_the_cpu(run, on_gpu, command):
    result = run(command[0], on_gpu, *command[1:])
    assert result.code == 1
    assert "computes in bfloat16, for which ONNX Runtime's CPU has no Conv" in result.err
    assert "device='cuda'" in result.err
    assert "target='portable'" in result.err


def test_a_bfloat16_file_for_a_gpu_can_be_inspected_anywhere(run, on_gpu):
    shown = run("inspect", on_gpu, "--graph").out
    assert "does not run on this machine's CPU" in shown
    assert "runs on an NVIDIA GPU only" in shown
    report = json.loads(run("inspect", on_gpu, "--json").out)
    assert report["plans"] == {}
    assert report["manifest"]["precision"] == "bfloat16"


@pytest.mark.skipif(NVIDIA_DRIVER.exists(), reason="there is a GPU")
def test_verify_runs_the_file_where_it_is_told_to(run, exported, on_gpu):
    result = run("verify", on_gpu, "nets.py:Small", "-w", exported.weights, "--device", "cuda")
    assert result.code == 1
    assert "cuda:0 cannot be had" in result.err
    assert run("verify", on_gpu, "nets.py:Small", "--device", "tpu").code == 1


def test_what_a_layer_gained_is_said_at_export_and_measured_anew_by_inspect(run, folder, monkeypatch):
    code = (
        "from torch import nn\ndef dense(): return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))"
    )
    (folder / "dense.py").write_text(code)
    asked, gain = set(), "FusedConv is 1.50 times as fast"

    def measured(layer, precision, device):
        asked.add(precision)
        return Verdict(True, gain)

    monkeypatch.setattr(fuse_linear_relu, "measured", measured)
    options = ("--target", "cuda", "--precision", "tf32", "-o", "a.onnx")
    result = run("export", "dense.py:dense", "-s", "1x6", *options)
    assert any(line.endswith(f": {gain}") for line in result.out.splitlines())
    assert asked == {"tf32"}
    asked.clear()
    shown = run("inspect", "a.onnx", "--module", "dense.py:dense", "--passes")
    assert "fired: FuseLinearRelu at " in shown.out
    assert gain in " ".join(shown.out.split())
    assert asked == {"tf32"}
