"""`nncompile triton`: what it writes, says and refuses."""

import json

import pytest


@pytest.fixture
def models(folder):
    (folder / "models").mkdir()
    return folder / "models"


def test_a_repository(run, models, exported):
    result = run("triton", exported.model, models, "--device", "cpu", "--threads", 2)
    assert (result.code, result.out) == (0, f"wrote {models / 'small' / '1'}\n")
    assert "Fused regions run on ONNX Runtime's own kernels" in result.err
    assert (models / "small" / "1" / "model.onnx").read_bytes() == exported.model.read_bytes()
    assert (models / "small" / "labels.txt").read_text() == "cat\ndog\neel\n"
    config = (models / "small" / "config.pbtxt").read_text()
    assert 'key: "intra_op_thread_count" value: { string_value: "2" }' in config


def test_as_json(run, models, exported):
    result = run(
        "triton", exported.apart, models, "--name", "net", "--version", 3, "--json", "--device", "cpu"
    )
    assert json.loads(result.out) == {
        "folder": str(models / "net" / "3"),
        "max_batch_size": 64,
        "notes": [],
    }
    assert result.err == ""


def test_what_is_there_stays(run, models, exported):
    assert run("triton", exported.apart, models).code == 0
    again = run("triton", exported.apart, models, "--version", 1)
    assert (again.code, again.out) == (1, "")
    assert "1 exists.\n  fix: " in again.err
    assert run("triton", exported.apart, models, "--version", 1, "--overwrite").code == 0


@pytest.mark.parametrize("wrong", [["--device", "gpu"], ["--version", "0"], ["--threads", "x"]])
def test_wrong_usage(run, models, exported, wrong):
    assert run("triton", exported.model, models, *wrong).code == 2
    assert list(models.iterdir()) == []
