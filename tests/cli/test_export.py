import json
import os

import numpy as np
import onnx
import pytest
import torch

import nncompile

SHAPE = ("--input-shape", "1x1x8x8")


def test_export_writes_a_verified_onnx_file(run, folder, exported):
    result = run("export", "nets.py:Small", "-w", exported.weights, *SHAPE, "-o", "small.onnx")
    assert (result.code, result.err) == (0, "")
    assert "fold-batch-norm" in result.out
    assert "verified against eager PyTorch in float64" in result.out
    onnx.checker.check_model(folder / "small.onnx", full_check=True)
    x = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = exported.net(x).numpy()
    got = nncompile.load(folder / "small.onnx").predict(x.numpy())
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def test_export_without_weights_says_so(run):
    result = run("export", "nets.py:factory", *SHAPE, "-o", "small.onnx")
    assert result.code == 0
    assert "no --weights" in result.err


def test_constructor_arguments(run, folder):
    assert run("export", "nets.py:Small", "--arg", "out=7", *SHAPE, "-o", "a.onnx").code == 0
    assert nncompile.load(folder / "a.onnx").outputs[0].shape == ("batch", 7)


def test_json_report_is_all_of_stdout(run):
    result = run("export", "nets.py:Small", *SHAPE, "-o", "a.onnx", "--json")
    report = json.loads(result.out)
    assert report["verification"]["status"] == "verified"
    assert [p["changes"] for p in report["passes"] if p["name"] == "fold-batch-norm"] == [1]


def test_disable_pass_leaves_the_batch_norm(run, folder):
    names = ("--disable-pass", "fold-batch-norm", "--disable-pass", "outline-fused-regions")
    run("export", "nets.py:Small", *SHAPE, "-o", "a.onnx", *names)
    assert "BatchNormalization" in {node.op_type for node in onnx.load(folder / "a.onnx").graph.node}


@pytest.mark.parametrize("exact", [False, True])
def test_exact_is_kept_in_the_file(run, folder, exact):
    options = ("--exact",) if exact else ()
    assert run("export", "nets.py:Small", *SHAPE, "-o", "a.onnx", *options).code == 0
    model = nncompile.load(folder / "a.onnx")
    assert (model.manifest.exact, model.plan.exact) == (exact, exact)


def test_static_keeps_the_batch(run, folder):
    run("export", "nets.py:Small", "--input-shape", "4x1x8x8", "--static", "-o", "a.onnx")
    assert nncompile.load(folder / "a.onnx").inputs[0].shape == (4, 1, 8, 8)


def test_no_verify_is_loud(run):
    result = run("export", "nets.py:Small", *SHAPE, "-o", "a.onnx", "--no-verify")
    assert result.code == 0
    assert "NOT VERIFIED" in result.out
    assert "NOT VERIFIED" in run("inspect", "a.onnx").out


def test_several_inputs_by_name_and_from_a_file(run, folder):
    shapes = ("-s", "left:2x3", "-s", "right:2x3")
    assert run("export", "nets.py:Pair", *shapes, "-o", "a.onnx").code == 0
    np.savez(folder / "example.npz", left=np.ones((2, 3), "f4"), right=np.ones((2, 3), "f4"))
    assert run("export", "nets.py:Pair", "-i", "example.npz", "-o", "b.onnx").code == 0
    model = nncompile.load(folder / "b.onnx")
    x = np.full((1, 3), 2, "f4")
    assert model.predict(left=x, right=x)["sum"].tolist() == [[4, 4, 4]]


def test_labels_and_preprocessing_are_kept(run, folder):
    (folder / "labels.txt").write_text("cat\ndog\neel\n", encoding="utf-8-sig")  # as Windows saves it
    image = ("--image-size", "8x8", "--image-mode", "L", "--mean", "0.5", "--std", "0.25")
    run("export", "nets.py:Small", *SHAPE, "-o", "a.onnx", "--labels", "labels.txt", *image)
    model = nncompile.load(folder / "a.onnx")
    assert model.labels == ("cat", "dog", "eel")
    assert model.manifest.preprocessing.size == (8, 8)


FAILURES = [
    (["nets.py:Smal", *SHAPE], "nets.py has no 'Smal'", "Small"),
    (["nope.py:Small", *SHAPE], "There is no file nope.py", "Check the path"),
    (["nets.py:number", *SHAPE], "is of type int", "Name a class"),
    (["nets.py:Small", "--arg", "depth=2", *SHAPE], "unexpected keyword argument", "--arg"),
    (["nets.py:Small", "-w", "none.safetensors", *SHAPE], "There is no weights file", "--weights"),
    (["nets.py:Small", "-s", "1x1x9x9"], "fails on the example input", "shapes and dtypes"),
    (["nets.py:Small", *SHAPE, "--labels", "none.txt"], "none.txt cannot be read: No such file", "--labels"),
    (["nets.py:Branching", "-s", "2x3"], "nets.py:", "torch.where"),
    (["nets.py:Random", "-s", "2x64"], "draws random numbers", "training=self.training"),
]
IMAGE = ("nets.py:Small", *SHAPE, "--image-size")
WRONG_USAGE = [
    (["nets", *SHAPE], "does not name a module", "path/to/file.py:Class"),
    (["nets.py:Small", "--arg", "depth", *SHAPE], "is not NAME=VALUE", "out=10"),
    (["nets.py:Small"], "example inputs are not given", "--input-shape"),
    (["nets.py:Small", *SHAPE, "-i", "x.npy"], "--input-shape and --input are both given", "--input-shape"),
    (["nets.py:Small", "-s", "1xax8"], "is no shape", "1x3x224x224"),
    (["nets.py:Small", "-s", "1x1x8x8:float7"], "is no dtype", "float32"),
    (["nets.py:Small", *SHAPE, "--disable-pass", "x"], "There is no pass 'x'", "fold-batch-norm"),
    (["nets.py:Small", *SHAPE, "--target", "tpu"], "target='tpu' is not offered", "portable"),
    (["nets.py:Small", *SHAPE, "--precision", "int4"], "precision='int4' is not offered", "float32"),
    (
        ["nets.py:Small", *SHAPE, "--target", "cpu", "--precision", "tf32"],
        "precision='tf32' is not for target='cpu'",
        "precision='float32'",
    ),
    (["nets.py:Small", *SHAPE, "--mean", "0.5"], "without --image-size", "all three"),
    ([*IMAGE, "8"], "--image-size is a height and a width in pixels", "--image-size 224x224"),
    ([*IMAGE, "8x8x8"], "--image-size is a height and a width in pixels", "--image-size 224x224"),
    ([*IMAGE, "8xa"], "--image-size is a height and a width in pixels", "--image-size 224x224"),
    ([*IMAGE, "0x8"], "--image-size is a height and a width in pixels", "--image-size 224x224"),
    ([*IMAGE, "8x8", "--image-mode", "CMYK"], "--image-mode is L or RGB", "--image-mode RGB"),
    ([*IMAGE, "8x8", "--mean", "nan"], "--mean is one number, or one for each channel", "--mean 0.485"),
    ([*IMAGE, "8x8", "--std", "0"], "--std is one number above 0", "--std 0.229"),
    ([*IMAGE, "8x8", "--std", "1,one,1"], "--std is one number above 0", "--std 0.229"),
    ([*IMAGE, "8x8", "--mean", "0,1"], ": mean and std need one value, or 3 for mode RGB.", "--mean 0.485"),
]


@pytest.mark.parametrize(
    ("code", "arguments", "problem", "remedy"),
    [*((1, *row) for row in FAILURES), *((2, *row) for row in WRONG_USAGE)],
)
def test_errors_name_the_remedy_and_write_nothing(run, folder, code, arguments, problem, remedy):
    before = sorted(os.listdir(folder))
    result = run("export", *arguments, "-o", "a.onnx")
    assert result.code == code
    assert problem in result.err.split("  fix:")[0]
    assert remedy in result.err.split("  fix:")[1]
    assert "Traceback" not in result.err
    assert result.out == ""
    assert result.err.startswith("error: ") or code == 1  # before the module is made
    assert sorted(p for p in os.listdir(folder) if p != "__pycache__") == before


@pytest.mark.parametrize("target", ["y.bin", "y", "y.onnx.gz"])
def test_an_output_that_is_not_named_onnx(run, folder, target):
    result = run("export", "nets.py:Small", *SHAPE, "-o", target)
    assert result.code == 2
    assert f"{target} does not end in .onnx" in result.err
    assert ".onnx." in result.err.split("  fix:")[1]
    assert not (folder / target).exists()


def test_weights_saved_from_within_data_parallel(run, folder, exported):
    state = {f"module.{name}": tensor for name, tensor in exported.net.state_dict().items()}
    torch.save({"epoch": 3, "state_dict": state}, folder / "parallel.pt")
    result = run("verify", exported.model, "nets.py:Small", "-w", "parallel.pt")
    assert result.code == 0
    assert "verified against eager PyTorch" in result.out


@pytest.mark.parametrize("target", [".", "missing/a.onnx"])
def test_an_output_that_cannot_be_written_fails_before_the_work(run, monkeypatch, target):
    monkeypatch.setattr("nncompile.cli.export.load_source", lambda *_: pytest.fail("the work was begun"))
    result = run("export", "nets.py:Small", *SHAPE, "-o", target)
    assert result.code == 1
    assert "error: " in result.err


def test_a_failed_export_leaves_the_old_file(run, folder):
    (folder / "a.onnx").write_bytes(b"old")
    assert run("export", "nets.py:Random", "-s", "2x3", "-o", "a.onnx").code == 1
    assert (folder / "a.onnx").read_bytes() == b"old"


def test_an_interrupted_export_leaves_the_old_file_and_exits_130(run, folder, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    (folder / "a.onnx").write_bytes(b"old")
    monkeypatch.setattr("os.replace", interrupt)
    result = run("export", "nets.py:Small", *SHAPE, "-o", "a.onnx")
    assert result.code == 130
    assert result.err.endswith("interrupted; no file was left half-written\n")
    assert (folder / "a.onnx").read_bytes() == b"old"
    assert not list(folder.glob(".*part"))


def test_debug_shows_the_traceback_anywhere_on_the_line(run):
    assert "Traceback" in run("export", "nets.py:Smal", *SHAPE, "-o", "a.onnx", "--debug").err
    assert "Traceback" in run("--debug", "export", "nets.py:Smal", *SHAPE, "-o", "a.onnx").err


@pytest.mark.parametrize("arguments", [["export"], ["export", "--nope"], ["nope"], []])
def test_wrong_usage_exits_2(run, arguments):
    assert run(*arguments).code == 2


def test_help_lists_the_commands(run):
    result = run("--help")
    assert result.code == 0
    assert all(name in result.out for name in ("export", "predict", "bench", "inspect", "verify", "doctor"))


def test_an_internal_error_asks_for_a_report(run, monkeypatch):
    monkeypatch.setattr("nncompile.cli.export.load_source", lambda *_: 1 / 0)
    result = run("export", "nets.py:Small", *SHAPE, "-o", "a.onnx")
    assert result.code == 1
    assert "internal error" in result.err
    assert "--debug" in result.err
