"""The measurement of the native kernels, on networks and schedules that take no time."""

import functools

import numpy as np
import pytest
from torch import nn
from typer.testing import CliRunner

from models import bench_kernels, winograd_error
from models._variants import YARDSTICK, captured_and_exported
from models.bench_kernels import KERNELS, PLANS, Result, bench, page, peak_gflops
from models.kernel_memory import STATM, Memory
from models.winograd_error import Error
from models.zoo import Entry
from nncompile.bench import sampling
from nncompile.bench.timing import Schedule
from nncompile_runtime.bootstrap import Estimate
from nncompile_runtime.kernels import Library, installed_library

pytest.importorskip("nncompile_kernels", reason="nncompile-kernels is not installed")

INSTANT = Schedule(rounds=2, seconds=0.004, warmup=0.001, pause=0.0)


ERRORS = [
    Error(inputs, kernel, plan, 2e-6, 1e-6)
    for inputs in winograd_error.INPUTS
    for kernel in winograd_error.KERNELS
    for plan in winograd_error.PLANS
]


class Tiny(nn.Sequential):
    """Two convolutions: a region for the kernels."""

    def __init__(self):
        super().__init__(nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU())


@functools.cache
def captured_and_exported_once(build, shape):
    return captured_and_exported(build, shape)


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr(bench_kernels, "captured_and_exported", captured_and_exported_once)
    monkeypatch.setattr(bench_kernels, "NETWORKS", {"tiny": (Entry(Tiny, (1, 18, 18)), (1, 3))})


def invoke(*args):
    return CliRunner().invoke(bench_kernels.app, [*args, "--seconds", "0.004", "--rounds", "2"])


@pytest.mark.usefixtures("tiny")
def test_each_plan_is_timed_at_each_batch(monkeypatch):
    """What is timed: the feed of the right batch, each plan of the kernels."""
    times = {YARDSTICK: 12_000, KERNELS: 4_000, "exact": 6_000, "plain": 10_000}
    calls_of = []

    def measured(calls, schedule, rounds, on_block):
        if 0 in rounds:
            calls_of.append(calls)
        return {name: (np.array([times[name]]),) * len(rounds) for name in calls}

    monkeypatch.setattr(sampling, "measure", measured)
    found = bench("tiny", (1, 3), INSTANT)
    assert [(one.network, one.batch) for one in found] == [("tiny", 1), ("tiny", 3)]
    for one, calls in zip(found, calls_of, strict=True):
        assert set(calls) == {YARDSTICK, *PLANS}
        assert {call()[0].shape for call in calls.values()} == {(one.batch, 16, 14, 14)}
        assert one.medians == {name: taken / 1000 for name, taken in times.items()}
        assert {name: ratio.value for name, ratio in one.ratios.items()} == {
            KERNELS: 3.0,
            "exact": 2.0,
            "plain": 1.2,
        }
        assert one.rejected == {}
        assert one.apart == dict.fromkeys(times, 1.0)
    flops = [one.gflops * 4e3 / one.batch for one in found]
    assert flops[0] == pytest.approx(flops[1])
    convolutions = 2 * 16 * (16 * 16 * 9 + 14 * 14 * 9 * 16)
    assert flops[0] == pytest.approx(convolutions, rel=0.05)  # biases and activations are the rest


@pytest.mark.usefixtures("tiny")
def test_each_variant_runs_its_plan(monkeypatch):
    kernels = {}

    class Watched(bench_kernels.Variant):
        def __init__(self, name, data, signature, plan):
            super().__init__(name, data, signature, plan)
            kernels[name] = (self.description, dict(plan))

    monkeypatch.setattr(bench_kernels, "Variant", Watched)
    bench("tiny", (1,), INSTANT)
    note = installed_library().note
    assert kernels == {
        KERNELS: (f"predict, {note}", {}),
        "exact": (f"predict, {note}", {"exact": True}),
        "plain": ("predict, the plan says native=False", {"native": False}),
    }


@pytest.mark.usefixtures("tiny")
def test_a_plan_with_wrong_answers_is_not_timed(monkeypatch):
    class Wrong(bench_kernels.Variant):
        def run(self, feed):
            return [out + (self.name == KERNELS) for out in super().run(feed)]

    monkeypatch.setattr(bench_kernels, "Variant", Wrong)
    (found,) = bench("tiny", (1,), INSTANT)
    assert set(found.ratios) == {"exact", "plain"}
    assert found.rejected.keys() == {KERNELS}
    assert found.gflops == 0
    text = page([found], {}, ERRORS, 100.0, INSTANT)
    assert "- tiny, batch 1, kernels: it disagrees with onnxruntime" in text


def test_the_peak_is_a_rate_of_this_machine():
    assert 1 < peak_gflops(seconds=0.01) < 1e5


def test_a_row_of_the_page():
    found = Result(
        "net",
        64,
        {YARDSTICK: 9000.0, KERNELS: 4500.0},
        {KERNELS: Estimate(2.0, 1.9, 2.1), "exact": Estimate(1.25, 1.2, 1.3)},
        apart={YARDSTICK: 1.5, "exact": 1.1},
        gflops=150.0,
        rejected={"plain": "fails: oh"},
    )
    memories = {("net", 16): (Memory(100.2, 120.0), Memory(90.0, 150.6))}
    text = page([found], memories, ERRORS, 200.0, INSTANT)
    assert "| net | 64 | 9,000 | 4,500 | 2.00 [1.90, 2.10] | 1.25 | - | 150 | 75% | 1.50 / - |" in text
    assert "- net, batch 64, plain: it fails: oh" in text
    assert "200 GFLOP/s" in text
    assert "Warning" not in text
    assert "the load average was 9999.0" in page([found], memories, ERRORS, 200.0, INSTANT, load=9999.0)
    assert "| net | 16 | 100 | 120 | 90 | 151 |" in text
    assert (
        "| normal | 2.0e-06 / 1.0e-06 | 2.0e-06 / 1.0e-06 | 2.0e-06 / 1.0e-06 | 2.0e-06 / 1.0e-06 |" in text
    )


@pytest.mark.usefixtures("tiny")
@pytest.mark.skipif(not STATM.exists(), reason="the system does not tell how much memory a process has")
def test_memory_is_that_of_a_call():
    """Of 600 samples the inner values alone take 600 * 16 * 16 * 16 * 4 bytes without the kernels."""
    few, many = bench_kernels.memory("tiny", 1), bench_kernels.memory("tiny", 600)
    assert all(0 < one.loaded <= one.used for one in (*few, *many))
    assert many[1].used > many[1].loaded + 9
    assert few[1].used < few[1].loaded + 5


def test_errors(monkeypatch):
    """Winograd's is the larger for values about 0, and both are float32's."""
    monkeypatch.setattr(winograd_error, "LAYERS", ((64, 14),))
    found = {(one.inputs, one.kernel, one.plan): one for one in winograd_error.measure()}
    assert len(found) == len(winograd_error.INPUTS) * 4
    for kernel, least in ((3, 1.2), (5, 2)):  # times the error of the definition
        fast, direct = (found["normal", kernel, plan] for plan in ("Winograd", "as defined"))
        assert 1e-5 > fast.of_sum > least * direct.of_sum > 1e-8
        assert fast.of_output > fast.of_sum


@pytest.mark.usefixtures("tiny")
def test_the_command_writes_a_page_and_says_how_far_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr(bench_kernels, "peak_gflops", lambda: 100.0)
    monkeypatch.setattr(bench_kernels, "LARGER", {"tiny": ...})
    monkeypatch.setattr(bench_kernels, "memory", lambda name, batch: [Memory(1, 2), Memory(3, 4)])
    monkeypatch.setattr(winograd_error, "measure", lambda: ERRORS)
    target = tmp_path / "kernels.md"
    result = invoke("--networks", "tiny", "-o", str(target))
    assert result.exit_code == 0, result.output
    assert result.stdout == ""
    assert result.stderr.splitlines()[0] == "1/1 tiny ..."
    text = target.read_text()
    assert text.count("| tiny |") == 3
    assert "| tiny | 16 | 1 | 2 | 3 | 4 |" in text
    assert "Machine: " in text
    assert "Method: 2 rounds" in text


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--networks", "lenet6"], "no network is called 'lenet6'"),
        (["--seconds", "-1"], "seconds is -1"),
        (["-o", "/nowhere/page.md"], "cannot write /nowhere/page.md"),
        (["-o", "/"], "cannot write /"),
    ],
)
def test_mistakes_are_told_before_anything_is_measured(args, message, monkeypatch):
    monkeypatch.setattr(bench_kernels, "bench", lambda *_: pytest.fail("it was measured"))
    result = CliRunner().invoke(bench_kernels.app, args)
    assert result.exit_code == 2
    assert message in result.stderr


def test_what_is_there_stays_there_where_a_mistake_ends_the_command(tmp_path, monkeypatch):
    """The check of --output leaves no trace: neither an empty file, nor an old page emptied."""
    monkeypatch.setattr(
        bench_kernels, "installed_library", lambda: Library(None, "kernels are not installed")
    )
    old, new = tmp_path / "old.md", tmp_path / "new.md"
    old.write_text("a page")
    for target in (old, new):
        result = invoke("--networks", "", "-o", str(target))
        assert result.exit_code == 1
        assert "kernels are not installed" in result.stderr
    assert old.read_text() == "a page"
    assert not new.exists()
