import sys
from contextlib import ExitStack

import numpy as np
import onnxruntime
import pytest
import torch

import nncompile
from nncompile.bench.engines import NAMES, EngineError, Subject, open_engine
from nncompile.bench.engines.onnxruntime import Plain
from nncompile.bench.inputs import make_feed
from nncompile_runtime import NncompileError


def subject_of(path, module=None, threads=1):
    predictor = nncompile.load(path, device="cpu")
    signature = predictor.signature
    return Subject(str(path), predictor, signature, module, threads, make_feed(signature, 2))


class Nested(torch.nn.Module):
    """Two inputs, one by keyword only, and a dict of two outputs."""

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(4, 3)

    def forward(self, state, *, scale):
        hidden = self.linear(state["x"]) * scale
        return {"logits": hidden, "extra": [state["y"] + 1]}


@pytest.fixture(scope="module")
def nested(tmp_path_factory):
    module = Nested()
    path = tmp_path_factory.mktemp("nested") / "nested.onnx"
    state = {"x": torch.randn(2, 4), "y": torch.randn(2, 5)}
    nncompile.compile(module, (state,), {"scale": torch.randn(2, 3)}).save(path)
    return path, module


def outputs_of_all(subject, batch):
    feed = make_feed(subject.signature, batch, seed=3)
    with ExitStack() as stack:
        engines = [stack.enter_context(open_engine(name, subject)) for name in NAMES]
        return {engine.name: engine.run(feed) for engine in engines}


@pytest.mark.parametrize("batch", [1, 5])
def test_all_engines_agree_on_a_plain_network(lenet, batch):
    found = outputs_of_all(subject_of(lenet.path, lenet.module), batch)
    assert set(found) == set(NAMES)
    for outputs in found.values():
        np.testing.assert_allclose(outputs[0], found["eager"][0], rtol=1e-4, atol=1e-5)


def test_all_engines_agree_on_nested_inputs_and_outputs(nested):
    path, module = nested
    found = outputs_of_all(subject_of(path, module), 3)
    for outputs in found.values():
        assert [o.shape for o in outputs] == [(3, 3), (3, 5)]
        for got, expected in zip(outputs, found["eager"], strict=True):
            np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def test_eager_gives_back_the_modes_and_the_threads(lenet):
    module = lenet.module.train()
    part = next(m for m in module.modules() if m is not module).eval()
    before = torch.get_num_threads()
    wanted = before + 1
    with open_engine("eager", subject_of(lenet.path, module, threads=wanted)) as engine:
        assert (torch.get_num_threads(), engine.threads) == (wanted, wanted)
        assert not any(m.training for m in module.modules())
    assert torch.get_num_threads() == before
    assert module.training
    assert not part.training


def test_eager_needs_the_module(lenet):
    with (
        pytest.raises(EngineError, match="No module was given"),
        open_engine("eager", subject_of(lenet.path)),
    ):
        pass


def test_a_missing_package_is_named(lenet, monkeypatch):
    subject = subject_of(lenet.path)
    monkeypatch.delitem(sys.modules, "nncompile.bench.engines.eager", raising=False)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(EngineError, match=r"torch cannot be imported.*pip install"):
        open_engine("eager", subject)


def test_an_unknown_name_is_refused_with_the_known_ones(lenet):
    with pytest.raises(NncompileError, match=r"no engine 'magic'.*onnxruntime"):
        open_engine("magic", subject_of(lenet.path))


def test_onnxruntime_says_which_graph_it_runs(lenet):
    with open_engine("onnxruntime", subject_of(lenet.path)) as alone:
        assert "the file's own graph" in alone.description
    with open_engine("onnxruntime", subject_of(lenet.path, lenet.module)) as exported:
        assert "torch.onnx.export's graph" in exported.description
        assert onnxruntime.__version__ in exported.description


def test_onnxruntime_runs_with_default_options(lenet, monkeypatch):
    given = []

    def spy(model, **options):
        given.append(options)
        return onnxruntime_session(model, **options)

    onnxruntime_session = onnxruntime.InferenceSession
    monkeypatch.setattr(onnxruntime, "InferenceSession", spy)
    Plain(str(lenet.path), "a graph", ("x",))
    assert given == [{"providers": ["CPUExecutionProvider"]}]


@pytest.mark.skipif(sys.platform != "linux", reason="threads are counted in /proc")
def test_onnxruntime_counts_its_threads(lenet, monkeypatch):
    subject_of(lenet.path)  # what the first session of a process starts besides is there by now
    monkeypatch.setenv("ORT_INTRA_OP_NUM_THREADS", "3")
    assert Plain(str(lenet.path), "a graph", ("x",)).threads == 3


def test_onnxruntime_feeds_inputs_of_other_names_in_order(lenet):
    engine = Plain(str(lenet.path), "a graph", ("pixels",))
    subject = subject_of(lenet.path)
    (expected,) = subject.predictor.session.run(subject.example)
    (got,) = engine.run({"pixels": subject.example["x"]})
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_a_graph_with_other_inputs_is_no_yardstick(lenet):
    with pytest.raises(ValueError, match="the graph has the inputs"):
        Plain(str(lenet.path), "a graph", ("x", "y"))


def test_a_module_that_cannot_be_exported_leaves_onnxruntime_out(lenet):
    class Unexportable(torch.nn.Module):
        def forward(self, x):
            return x if x.sum().item() > 0 else -x

    with (
        pytest.raises(EngineError, match="exporter fails"),
        open_engine("onnxruntime", subject_of(lenet.path, Unexportable())),
    ):
        pass


def test_a_file_that_onnxruntime_refuses_leaves_it_out(lenet, tmp_path):
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"nothing")
    subject = subject_of(lenet.path)
    with (
        pytest.raises(EngineError, match="ONNX Runtime refuses"),
        open_engine(
            "onnxruntime",
            Subject(str(broken), subject.predictor, subject.signature, None, 1, subject.example),
        ),
    ):
        pass


def test_nncompile_names_what_is_special_about_its_plan(lenet):
    predictor = nncompile.load(lenet.path, device="cpu", plan={"threads": 2, "micro_batch": 4})
    signature = predictor.signature
    subject = Subject(str(lenet.path), predictor, signature, None, 1, make_feed(signature, 2))
    with open_engine("nncompile", subject) as engine:
        kernels = f", {predictor.session.kernels.note}" if predictor.native else ""
        assert engine.description == f"predict, cpu{kernels}, micro_batch=4"
        assert engine.threads == 2
