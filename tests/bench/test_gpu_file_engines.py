"""The engines of `--device cuda` that run a file, ONNX Runtime and nncompile, on the CPU."""

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from opening import tensors

import nncompile
from nncompile.bench.engines import (
    EngineError,
    cuda_nncompile,
    cuda_nncompile_tuned,
    cuda_onnxruntime,
    exporting,
    nncompile_tuned,
    on_host,
    open_engine,
)
from nncompile.bench.engines.exporting import PlainGraph
from nncompile.bench.inputs import make_feed
from nncompile_runtime import DeviceError, cuda


def test_onnxruntime_binds_the_same_tensors_once(lenet, subject, monkeypatch):
    """ONNX Runtime's real binding, on its CPU."""
    monkeypatch.setattr(cuda, "PROVIDER", "CPUExecutionProvider")
    engine = cuda_onnxruntime.PlainOnGpu(PlainGraph(str(lenet.path), "a graph", 1.5), ("x",), 0, "float32")
    assert engine.compile_seconds == 1.5
    feed, other = (make_feed(subject.signature, 3, seed=seed) for seed in (3, 4))
    there = {"x": torch.from_numpy(feed["x"]).clone()}
    (expected,) = engine.run(feed)
    np.testing.assert_array_equal(on_host(engine.run(there)[0]), expected)
    bound = engine._binding
    there["x"].copy_(torch.from_numpy(other["x"]))  # read where it lies
    np.testing.assert_array_equal(on_host(engine.run(there)[0]), engine.run(other)[0])
    assert engine._binding is bound
    np.testing.assert_array_equal(on_host(engine.run(tensors(feed))[0]), expected)
    assert engine._binding is not bound


def test_onnxruntime_that_does_not_start_on_the_gpu_is_refused(lenet, monkeypatch):
    monkeypatch.setattr(cuda, "PROVIDER", "SomeExecutionProvider")
    with pytest.raises(DeviceError, match="did not start"):
        cuda_onnxruntime.PlainOnGpu(PlainGraph(str(lenet.path), "a graph", 0.0), ("x",), 0, "float32")


@pytest.mark.parametrize(("precision", "held_to"), [("float32", "tf32"), ("float16", "float16")])
def test_onnxruntimes_defaults_are_held_to_tf32(lenet, monkeypatch, precision, held_to):
    monkeypatch.setattr(cuda, "PROVIDER", "CPUExecutionProvider")
    engine = cuda_onnxruntime.PlainOnGpu(PlainGraph(str(lenet.path), "a graph", 0.0), ("x",), 0, precision)
    assert engine.precision == held_to


def test_a_file_of_float16_is_exported_in_float16(subject, lenet):
    narrow = cuda_onnxruntime.in_precision(dataclasses.replace(subject, precision="float16"))
    assert {p.dtype for p in narrow.module.parameters()} == {torch.float16}
    assert cuda_onnxruntime.in_precision(subject).module is lenet.module


def test_without_what_exports_the_engine_cannot_be_had(subject, monkeypatch):
    """And is one that is absent, not the end of the benchmark."""
    monkeypatch.setattr(cuda, "require", lambda *_: None)
    monkeypatch.setitem(sys.modules, "nncompile.capture.precision", None)
    with (
        pytest.raises(EngineError, match="exporter cannot be had") as caught,
        open_engine("onnxruntime", subject),
    ):
        pass
    assert "nncompile[compile]" in caught.value.remedy


def test_what_was_exported_elsewhere_is_run_without_what_exports(subject, lenet, monkeypatch):
    monkeypatch.setattr(cuda, "require", lambda *_: None)
    monkeypatch.setattr(cuda, "PROVIDER", "CPUExecutionProvider")
    feed = make_feed(subject.signature, 2)
    elsewhere = Path(exporting.plain_graph(dataclasses.replace(subject, folder=lenet.path.parent)).path)
    exporting.leave(elsewhere, subject.folder)
    monkeypatch.setitem(sys.modules, "nncompile.capture.precision", None)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with open_engine("onnxruntime", subject) as engine, torch.no_grad():
        expected = lenet.module.eval()(torch.from_numpy(feed["x"])).numpy()
        np.testing.assert_allclose(engine.run(feed)[0], expected, 1e-4, 1e-5)
        assert "torch.onnx.export's graph" in engine.description


@pytest.fixture
def tunings(monkeypatch):
    """What `tune` is asked for."""
    given = []
    monkeypatch.setattr(nncompile_tuned, "load", lambda path, device: nncompile.load(path, device="cpu"))
    monkeypatch.setattr(nncompile.Predictor, "tune", lambda self, *args, **named: given.append((args, named)))
    return given


@pytest.mark.parametrize(("batches", "seconds", "asked"), [((1, 64), 8.0, (1, 64)), ((), 4.0, None)])
def test_a_gpu_is_tuned_for_the_batches_that_are_measured(subject, tunings, batches, seconds, asked):
    with open_engine("nncompile-tuned", dataclasses.replace(subject, batches=batches)):
        assert tunings == [((), {"seconds": seconds, "batches": asked, "like": None})]


def test_a_gpu_is_tuned_on_tensors_where_those_are_measured(subject, tunings, monkeypatch):
    monkeypatch.setattr(cuda_nncompile_tuned, "gpu_of", lambda subject: torch.device("cpu"))
    with open_engine("nncompile-tuned", dataclasses.replace(subject, transfers="none")):
        ((_, named),) = tunings
    assert isinstance(named["like"], torch.Tensor)


def test_plans_are_looked_for_once(subject, tunings):
    for compiled in (True, False):
        with open_engine("nncompile-tuned", subject) as engine:
            assert (engine.name, engine.reopens) == ("nncompile-tuned", False)
            assert (engine.compile_seconds > 0) is compiled
            engine.run(make_feed(subject.signature, 2))
    assert len(tunings) == 1


def test_nncompile_waits_for_tensors_on_a_gpu(lenet, subject, monkeypatch):
    waited = []
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    engine = cuda_nncompile.CompiledOnGpu(nncompile.load(lenet.path, device="cpu"))
    feed = make_feed(subject.signature, 2)
    (got,) = engine.run(tensors(feed))
    assert isinstance(got, torch.Tensor)
    assert not waited  # nothing is on a GPU here
    there = torch.Tensor.__new__(type("There", (torch.Tensor,), {"is_cuda": True}))
    engine._predict = lambda inputs: [there]
    assert engine.run(feed)[0] is there
    assert len(waited) == 1
