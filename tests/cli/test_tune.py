"""`nncompile tune`, `export --tune`, `compile(tune=True)`: what the file keeps, and what stays as it was."""

import json
import os
import shutil

import numpy as np
import onnx
import pytest
import torch

import nncompile
from nncompile_runtime import container, tuning
from nncompile_runtime.container import MANIFEST_KEY
from nncompile_runtime.machine import this_machine

pytestmark = pytest.mark.usefixtures("without_rest")


@pytest.fixture
def small(folder, exported):
    """A copy of the exported file that may be changed."""
    return shutil.copy(exported.model, folder / "small.onnx")


def model_bytes(path):
    """What comes before our entries: the manifest's key stands a few bytes behind its beginning."""
    data = path.read_bytes()
    model = onnx.load_model_from_string(data)
    del model.metadata_props[:]
    return model.SerializeToString(deterministic=True), data[: data.index(MANIFEST_KEY) - 16]


def test_the_file_keeps_the_plans_and_the_model_stays(run, small):
    x = np.random.default_rng(0).standard_normal((9, 1, 8, 8), np.float32)
    before, answers = model_bytes(small), nncompile.load(small, device="cpu")(x)
    small.chmod(0o640)
    done = run("tune", small, "--seconds", "0.1", "--batches", "1,4")
    assert done.code == 0, done.err
    for part in ("batch 1\n", "batch 4\n", "(yardstick)", "chosen", "from batch 1 on: cpu", f"wrote {small}"):
        assert part in done.out
    assert model_bytes(small) == before
    assert small.stat().st_mode & 0o777 == 0o640
    onnx.checker.check_model(onnx.load(small))
    tuned = nncompile.load(small, device="cpu")
    assert list(tuned.manifest.plans) == [this_machine().fingerprint]
    assert (
        tuned.plans[1].model_dump(exclude_defaults=True)
        == tuned.manifest.plans[this_machine().fingerprint]["1"]
    )
    np.testing.assert_allclose(tuned(x), answers, rtol=1e-5, atol=1e-6)


def test_json_says_what_was_tried(run, small):
    done = run("tune", small, "--seconds", "0.1", "-b", "4", "--json")
    assert done.code == 0, done.err
    told = json.loads(done.out)
    loaded = nncompile.load(small, device="cpu")
    assert told["plans"] == {str(start): plan.model_dump() for start, plan in loaded.plans.items()}
    assert json.loads(run("inspect", small, "--json").out)["plans"] == told["plans"]
    (regime,) = told["regimes"]
    assert (regime["batch"], told["left_out"]) == (4, [])
    assert regime["tried"][0]["plan"]["native"] is False
    assert [one["plan"] for one in regime["tried"] if one["outcome"] == "chosen"] == [regime["chosen"]]
    assert all(one["p50_us"] > 0 and one["ratio"]["low"] <= one["ratio"]["high"] for one in regime["tried"])


@pytest.mark.parametrize(
    ("error", "code"), [(KeyboardInterrupt, 130), (nncompile.InputError("It broke.", remedy=""), 1)]
)
def test_an_interruption_leaves_the_file_as_it_was(run, small, monkeypatch, error, code):
    before = small.read_bytes()

    def stop(*args, **kwargs):
        raise error

    monkeypatch.setattr(tuning, "_between", stop)
    result = run("tune", small, "--seconds", "0.05", "-b", "1")
    assert result.code == code
    assert ("interrupted; no file was left half-written" in result.err) == (code == 130)
    assert small.read_bytes() == before
    assert [path.name for path in small.parent.iterdir() if path.name.startswith(".nncompile")] == []


def test_a_file_that_was_replaced_meanwhile_stays(run, small, exported, monkeypatch):
    between = tuning._between

    def replaced(*args):
        shutil.copy(exported.apart, small)
        return between(*args)

    monkeypatch.setattr(tuning, "_between", replaced)
    result = run("tune", small, "--seconds", "0.05", "-b", "1")
    assert result.code == 1
    assert "was changed while it was tuned; nothing was written." in result.err
    assert small.read_bytes() == exported.apart.read_bytes()


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--seconds", "0"], "--seconds"),
        (["--seconds", "nan"], "--seconds"),
        (["--batches", "0"], "--batches"),
        (["--batches", "1,a"], "--batches"),
        (["--size", "tokens"], "--size"),
        (["--size", "=3"], "--size"),
        (["--size", "tokens=0"], "--size"),
    ],
)
def test_wrong_usage(run, small, options, word):
    done = run("tune", small, *options)
    assert done.code == 2
    assert word in done.err
    assert "fix:" in done.err


def test_a_file_without_a_manifest_is_refused_and_stays(run, small):
    model = onnx.load(small)
    del model.metadata_props[:]
    onnx.save(model, small)
    before = small.read_bytes()
    done = run("tune", small, "--seconds", "0.05")
    assert done.code == 1
    assert "no manifest" in done.err
    assert small.read_bytes() == before


def test_a_damaged_file_is_refused_before_anything_is_measured(run, small):
    data = bytearray(small.read_bytes())
    data[100] ^= 1
    small.write_bytes(data)
    done = run("tune", small)
    assert done.code == 1
    assert "changed since it was written" in done.err
    assert small.read_bytes() == bytes(data)


def tuned_quickly(monkeypatch):
    """Tuning as asked for, in little time."""
    original = nncompile.Predictor.tune
    monkeypatch.setattr(
        nncompile.Predictor,
        "tune",
        lambda self, *args, **kwargs: original(self, 0.05, batches=(1, 4), **kwargs),
    )


def test_export_can_tune(run, folder, monkeypatch):
    tuned_quickly(monkeypatch)
    for options, kept in ([], []), (["--tune"], [this_machine().fingerprint]):
        done = run("export", "nets.py:Small", "-s", "1x1x8x8", "-o", "net.onnx", *options)
        assert done.code == 0, done.err
        assert list(container.read(folder / "net.onnx").manifest.plans) == kept


def test_compile_can_tune_and_save_keeps_it(folder, monkeypatch):
    tuned_quickly(monkeypatch)
    model = nncompile.compile(torch.nn.Linear(4, 3), torch.zeros(2, 4), tune=True)
    assert "tune" in model.report.seconds
    model.save(folder / "net.onnx")
    assert dict(nncompile.load(folder / "net.onnx", device="cpu").plans) == dict(model.plans)


def test_a_size_of_nothing(run, small):
    before = small.read_bytes()
    result = run("tune", small, "--seconds", "0.1", "--size", "tokens=3")
    assert result.code == 1
    assert "'tokens', which is no free dimension" in result.err
    assert small.read_bytes() == before


def test_the_folder_is_looked_at_before_measuring(run, small, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode, **_: mode != os.W_OK)  # root may write everywhere
    monkeypatch.setattr(nncompile.Predictor, "tune", lambda *_, **__: pytest.fail("it was measured"))
    result = run("tune", small)
    assert result.code == 1
    assert f"The folder {small.parent} is not writable" in result.err
    assert "Copy the file" in result.err


@pytest.mark.parametrize("options", [("none",), ("in-out",), ("some", "--device", "cuda")])
def test_what_is_counted_is_a_question_on_a_gpu_alone(run, small, options):
    result = run("tune", small, "--transfers", *options)
    assert result.code == 2
    assert "is in-out or none, for a GPU" in result.err
