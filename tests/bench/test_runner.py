import subprocess
import sys

import pytest
import torch

from models.lenet import LeNet5
from nncompile.bench import Scenario, run
from nncompile.bench.engines import open_engine
from nncompile.bench.timing import Schedule
from nncompile_runtime import ModelLoadError, NncompileError

ENGINES = ("nncompile", "onnxruntime", "eager")


@pytest.fixture(scope="module")
def steps():
    return []


@pytest.fixture(scope="module")
def report(lenet, instant, steps):
    def on_step(what, done, total):
        steps.append((what, done, total))

    return run(lenet.path, (1, 2), module=lenet.module, schedule=instant, progress=on_step)


def test_every_engine_has_a_row_for_every_batch(report):
    assert [(r.batch, r.engine) for r in report.rows] == [(b, e) for b in (1, 2) for e in ENGINES]
    assert [e.name for e in report.engines] == list(ENGINES)
    assert report.rejected == report.absent == ()


def test_rows_are_plausible(report, instant):
    for row in report.rows:
        latency = row.latency
        assert 0 < latency.p50 <= latency.p90 <= latency.p95 <= latency.p99
        assert row.calls >= instant.rounds * instant.minimum_calls
        assert row.samples_per_second > 0
        assert row.ratio.low <= row.ratio.value <= row.ratio.high


def test_the_yardstick_is_as_fast_as_itself(report):
    assert report.method.yardstick == "onnxruntime"
    for batch in (1, 2):
        ratio = report.row("onnxruntime", batch).ratio
        assert (ratio.value, ratio.low, ratio.high) == (1.0, 1.0, 1.0)


def test_the_report_says_what_was_measured_where_and_how(report, lenet, instant):
    assert (report.model, report.network) == (lenet.path.name, "LeNet5")
    assert report.inputs == ("x: float32[batch, 1, 32, 32]",)
    assert report.method.schedule == instant
    assert report.method.reference == "eager"
    assert report.machine.cpu
    assert report.machine.processors >= 1
    assert {"python", "nncompile", "torch", "numpy"} <= set(report.versions)
    assert any(name.startswith("onnxruntime") for name in report.versions)


def test_overhead_is_measured_at_batch_1(report):
    assert report.overhead.batch == 1
    assert report.overhead.pairs >= 1
    assert (
        report.overhead.difference.low <= report.overhead.difference.value <= report.overhead.difference.high
    )


def test_progress_counts_every_block(report, steps, instant):
    blocks = 2 * len(ENGINES) * instant.rounds
    assert [done for _, done, _ in steps] == list(range(blocks + 1))
    assert {total for _, _, total in steps} == {blocks + 1}
    assert steps[0][0] == "batch 1: nncompile"
    assert steps[-1][0] == "batch 1: overhead of predict"


def test_a_wrong_engine_gets_no_time_but_a_reason(lenet, instant):
    torch.manual_seed(1)
    steps = []
    report = run(
        lenet.path, (1, 2), module=LeNet5(), schedule=instant, progress=lambda *step: steps.append(step)
    )
    assert {(r.engine, r.batch) for r in report.rejected} == {("nncompile", 1), ("nncompile", 2)}
    assert all("disagrees with eager" in r.reason for r in report.rejected)
    assert {(r.engine, r.batch) for r in report.rows} == {(e, b) for e in ENGINES[1:] for b in (1, 2)}
    assert "nncompile" in [e.name for e in report.engines]
    blocks = 2 * len(ENGINES) * instant.rounds
    assert steps[-1][1:] == (blocks, blocks + 1)  # the rejected engine's blocks count as done


def test_a_rejected_yardstick_leaves_no_ratio(lenet, instant, monkeypatch):
    from nncompile.bench.engines.onnxruntime import Plain

    monkeypatch.setattr(Plain, "run", lambda self, feed: [feed["x"]])
    report = run(lenet.path, (1,), module=lenet.module, schedule=instant)
    assert [r.engine for r in report.rejected] == ["onnxruntime"]
    assert {r.engine: r.ratio for r in report.rows} == {"nncompile": None, "eager": None}


def test_an_engine_that_cannot_be_had_is_listed(lenet, instant):
    report = run(lenet.path, (1,), schedule=instant)
    assert [a.engine for a in report.absent] == ["eager"]
    assert "No module was given" in report.absent[0].reason
    assert [r.engine for r in report.rows] == ["nncompile", "onnxruntime"]
    assert report.method.reference == "onnxruntime"


def test_without_onnxruntime_the_first_peer_is_the_yardstick(lenet, instant):
    report = run(lenet.path, (1,), ("eager",), module=lenet.module, schedule=instant)
    assert report.method.yardstick == "eager"
    assert report.row("eager", 1).ratio.value == 1.0


def test_alone_nncompile_is_its_own_yardstick(lenet, instant):
    report = run(lenet.path, (1,), ("eager",), schedule=instant)
    assert report.method.yardstick == "nncompile"
    assert [r.engine for r in report.rows] == ["nncompile"]


def test_names_and_batches_given_twice_are_measured_once(lenet, instant):
    report = run(lenet.path, (2, 2), ("onnxruntime", "nncompile", "onnxruntime"), schedule=instant)
    assert [(r.engine, r.batch) for r in report.rows] == [("nncompile", 2), ("onnxruntime", 2)]


def test_an_onnx_file_from_elsewhere_is_measured(lenet, instant, tmp_path):
    from nncompile.bench.engines.exporting import export
    from nncompile.bench.inputs import make_feed
    from nncompile_runtime import load

    signature = load(lenet.path).signature
    plain = tmp_path / "plain.onnx"
    plain.write_bytes(export(lenet.module, signature, make_feed(signature, 2)))
    report = run(plain, (1, 3), module=lenet.module, schedule=instant)
    assert report.network == ""
    assert len(report.rows) == 2 * len(ENGINES)


def test_a_mistake_is_told_before_anything_runs(lenet, tmp_path):
    with pytest.raises(NncompileError, match="no engine 'tensorrt'"):
        run(lenet.path, against=("tensorrt",))
    with pytest.raises(NncompileError, match="batches"):
        run(lenet.path, (0,))
    with pytest.raises(ModelLoadError):
        run(tmp_path / "missing.onnx")


def test_a_model_file_alone_is_measured_without_torch(lenet):
    code = (
        "import sys; from nncompile.bench import run; "
        "assert 'torch' not in sys.modules and 'onnxruntime' not in sys.modules; "
        "from nncompile.bench.timing import Schedule; "
        f"r = run({str(lenet.path)!r}, (1,), ('onnxruntime',), schedule=Schedule(1, 0.001, 0, 0)); "
        "print(len(r.rows), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("2 False\n", "")


def test_rows_keep_the_median_of_each_round(report, instant):
    for row in report.rows:
        assert len(row.medians) == instant.rounds
        assert min(row.medians) <= row.latency.p99


@pytest.mark.parametrize("name", ["single-stream", "offline"])
def test_a_scenario_is_made_of_the_latencies(lenet, instant, name):
    found = run(lenet.path, (4, 2), ("onnxruntime",), schedule=instant, scenario=Scenario(name)).scenario
    assert [row.engine for row in found.rows] == ["nncompile", "onnxruntime"]
    assert {row.batch for row in found.rows} <= ({2} if name == "single-stream" else {2, 4})
    assert found.rows[1].ratio.value > 0


def test_a_server_gets_its_queries_at_the_smallest_batch(lenet, instant):
    steps = []
    scenario = Scenario("server", 1000.0)
    report = run(
        lenet.path,
        (2, 1),
        ("onnxruntime",),
        schedule=instant,
        scenario=scenario,
        progress=lambda *step: steps.append(step),
    )
    assert report.scenario.scenario == scenario
    assert [(row.engine, row.batch) for row in report.scenario.rows] == [("nncompile", 1), ("onnxruntime", 1)]
    assert {row.queries for row in report.scenario.rows} == {instant.rounds * instant.minimum_calls}
    assert all(row.held in (True, False) for row in report.scenario.rows)
    blocks = 3 * 2 * instant.rounds
    assert steps[-1] == ("batch 1: overhead of predict", blocks, blocks + 1)


def test_a_rejected_engine_serves_nobody(lenet, instant):
    torch.manual_seed(1)
    steps = []
    report = run(
        lenet.path,
        (1,),
        module=LeNet5(),
        schedule=instant,
        scenario=Scenario("server", 1000.0),
        progress=lambda *step: steps.append(step),
    )
    assert [row.engine for row in report.scenario.rows] == ["onnxruntime", "eager"]
    assert steps[-1][1:] == (2 * 3 * instant.rounds, 2 * 3 * instant.rounds + 1)


def test_each_session_opens_engines_anew_where_that_is_cheap(lenet, monkeypatch):
    opened = []

    def spy(name, subject):
        opened.append(name)
        return open_engine(name, subject)

    monkeypatch.setattr("nncompile.bench.runner.open_engine", spy)
    schedule = Schedule(rounds=5, seconds=0.005, warmup=0, pause=0, sessions=3)
    found = run(lenet.path, (1,), module=lenet.module, schedule=schedule)
    assert opened == [*ENGINES, *["nncompile", "onnxruntime"] * 2]
    assert {engine.name: engine.sessions for engine in found.engines} == {
        "nncompile": 3,
        "onnxruntime": 3,
        "eager": 1,
    }
    for row in found.rows:
        apart = row.by_session
        assert len(row.medians) == 5
        assert 0 < apart.low <= apart.p50 <= apart.high
        assert apart.low < apart.high  # three sessions, three medians of a clock of nanoseconds


def test_the_report_says_what_else_ran(lenet, instant):
    found = run(lenet.path, (1,), ("onnxruntime",), schedule=instant, load_before=1e6)
    assert found.disturbance.load == 1e6
    assert found.disturbance.threads == found.machine.processors
    assert "was not quiet" in found.disturbance.warning
