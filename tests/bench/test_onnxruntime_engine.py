import dataclasses
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper
from runtime.graphs import build, spec

from nncompile.bench.engines import EngineError, open_engine
from nncompile.bench.engines.onnxruntime import Plain


def test_onnxruntime_says_which_graph_it_runs(lenet, subject_of):
    with open_engine("onnxruntime", subject_of(lenet.path)) as alone:
        assert "the file's own graph" in alone.description
    with open_engine("onnxruntime", subject_of(lenet.path, lenet.module)) as exported:
        assert "torch.onnx.export's graph" in exported.description
        assert onnxruntime.__version__ in exported.description


def test_onnxruntime_runs_with_default_options(lenet, monkeypatch, subject_of):
    given = []

    def spy(model, **options):
        given.append(options)
        return onnxruntime_session(model, **options)

    onnxruntime_session = onnxruntime.InferenceSession
    monkeypatch.setattr(onnxruntime, "InferenceSession", spy)
    Plain(str(lenet.path), "a graph", ("x",))
    assert given == [{"sess_options": None, "providers": ["CPUExecutionProvider"]}]


def test_what_ends_the_process_is_off_and_said(lenet, tmp_path):
    """GPT in float16: see `ModelFile.harmful_optimizers`."""
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0, 2]),
        helper.make_node("MatMul", ["t", "w"], ["y"]),
    ]
    ports = [spec("x", "batch", 3, 4, dtype="float16")], [spec("y", 3, "batch", 5, dtype="float16")]
    onnx.save(build(nodes, *ports, {"w": np.ones((4, 5), np.float16)}), tmp_path / "net.onnx")
    engine = Plain(str(tmp_path / "net.onnx"), "a graph", ("x",))
    assert "without MatmulTransposeFusion" in engine.description
    (y,) = engine.run({"x": np.ones((2, 3, 4), np.float16)})
    np.testing.assert_array_equal(y, np.full((3, 2, 5), 4, np.float16))
    assert "without" not in Plain(str(lenet.path), "a graph", ("x",)).description


@pytest.mark.skipif(sys.platform != "linux", reason="threads are counted in /proc")
def test_onnxruntime_counts_its_threads(lenet, monkeypatch, subject_of):
    subject_of(lenet.path)  # what the first session of a process starts besides is there by now
    monkeypatch.setenv("ORT_INTRA_OP_NUM_THREADS", "3")
    assert Plain(str(lenet.path), "a graph", ("x",)).threads == 3


def test_onnxruntime_feeds_inputs_of_other_names_in_order(lenet, subject_of):
    engine = Plain(str(lenet.path), "a graph", ("pixels",))
    subject = subject_of(lenet.path)
    (expected,) = subject.predictor.session.run(subject.example)
    (got,) = engine.run({"pixels": subject.example["x"]})
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_a_graph_with_other_inputs_is_no_yardstick(lenet, subject_of):
    with pytest.raises(ValueError, match="the graph has the inputs"):
        Plain(str(lenet.path), "a graph", ("x", "y"))


def test_a_module_that_cannot_be_exported_leaves_onnxruntime_out(lenet, subject_of):
    class Unexportable(torch.nn.Module):
        def forward(self, x):
            return x if x.sum().item() > 0 else -x

    with (
        pytest.raises(EngineError, match="exporter fails"),
        open_engine("onnxruntime", subject_of(lenet.path, Unexportable())),
    ):
        pass


def test_a_module_is_exported_once(lenet, subject_of):
    subject = subject_of(lenet.path, lenet.module)
    with open_engine("onnxruntime", subject) as first, open_engine("onnxruntime", subject) as second:
        assert first.compile_seconds > 0
        assert second.compile_seconds == first.compile_seconds
        assert second.description == first.description
    alone = dataclasses.replace(subject, module=None)
    with open_engine("onnxruntime", alone) as third:
        assert (third.description, third.compile_seconds) == (first.description, 0)
