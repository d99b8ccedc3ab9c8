import dataclasses
import sys

import numpy as np
import pytest
import torch
from opening import opened

import nncompile
from nncompile.bench.engines import NAMES, EngineError, open_engine
from nncompile.bench.inputs import make_feed
from nncompile_runtime import NncompileError


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


COMPILING = ("torch-compile", "torch-compile-max")
QUICK = tuple(name for name in NAMES if name not in COMPILING)


@pytest.mark.parametrize("name", QUICK)
def test_every_engine_answers_like_eager_on_a_plain_network(lenet, subject_of, name):
    subject = subject_of(lenet.path, lenet.module)
    with opened(name, subject) as engine, open_engine("eager", subject) as eager:
        assert engine.name == name
        for batch in (1, 5):
            feed = make_feed(subject.signature, batch, seed=3)
            (got,), (expected,) = engine.run(feed), eager.run(feed)
            np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def agrees_on_nested(nested, subject_of, name):
    path, module = nested
    subject = subject_of(path, module)
    feed = make_feed(subject.signature, 3, seed=3)
    with opened(name, subject) as engine, open_engine("eager", subject) as eager:
        found, expected = engine.run(feed), eager.run(feed)
    assert [o.shape for o in found] == [(3, 3), (3, 5)]
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", QUICK)
def test_every_engine_answers_like_eager_on_nested_inputs_and_outputs(nested, subject_of, name):
    agrees_on_nested(nested, subject_of, name)


@pytest.mark.slow
@pytest.mark.parametrize("name", COMPILING)
def test_compiled_modules_answer_like_eager_on_nested_inputs_and_outputs(nested, subject_of, name):
    agrees_on_nested(nested, subject_of, name)


def test_eager_gives_back_the_modes_and_the_threads(lenet, subject_of):
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


def test_eager_needs_the_module(lenet, subject_of):
    with (
        pytest.raises(EngineError, match="No module was given"),
        open_engine("eager", subject_of(lenet.path)),
    ):
        pass


def test_a_missing_package_is_named(lenet, monkeypatch, subject_of):
    subject = subject_of(lenet.path)
    monkeypatch.delitem(sys.modules, "nncompile.bench.engines.eager", raising=False)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(EngineError, match=r"torch cannot be imported.*pip install"):
        open_engine("eager", subject)


def test_an_unknown_name_is_refused_with_the_known_ones(lenet, subject_of):
    with pytest.raises(NncompileError, match=r"no engine 'magic'.*onnxruntime"):
        open_engine("magic", subject_of(lenet.path))


def test_openvino_asks_for_the_module_where_it_cannot_read_the_file(lenet, subject_of):
    with (
        pytest.raises(EngineError, match=r"refuses the file's own graph.*Give the module"),
        opened("openvino", subject_of(lenet.path)),
    ):
        pass


def test_a_broken_file_leaves_engines_out(lenet, tmp_path, subject_of):
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"nothing")
    subject = dataclasses.replace(subject_of(lenet.path), path=str(broken))
    for name, says in (("onnxruntime", "ONNX Runtime refuses"), ("openvino", "OpenVINO refuses")):
        with pytest.raises(EngineError, match=says), opened(name, subject):
            pass


def test_openvino_computes_in_float32_with_the_threads_given(lenet, subject_of):
    subject = subject_of(lenet.path, lenet.module, threads=1)
    with opened("openvino", subject) as engine:
        engine.run(subject.example)
        (request,) = engine._requests.values()
        model = request.get_compiled_model()
        assert model.get_property("INFERENCE_PRECISION_HINT").to_string() == "f32"
        assert model.get_property("INFERENCE_NUM_THREADS") == engine.threads == 1


@pytest.mark.parametrize("name", QUICK)
def test_an_engine_that_can_be_opened_again_answers_the_same_then(lenet, subject_of, name):
    subject = subject_of(lenet.path, lenet.module)
    feed = make_feed(subject.signature, 5, seed=3)
    with opened(name, subject) as first:
        reopens = first.reopens
        before = [output.copy() for output in first.run(feed)]
        assert reopens == (name not in ("ncnn", "eager"))
        if reopens:
            with opened(name, subject) as again:
                for a, b in zip(before, again.run(feed), strict=True):
                    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
