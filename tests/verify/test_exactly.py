"""A network that Winograd's algorithm rounds too much runs without it, and keeps its regions."""

import logging

import onnx_ir as ir
import pytest
import torch
from torch import nn

import nncompile
from nncompile import passes
from nncompile.options import CompileOptions
from nncompile.passes.contract import Outcome, Pass
from nncompile_runtime.kernels import installed_library

pytestmark = pytest.mark.skipif(installed_library().path is None, reason=installed_library().note)
REAL = passes.selected(CompileOptions())


class Signs(nn.Module):
    """Sums of 1600 whole numbers, which float32 has exactly in any order, and Winograd's tiles do not."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(64, 64, 5, padding=2, bias=False)
        self.layer.weight.data.sign_()

    def forward(self, x):
        return self.layer(x.sign()).relu()


@pytest.fixture
def warnings(caplog):
    """What was warned of since, as text."""
    caplog.set_level(logging.WARNING, "nncompile")
    return lambda: [record.getMessage() for record in caplog.records]


def exact_everywhere(model):
    report = model.report
    return {model.manifest.exact, model.plan.exact, report.exact, report.as_dict()["exact"]} == {True}


def test_without_winograd_instead_of_without_regions(warnings, tmp_path):
    torch.manual_seed(0)
    net, x = Signs(), torch.randn(3, 64, 12, 12)
    model = nncompile.compile(net, x[:2])
    assert exact_everywhere(model)
    assert model.report.verification.dropped_passes == ()
    assert "the native kernels do without Winograd's algorithm" in str(model.report)
    (said,) = warnings()
    assert "without Winograd's algorithm, as with exact=True. On the" in said
    assert "eager's own float error is 0." in said
    model.save(tmp_path / "signs.onnx")
    for predictor in (model, nncompile.load(tmp_path / "signs.onnx", device="cpu")):
        assert predictor.native
        assert torch.equal(predictor.predict(x), net(x))


def test_a_wrong_pass_beside_it_is_still_found(warnings, monkeypatch):
    """Only on one case: the two faults do not show on the same one first."""

    def add_one_in_a_batch_of_one(graph):
        (y,) = graph.graph.outputs
        rows = ir.node("Shape", graph.graph.inputs, {"start": 0, "end": 1})
        one = ir.node("Constant", [], {"value": ir.tensor([1])})
        alone = ir.node("Equal", [rows.outputs[0], one.outputs[0]])
        added = ir.node("CastLike", [alone.outputs[0], y])
        total = ir.node("Add", [y, added.outputs[0]])
        for node in (rows, one, alone, added, total):
            node.outputs[0].name = f"{node.op_type}_of_one"
        total.outputs[0].type, total.outputs[0].shape = y.type, y.shape
        total.outputs[0].name, y.name = y.name, "before"
        graph.graph.extend([rows, one, alone, added, total])
        graph.graph.outputs[0] = total.outputs[0]
        return Outcome(1)

    wrong = Pass("add-one", "wrong on purpose", add_one_in_a_batch_of_one)
    monkeypatch.setattr(passes, "PIPELINE", (*REAL[:-1], wrong, REAL[-1]))
    torch.manual_seed(0)
    net, x = Signs(), torch.randn(3, 64, 12, 12)
    model = nncompile.compile(net, x[:2])
    assert exact_everywhere(model)
    assert model.report.verification.dropped_passes == ("add-one",)
    assert ["Winograd" in text for text in warnings()] == [True, False]
    assert model.native
    assert torch.equal(model.predict(x[:1]), net(x[:1]))


def test_one_that_is_right_with_winograd_keeps_it(warnings):
    """With the points 0, 1, -1, 2, -2 for 3 x 3 kernels, hardly an initialisation of it was right."""
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1), nn.ReLU()
    model = nncompile.compile(nn.Sequential(*layers), torch.randn(2, 3, 16, 16))
    assert model.native
    assert [model.manifest.exact, model.plan.exact, model.report.exact] == [False] * 3
    assert "Winograd" not in str(model.report)
    assert warnings() == []


@pytest.mark.parametrize("verify", [True, False])
def test_asked_for(warnings, verify):
    model = nncompile.compile(nn.Conv2d(4, 4, 3), torch.randn(2, 4, 8, 8), exact=True, verify=verify)
    assert exact_everywhere(model)
    assert warnings() == []
