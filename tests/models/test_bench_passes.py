"""The ablation, on networks and schedules that take no time."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from models import _variants, bench_passes
from models.bench_passes import ALL, Ablation, ablate, page, sample_shape, table
from models.zoo import ZOO, Entry
from nncompile import passes
from nncompile.bench import sampling
from nncompile.bench.timing import Schedule
from nncompile.options import CompileOptions
from nncompile.passes.contract import Outcome, Pass
from nncompile_runtime.bootstrap import Estimate

INSTANT = Schedule(rounds=2, seconds=0.004, warmup=0.001, pause=0.0)


class Tiny(nn.Module):
    """Something for the batch norm pass, nothing for the pass that joins MatMul and Add."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 2, 3, bias=False), nn.BatchNorm2d(2)

    def forward(self, x):
        return self.norm(self.conv(x)).relu()


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr(bench_passes, "NETWORKS", {"tiny": Entry(Tiny, (1, 8, 8)), **ZOO})


def invoke(*args):
    return CliRunner().invoke(bench_passes.app, [*args, "--seconds", "0.004", "--rounds", "2"])


@pytest.mark.usefixtures("tiny")
def test_only_passes_that_change_something_are_left_out():
    found = ablate("tiny", 3, INSTANT)
    changing = {name for name, changes in found.changes.items() if changes}
    assert set(found.changes) == {step.name for step in passes.selected(CompileOptions())}
    assert "fold-batch-norm" in changing
    assert "matmul-add-to-gemm" not in changing
    assert set(found.ratios) == {ALL, *changing}
    assert set(found.gains) == changing
    assert found.rejected == {}
    assert (found.batch, found.shape) == (3, (1, 8, 8))
    assert all(0 < ratio.low <= ratio.value <= ratio.high for ratio in found.ratios.values())


@pytest.mark.usefixtures("tiny")
def test_each_variant_runs_without_its_pass(monkeypatch):
    """What is timed: the feed of the right batch, and graphs that keep what the missing pass removes."""
    timed = {}
    times = {"onnxruntime": 12, ALL: 4}

    def measured(calls, schedule, rounds, on_block):
        timed.update(calls)
        return {name: (np.array([times.get(name, 6)]),) * len(rounds) for name in calls}

    made = []

    def compiled(captured, skip=frozenset()):
        data, changes = whole_compiled(captured, skip)
        made.append((skip, changes))
        return data, changes

    whole_compiled = bench_passes.compiled
    monkeypatch.setattr(bench_passes, "compiled", compiled)
    monkeypatch.setattr(sampling, "measure", measured)
    found = ablate("tiny", 5, INSTANT)
    for skip, changes in made:
        assert changes.keys() == found.changes.keys() - skip
    assert list(timed)[:2] == ["onnxruntime", ALL]
    assert "fold-batch-norm" in timed
    assert [outputs[0].shape for outputs in (call() for call in timed.values())] == [(5, 2, 6, 6)] * len(
        timed
    )
    assert found.ratios.pop(ALL).value == 3
    assert {ratio.value for ratio in found.ratios.values()} == {2.0}
    assert {gain.value for gain in found.gains.values()} == {1.5}


@pytest.mark.usefixtures("tiny")
def test_a_variant_with_wrong_answers_is_not_timed(monkeypatch):
    """Were it only right thanks to a later pass: without that one it is rejected, and said to be."""

    def shift(model, by):
        weight = next(iter(model.graph.initializers.values()))
        weight.const_value = bench_passes_tensor(weight.const_value.numpy() + np.float32(by))
        return Outcome(1)

    def bench_passes_tensor(array):
        import onnx_ir as ir

        return ir.tensor(array.astype(np.float32))

    there = Pass("there", "a shift", lambda model: shift(model, 1))
    back = Pass("back", "the shift back", lambda model: shift(model, -1))
    monkeypatch.setattr(passes, "PIPELINE", (there, back))
    found = ablate("tiny", 1, INSTANT)
    assert set(found.ratios) == {ALL}
    assert found.rejected.keys() == {"there", "back"}
    text = page([found], {}, INSTANT)
    assert "Warning" not in text
    assert "the load average was 9999.0" in page([found], {}, INSTANT, load=9999.0)
    assert "| rejected | rejected |" in text
    assert "- tiny, batch 1, without there: it disagrees with onnxruntime" in text


def test_batch_norms_have_live_statistics():
    norm = nn.BatchNorm2d(8)
    _variants._with_live_statistics(nn.Sequential(norm))
    assert norm.running_mean.abs().min() > 0
    assert (norm.running_var != 1).all()


@pytest.mark.parametrize(
    ("name", "batch", "shape"),
    [("resnet18", 1, (3, 224, 224)), ("se-resnet18", 64, (3, 64, 64)), ("lenet5", 64, (1, 32, 32))],
)
def test_sample_shapes(name, batch, shape):
    assert sample_shape(name, batch) == shape


def test_every_network_is_in_the_table_of_networks():
    assert set(bench_passes.NETWORKS) == {*ZOO, "resnet18", "mobilenetv2", "se-resnet18"}
    x = torch.zeros(1, 3, 64, 64)
    for entry in bench_passes.LARGER.values():
        assert entry.build().eval()(x).shape == (1, 1000)


def test_cells(monkeypatch):
    steps = tuple(
        Pass(name, "does something", None) for name in ("same", "matters", "hurts", "noise", "wrong")
    )
    monkeypatch.setattr(passes, "PIPELINE", steps)
    found = Ablation(
        "net",
        64,
        (1, 28, 28),
        {"same": 0, "matters": 1, "hurts": 2, "noise": 1, "wrong": 1},
        ratios={
            ALL: Estimate(1.5, 1.4, 1.6),
            "matters": Estimate(1.2, 1.1, 1.3),
            "hurts": Estimate(1.7, 1.6, 1.8),
            "noise": Estimate(1.49, 1.4, 1.6),
        },
        gains={
            "matters": Estimate(1.25, 1.2, 1.3),
            "hurts": Estimate(0.9, 0.8, 0.95),
            "noise": Estimate(1.01, 0.9, 1.1),
        },
        rejected={"wrong": "fails: oh"},
    )
    row = table([found]).splitlines()[-1]
    assert row == "| net | 1x28x28 | 64 | 1.50 [1.40, 1.60] | 1.20* | 1.70* | 1.49 | rejected |"
    assert "| rejected |" in table([dataclasses.replace(found, rejected={ALL: "fails: oh"}, ratios={})])


@pytest.mark.usefixtures("tiny")
def test_the_command_writes_a_page_and_says_how_far_it_is(tmp_path):
    target = tmp_path / "passes.md"
    result = invoke("--networks", "tiny", "--batches", "1,2", "-o", str(target))
    assert result.exit_code == 0, result.output
    assert result.stdout == ""
    assert result.stderr.splitlines() == ["1/1 tiny, batch 1 ...", "1/1 tiny, batch 2 ..."]
    text = target.read_text()
    assert text.count("| tiny | 1x8x8 |") == 2
    assert all(f"| {step.name} | {step.summary} |" in text for step in passes.PIPELINE)
    assert "Machine: " in text
    assert "torch " in text


def test_a_network_that_lacks_a_package_is_listed(monkeypatch):
    def needs_timm():
        raise ImportError("this network needs timm: pip install timm")

    networks = {"big": Entry(needs_timm, (3, 64, 64)), "tiny": Entry(Tiny, (1, 8, 8))}
    monkeypatch.setattr(bench_passes, "NETWORKS", networks)
    result = invoke("--networks", "big,tiny", "--batches", "1")
    assert result.exit_code == 0, result.output
    assert "- big: not measured: this network needs timm" in result.stdout
    alone = invoke("--networks", "big", "--batches", "1")
    assert alone.exit_code == 1
    assert "nothing was measured" in alone.stderr


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--networks", "lenet6"], "no network is called 'lenet6'"),
        (["--batches", "1,two"], "batches are '1,two'"),
        (["-o", "/nowhere/page.md"], "cannot write /nowhere/page.md"),
    ],
)
def test_mistakes_are_told_at_once(args, message):
    result = invoke(*args)
    assert result.exit_code == 2
    assert message in result.stderr
