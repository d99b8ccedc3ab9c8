"""`nncompile.compile` from end to end."""

import json
import logging
import pickle
import re
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn

import nncompile
from nncompile import compiler, passes
from nncompile.options import CompileOptions
from nncompile.passes.contract import Pass
from nncompile.report import CompileReport
from nncompile.stages import PassReport, Refusal
from nncompile_runtime.manifest import ImagePreprocessing, Verification
from nncompile_runtime.session import Session

PREPROCESS = ImagePreprocessing(size=(6, 6), mode="L", mean=(0.5,), std=(0.25,))
LABELS = ("zero", "one", "two", "three", "four")


def network():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Dropout(), nn.Flatten(), nn.Linear(48, 5)
    )
    net.train()(torch.randn(64, 1, 6, 6))  # live running statistics
    return net.eval()


@pytest.fixture(scope="module")
def net():
    return network()


@pytest.fixture(scope="module")
def model(net):
    return nncompile.compile(net, torch.randn(1, 1, 6, 6), preprocess=PREPROCESS, labels=LABELS)


@pytest.fixture(scope="module")
def saved(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "net.onnx"
    model.save(path)
    return path


def images(batch):
    return torch.randn(batch, 1, 6, 6, generator=torch.Generator().manual_seed(batch))


def reference(net, x):
    with torch.no_grad():
        return net(x)


@pytest.mark.parametrize("verify", [True, False])
def test_a_graph_is_loaded_once(net, monkeypatch, verify):
    """The session in which it was verified is the one that runs; that without kernels was for comparison."""
    sessions = []
    create = Session.__init__
    monkeypatch.setattr(
        Session, "__init__", lambda self, *args: (sessions.append(self), create(self, *args))[1]
    )
    model = nncompile.compile(net, torch.randn(1, 1, 6, 6), verify=verify)
    assert [session for session in sessions if session.plan.native] == [model.session]
    np.testing.assert_allclose(model(images(3)), reference(net, images(3)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("batch", [0, 1, 2, 5, 300])
def test_answers_as_eager(model, net, batch):
    x = images(batch)
    got = model.predict(x)
    assert isinstance(got, torch.Tensor)
    torch.testing.assert_close(got, reference(net, x), rtol=1e-4, atol=1e-5)
    assert torch.equal(model(x), got)


def test_numpy_in_numpy_out(model):
    x = images(3)
    got = model.predict(x.numpy())
    assert isinstance(got, np.ndarray)
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, model.predict(x).numpy())
    np.testing.assert_array_equal(got, model.predict(input=x.numpy()))


def test_a_saved_model_answers_the_same(model, saved):
    loaded = nncompile.load(saved)
    x = images(4).numpy()
    np.testing.assert_array_equal(loaded.predict(x), model.predict(x))
    assert (loaded.inputs, loaded.outputs) == (model.inputs, model.outputs)
    assert loaded.manifest == model.manifest
    assert loaded.manifest.verification == model.report.verification
    assert saved.stat().st_size == model.report.size


def test_labels_and_preprocessing_survive(saved):
    loaded = nncompile.load(saved)
    assert loaded.labels == LABELS
    assert loaded.manifest.preprocessing == PREPROCESS


def test_a_pickled_model_answers_the_same(model, tmp_path):
    copy = pickle.loads(pickle.dumps(model))
    x = images(2).numpy()
    assert type(copy) is nncompile.CompiledModel
    np.testing.assert_array_equal(copy.predict(x), model.predict(x))
    assert copy.report == model.report
    copy.save(tmp_path / "copy.onnx")
    assert copy.labels == LABELS


def test_the_same_module_gives_the_same_file(net, model, tmp_path):
    nncompile.compile(net, torch.randn(1, 1, 6, 6), preprocess=PREPROCESS, labels=LABELS).save(
        tmp_path / "b.onnx"
    )
    model.save(tmp_path / "a.onnx")
    first, second = ((tmp_path / name).read_bytes() for name in ("a.onnx", "b.onnx"))
    start = first.index(b"nncompile.manifest")
    assert first[:start] == second[: second.index(b"nncompile.manifest")]


def test_nothing_of_this_machine_is_in_the_file(saved):
    data = saved.read_bytes()
    for secret in (__file__, sys.prefix, "site-packages", str(saved.parent)):
        assert secret.encode() not in data


def test_the_graph(saved):
    import onnx

    proto = onnx.load(saved)
    onnx.checker.check_model(proto, full_check=True)
    (region,), (function,) = proto.graph.node, proto.functions
    assert (region.domain, region.op_type) == (function.domain, function.name) == ("nncompile", "FusedRegion")
    operators = [node.op_type for node in function.node]
    assert not {"BatchNormalization", "Dropout", "Identity"} & set(operators)
    assert [operators.count(name) for name in ("Conv", "Relu", "Gemm")] == [1, 1, 1]
    assert {entry.domain for entry in proto.opset_import} == {"", "nncompile"}


def test_the_report(model):
    report = model.report
    assert [entry.name for entry in report.passes] == [s.name for s in passes.selected(CompileOptions())]
    assert {entry.name: entry.changes for entry in report.passes}["fold-batch-norm"] == 1
    assert report.verification.status == "verified"
    assert report.verification.rows_independent
    assert set(report.seconds) == {"capture", "optimise", "verify", "load"}
    assert all(seconds >= 0 for seconds in report.seconds.values())
    assert report.size > 1000


def test_the_report_as_data(model):
    data = json.loads(json.dumps(model.report.as_dict(), allow_nan=False))
    assert set(data) == {"passes", "verification", "seconds", "size", "precision", "exact", "caveats"}
    assert data["verification"]["outputs"][0]["name"] == "output"
    assert data["passes"][0]["name"] == "fold-constants"


def test_the_report_as_text(model):
    text = str(model.report)
    assert re.search(r"^fold-batch-norm +1 changes +\d+ -> \d+ +nodes$", text, re.MULTILINE)
    assert "nothing to do: " in text
    assert "verified against eager PyTorch in float64: 5 inputs, batches 1, 2, 3, 8" in text
    assert "output: largest error " in text
    assert "top-1 agreement 100.0%" in text
    assert "DROPPED" not in text


class ReadTwice(nn.Module):
    """The batch norm cannot be folded: the convolution's result is returned as well."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)

    def forward(self, x):
        y = self.conv(x)
        return self.norm(y), y


@pytest.fixture(scope="module")
def read_twice():
    return nncompile.compile(ReadTwice(), torch.randn(2, 1, 4, 4))


def test_refusals_are_reported(read_twice):
    (report,) = [entry for entry in read_twice.report.passes if entry.name == "fold-batch-norm"]
    assert report.changes == 0
    assert [(r.rule, r.node) for r in report.refusals] == [
        ("FoldBatchNormIntoConv", "norm/BatchNormalization")
    ]
    assert "fold-batch-norm: left norm/BatchNormalization alone: an inner value" in str(read_twice.report)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"target": "x"},
            nncompile.NncompileError,
            "target='x' is not offered. Choose from portable, cpu, cuda.",
        ),
        ({"precision": "int3"}, nncompile.NncompileError, "precision='int3' is not offered"),
        ({"passes": ["fold-everything"]}, nncompile.PassError, "There is no pass 'fold-everything'"),
        ({"disabled_passes": ["fold-everything"]}, nncompile.PassError, "There is no pass 'fold-everything'"),
        ({"labels": [1, 2]}, nncompile.NncompileError, "labels"),
        ({"labels": "cat"}, nncompile.NncompileError, "labels"),
        ({"disabled_passes": "fold-affine"}, nncompile.NncompileError, "'fold-affine' is one string"),
        ({"passes": "fold-affine"}, nncompile.NncompileError, "'fold-affine' is one string"),
        ({"preprocess": {"size": (2, 2)}}, nncompile.NncompileError, "preprocess"),
    ],
)
def test_options_are_checked_before_any_work(net, monkeypatch, options, error, message):
    monkeypatch.setattr(compiler, "capture", lambda *_: pytest.fail("the work was begun"))
    with pytest.raises(error) as caught:
        nncompile.compile(net, torch.randn(2, 1, 6, 6), **options)
    assert message in str(caught.value)


@pytest.fixture(scope="module")
def captured(net):
    return compiler.capture(net, torch.randn(2, 1, 6, 6), None, CompileOptions())


@pytest.fixture
def without_export(net, captured, monkeypatch):
    """Compile `net` without exporting it again."""
    monkeypatch.setattr(compiler, "capture", lambda *_: captured)
    return lambda **options: nncompile.compile(net, None, **options)


def test_without_passes(without_export, net):
    model = without_export(passes=[])
    assert model.report.passes == ()
    assert model.manifest.passes == ()
    assert "BatchNormalization" in model._file.facts.operators
    torch.testing.assert_close(model(images(2)), reference(net, images(2)), rtol=1e-4, atol=1e-5)


def test_disabled_passes(without_export):
    model = without_export(disabled_passes=["fold-batch-norm"])
    assert "fold-batch-norm" not in [record.name for record in model.manifest.passes]
    assert "BatchNormalization" in model._file.facts.operators


def test_without_verification(without_export, net):
    model = without_export(verify=False)
    assert model.report.verification.status == "skipped"
    assert model.manifest.verification.status == "skipped"
    assert str(model.report).endswith("NOT VERIFIED: compiled with verify=False")
    assert "verify" not in model.report.seconds
    torch.testing.assert_close(model(images(2)), reference(net, images(2)), rtol=1e-4, atol=1e-5)


def fails(model):
    raise RuntimeError("clumsy")


def leaves_a_mess(model):
    model.graph.remove(model.graph.node(0))


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("run", [fails, leaves_a_mess])
def test_a_broken_pass_is_left_out_loudly(without_export, net, monkeypatch, caplog, run, verify):
    monkeypatch.setattr(passes, "PIPELINE", (*passes.PIPELINE, Pass("clumsy-pass", "broken", run)))
    model = without_export(verify=verify)
    (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert "'clumsy-pass'" in record.getMessage()
    assert "left out" in record.getMessage()
    assert model.report.verification.dropped_passes == ("clumsy-pass",)
    assert "DROPPED PASS clumsy-pass" in str(model.report)
    assert "clumsy-pass: it changed the answers" not in str(model.report)  # it did not get that far
    torch.testing.assert_close(model(images(2)), reference(net, images(2)), rtol=1e-4, atol=1e-5)


def test_progress_is_shown_on_terminals_only(without_export, capfd):
    without_export(progress=True)
    assert capfd.readouterr() == ("", "")


def test_labels_that_do_not_match_the_classes():
    with pytest.raises(nncompile.NncompileError, match="3 labels are given for 2 classes"):
        nncompile.compile(nn.Linear(4, 2), torch.randn(1, 4), labels=["a", "b", "c"])


def test_inputs_by_name_alone():
    net = nn.Bilinear(2, 3, 4)
    model = nncompile.compile(net, example_kwargs={"input2": torch.randn(2, 3), "input1": torch.randn(2, 2)})
    a, b = torch.randn(5, 2), torch.randn(5, 3)
    torch.testing.assert_close(model(a, b), net(a, b), rtol=1e-5, atol=1e-5)


def test_a_module_that_torch_compile_wrapped():
    net, x = nn.Linear(3, 2), torch.randn(5, 3)
    model = nncompile.compile(torch.compile(net), x[:2])
    assert model.manifest.model_name == "Linear"
    torch.testing.assert_close(model(x), net(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("how", "fits"),
    [
        ({"size": (6, 6), "mode": "L"}, True),
        ({"size": (6, 6), "mode": "RGB"}, False),
        ({"size": (6, 7), "mode": "L"}, False),
        ({"size": (7, 6), "mode": "L"}, False),
    ],
)
def test_images_that_do_not_become_the_input(how, fits):
    net, given = nn.Conv2d(1, 2, 3), nncompile.ImagePreprocessing(**how)
    if fits:
        assert (
            nncompile.compile(net, torch.randn(2, 1, 6, 6), preprocess=given).manifest.preprocessing == given
        )
        return
    with pytest.raises(nncompile.NncompileError, match=r"Images would become .*'input' is float32") as caught:
        nncompile.compile(net, torch.randn(2, 1, 6, 6), preprocess=given)
    assert "mode" in caught.value.remedy


def test_images_for_what_is_no_image():
    how = nncompile.ImagePreprocessing(size=(6, 6))
    with pytest.raises(nncompile.NncompileError, match="Images would become"):
        nncompile.compile(nn.Linear(4, 2), torch.randn(2, 4), preprocess=how)


def test_a_reason_is_given_once():
    reason, other = "an inner value is read elsewhere", "it has no weight"
    refusals = tuple(Refusal("Rule", node, why) for node, why in (("a", reason), ("b", other), ("c", reason)))
    step = PassReport("fold-affine", 0, 3, 3, 0.1, refusals)
    report = CompileReport((step,), Verification(status="skipped"), {}, 1)
    left = [line for line in str(report).splitlines() if "alone" in line]
    assert left == [
        f"  fold-affine: left a and 1 more alone: {reason}",
        f"  fold-affine: left b alone: {other}",
    ]


def test_compiling_in_several_threads():
    """torch.export keeps flags of the process, which two at once would mix up, and leave set."""
    nets = [nn.Linear(4, 2 + i).eval() for i in range(4)]
    x = torch.randn(3, 4)
    with ThreadPoolExecutor(4) as pool:
        for net, model in zip(nets, pool.map(lambda net: nncompile.compile(net, x), nets), strict=True):
            torch.testing.assert_close(model(x), reference(net, x), rtol=1e-4, atol=1e-5)
    assert not torch.compiler.is_exporting()
