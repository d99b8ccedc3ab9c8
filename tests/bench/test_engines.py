import dataclasses
import sys
from contextlib import ExitStack, contextmanager
from functools import partial

import numpy as np
import onnxruntime
import pytest
import torch

import nncompile
from nncompile.bench.engines import NAMES, EngineError, Subject, nncompile_tuned, open_engine
from nncompile.bench.engines.nncompile import Compiled
from nncompile.bench.engines.onnxruntime import Plain
from nncompile.bench.inputs import make_feed
from nncompile_runtime import NncompileError, Predictor


@pytest.fixture
def subject_of(tmp_path):
    def make(path, module=None, threads=1):
        signature = nncompile.load(path, device="cpu").signature
        return Subject(str(path), signature, module, threads, make_feed(signature, 2), tmp_path)

    return make


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


@contextmanager
def opened(name, subject):
    """The engine, or a skipped test that says why there is none."""
    with ExitStack() as stack:
        try:
            engine = stack.enter_context(open_engine(name, subject))
        except EngineError as error:
            if "cannot be imported" in str(error) or "cannot tune" in str(error):
                pytest.skip(str(error))
            raise
        yield engine


@pytest.fixture(autouse=True)
def short_tuning(monkeypatch):
    monkeypatch.setattr(nncompile_tuned, "SECONDS", 0.2)


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
    assert given == [{"providers": ["CPUExecutionProvider"]}]


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


def test_a_broken_file_leaves_engines_out(lenet, tmp_path, subject_of):
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"nothing")
    subject = dataclasses.replace(subject_of(lenet.path), path=str(broken))
    for name, says in (("onnxruntime", "ONNX Runtime refuses"), ("openvino", "OpenVINO refuses")):
        with pytest.raises(EngineError, match=says), opened(name, subject):
            pass


def test_nncompile_names_what_is_special_about_its_plan(lenet):
    predictor = nncompile.load(lenet.path, device="cpu", plan={"threads": 2, "micro_batch": 4})
    engine = Compiled(predictor)
    kernels = f", {predictor.session.kernels.note}" if predictor.native else ""
    assert engine.description == f"predict, cpu{kernels}, micro_batch=4"
    assert engine.threads == 2


def test_a_module_is_exported_once(lenet, subject_of):
    subject = subject_of(lenet.path, lenet.module)
    with open_engine("onnxruntime", subject) as first, open_engine("onnxruntime", subject) as second:
        assert first.compile_seconds > 0
        assert second.compile_seconds == first.compile_seconds
        assert second.description == first.description
    alone = dataclasses.replace(subject, module=None)
    with open_engine("onnxruntime", alone) as third:
        assert (third.description, third.compile_seconds) == (first.description, 0)


def test_openvino_computes_in_float32_with_the_threads_given(lenet, subject_of):
    subject = subject_of(lenet.path, lenet.module, threads=1)
    with opened("openvino", subject) as engine:
        engine.run(subject.example)
        (request,) = engine._requests.values()
        model = request.get_compiled_model()
        assert model.get_property("INFERENCE_PRECISION_HINT").to_string() == "f32"
        assert model.get_property("INFERENCE_NUM_THREADS") == engine.threads == 1


def test_ncnn_runs_a_batch_alike_in_all_ways(lenet, subject_of):
    subject = subject_of(lenet.path, lenet.module, threads=2)
    with opened("ncnn", subject) as engine:
        arrays = [make_feed(subject.signature, 4, seed=5)["x"]]
        (expected,), *others = [way(arrays) for way in engine.ways()]
        assert expected.shape == (4, 10)
        assert len(others) == 3
        for (got,) in others:
            np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-6)


def test_ncnn_keeps_to_float32_and_the_threads_given(lenet, subject_of):
    with opened("ncnn", subject_of(lenet.path, lenet.module, threads=2)) as engine:
        assert [net.opt.num_threads for net in engine._nets] == [2, 1]
        for net in engine._nets:
            half = [name for name in dir(net.opt) if "fp16" in name or "bf16" in name]
            assert half
            assert not any(getattr(net.opt, name) for name in half)


def test_ncnn_needs_the_module_and_float32(lenet, subject_of, tmp_path):
    with pytest.raises(EngineError, match="pnnx converts none"), opened("ncnn", subject_of(lenet.path)):
        pass
    path = tmp_path / "table.onnx"
    table = torch.nn.Embedding(5, 3)
    nncompile.compile(table, torch.zeros(2, 4, dtype=torch.int64)).save(path)
    with pytest.raises(EngineError, match="ncnn takes float32"), opened("ncnn", subject_of(path, table)):
        pass


def test_ncnn_says_what_pnnx_cannot_convert(lenet, subject_of):
    class Untraceable(torch.nn.Module):
        def forward(self, x):
            raise ValueError("not today")

    with (
        pytest.raises(EngineError, match=r"pnnx cannot convert the module: .*not today"),
        opened("ncnn", subject_of(lenet.path, Untraceable())),
    ):
        pass


def test_without_a_compiler_torch_compile_is_left_out(lenet, subject_of):
    from torch._inductor import config, cpp_builder

    cpp_builder.cpp_compiler_search.cache_clear()
    with (
        config.patch({"cpp.cxx": ("no-such-compiler",)}),
        pytest.raises(EngineError, match=r"needs a C\+\+ compiler.*Install g\+\+"),
        open_engine("torch-compile", subject_of(lenet.path, lenet.module)),
    ):
        pass


def test_no_batch_is_run_uncompiled(lenet, subject_of, monkeypatch):
    from nncompile.bench.engines import torch_compile

    monkeypatch.setattr(torch_compile, "MOST_SHAPES", 1)
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    subject = subject_of(lenet.path, lenet.module)
    with torch_compile.compiled(subject, "torch-compile", "a test", {}) as engine:
        engine.run(make_feed(subject.signature, 2))
        with pytest.raises(Exception, match="recompile_limit"):
            engine.run(make_feed(subject.signature, 3))


def test_without_tuning_the_tuned_engine_is_left_out(lenet, subject_of, monkeypatch):
    monkeypatch.delattr(Predictor, "tune", raising=False)
    with (
        pytest.raises(EngineError, match=r"cannot tune a model: Predictor has no tune\(\)"),
        open_engine("nncompile-tuned", subject_of(lenet.path)),
    ):
        pass


def test_a_copy_of_its_own_is_tuned(lenet, subject_of, monkeypatch):
    tuned = []
    monkeypatch.setattr(Predictor, "tune", lambda self, seconds: tuned.append((self, seconds)), raising=False)
    subject = subject_of(lenet.path)
    with open_engine("nncompile-tuned", subject) as engine:
        ((predictor, seconds),) = tuned
        assert seconds == nncompile_tuned.SECONDS
        assert predictor is not subject.predictor
        assert engine.compile_seconds > 0


def test_a_tuned_model_is_tuned_once(lenet, subject_of, monkeypatch):
    tuned, tune = [], Predictor.tune
    monkeypatch.setattr(Predictor, "tune", lambda self, **options: tuned.append(tune(self, **options)))
    subject = subject_of(lenet.path)
    with open_engine("nncompile-tuned", subject) as first, open_engine("nncompile-tuned", subject) as again:
        assert first.reopens
        assert again.reopens
        assert (first.compile_seconds > 0, again.compile_seconds) == (True, 0)
        assert again.description == first.description
    ((found),) = tuned
    assert nncompile.load(subject.folder / "tuned.onnx", device="cpu").plans == found.plans


def test_a_tuned_file_that_keeps_no_plans_stays_open(lenet, subject_of, tmp_path):
    from nncompile.bench.engines.exporting import export

    compiled = subject_of(lenet.path)
    plain = tmp_path / "plain.onnx"
    plain.write_bytes(export(lenet.module, compiled.signature, compiled.example))
    subject = subject_of(plain)
    with open_engine("nncompile-tuned", subject) as engine:
        assert not engine.reopens
        assert engine.compile_seconds > 0
    assert not (subject.folder / "tuned.onnx").exists()


def test_each_opening_of_nncompile_has_a_session_of_its_own(lenet, subject_of, monkeypatch):
    from nncompile.bench.engines import nncompile as engine

    sessions = []

    class Watched(Compiled):
        def __init__(self, predictor):
            super().__init__(predictor)
            sessions.append(predictor.session)

    monkeypatch.setattr(engine, "Compiled", Watched)
    subject = subject_of(lenet.path)
    with open_engine("nncompile", subject), open_engine("nncompile", subject):
        first, again = sessions
        assert first is not again
        assert first.native is not again.native


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
