import csv
import dataclasses
import io
import json

import pytest
from rich.console import Console

from nncompile.bench import grid
from nncompile.bench.correctness import Rejected
from nncompile.bench.disturbance import Disturbance
from nncompile.bench.figures import microseconds
from nncompile.bench.overhead import Overhead
from nncompile.bench.report import as_csv, as_json, as_markdown, as_table, section_tables
from nncompile.bench.results import Absent, BenchReport, Cold, EngineInfo, Method, Row
from nncompile.bench.scenarios import Scenario, ScenarioReport, ScenarioRow
from nncompile.bench.sentences import method, remarks, warnings
from nncompile.bench.statistics import Latency, Spread
from nncompile.bench.timing import Schedule
from nncompile_runtime.bootstrap import Estimate
from nncompile_runtime.machine import Machine


def row(engine, batch, p50, ratio):
    times, apart = Latency(p50, p50 + 1, p50 + 2, p50 + 3), Spread(p50, 0.9 * p50, 1.2 * p50)
    return Row(engine, batch, 100, times, 1e6 * batch / p50, ratio, apart, medians=(p50, p50))


REPORT = BenchReport(
    model="net.onnx",
    network="Net",
    inputs=("x: float32[batch, 4]",),
    machine=Machine("A CPU", ("avx2", "fma"), 2, "1.31.1"),
    versions={"python": "3.11.7", "onnxruntime": "1.31.1"},
    method=Method(Schedule(), 0, "eager", "onnxruntime"),
    batches=(1, 64),
    engines=(
        EngineInfo("nncompile", "predict, cpu", 2),
        EngineInfo("onnxruntime", "ONNX Runtime 1.31.1, default options", None),
        EngineInfo("eager", "PyTorch", 1),
    ),
    rows=(
        row("nncompile", 1, 9.314, Estimate(2.004, 1.9, 2.1)),
        row("onnxruntime", 1, 18.6, Estimate(1.0, 1.0, 1.0)),
        row("eager", 1, 204.0, Estimate(0.09, 0.08, 0.1)),
        row("onnxruntime", 64, 1234.5, Estimate(1.0, 1.0, 1.0)),
        row("eager", 64, 2000.0, Estimate(0.5, 0.4, 0.6)),
    ),
    rejected=(
        Rejected("nncompile", 64, "disagrees with eager: output 0: 3 of 640 values differ, by up to 2"),
    ),
    absent=(Absent("openvino", "openvino cannot be imported. Run: pip install 'x'."),),
    overhead=Overhead(1, 500, 11.0, 9.5, Estimate(1.5, 1.25, 1.75)),
)


def test_json_comes_back_as_it_went():
    data = as_json(REPORT)
    assert json.loads(json.dumps(data)) == data
    assert data["rows"][0]["latency"]["p50"] == 9.314
    assert data["rows"][0]["ratio"] == {"value": 2.004, "low": 1.9, "high": 2.1}
    assert data["machine"]["vector_flags"] == ["avx2", "fma"]
    assert {field.name for field in dataclasses.fields(REPORT)} == set(data)


def test_markdown_holds_every_engine_and_why_one_has_no_time():
    text = as_markdown(REPORT)
    assert "| 1 | nncompile | 9.31 | 10.3 | 11.3 | 12.3 | 107,365 | 2.00 [1.90, 2.10] |" in text
    assert "| 1 | onnxruntime | 18.6 | 19.6 | 20.6 | 21.6 | 53,763 | 1 |" in text
    assert "| 64 | nncompile | rejected | - | - | - | - | - |" in text
    assert "- openvino was not measured: openvino cannot be imported. Run: pip install 'x'." in text
    assert "nncompile has no time at batch 64: it disagrees with eager" in text
    assert "- eager: PyTorch, 1 thread\n" in text
    assert "default options, threads unknown" in text
    assert "1.5 [1.2, 1.8] µs (11.0 against 9.5, 500 pairs)" in text
    assert "A CPU (avx2, fma), 2 processors" in text
    assert "onnxruntime 1.31.1" in text
    assert "10 rounds" in text


def test_every_line_of_a_markdown_table_has_as_many_cells():
    lines = [line for line in as_markdown(REPORT).splitlines() if line.startswith("|")]
    assert len(lines) == 2 + 6
    assert {line.count("|") for line in lines} == {9}


def test_the_terminal_table_holds_the_same():
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(as_table(REPORT))
    text = console.export_text()
    for part in ("Net, net.onnx (x: float32[batch, 4])", "2.00 [1.90, 2.10]", "rejected", "openvino was not"):
        assert part in text
    assert as_table(REPORT).row_count == 6


@pytest.mark.parametrize(
    ("time", "text"), [(0.5, "0.50"), (9.99, "9.99"), (10, "10.0"), (99.9, "99.9"), (1234.5, "1,234")]
)
def test_microseconds_have_about_three_figures(time, text):
    assert microseconds(time) == text


SMALLER = dataclasses.replace(REPORT, batches=(1,), rows=REPORT.rows[:3], rejected=(), absent=())


def test_a_grid_has_networks_down_and_batches_across():
    assert grid.ratios({"net": REPORT, "other": SMALLER}, "eager", "onnxruntime").splitlines() == [
        "| network | batch 1 | batch 64 |",
        "| :--- | ---: | ---: |",
        "| net | 0.09 [0.09, 0.09] | 0.62 [0.62, 0.62] |",
        "| other | 0.09 [0.09, 0.09] | - |",
    ]


def test_a_grid_shows_ratios_of_any_two_engines_that_have_times():
    (line,) = grid.ratios({"net": REPORT}, "nncompile", "eager").splitlines()[2:]
    assert line == "| net | 21.90 [21.90, 21.90] | - |"
    (line,) = grid.ratios({"net": REPORT}, "nncompile", "openvino").splitlines()[2:]
    assert line == "| net | - | - |"


def test_a_grid_of_medians():
    engines = ("nncompile", "onnxruntime", "eager")
    assert grid.medians({"net": REPORT}, engines).splitlines()[-1] == (
        "| net | 9.31 / 18.6 / 204 | - / 1,234 / 2,000 |"
    )


def test_a_grid_of_overheads():
    assert grid.overheads({"net": REPORT}).splitlines()[-1] == "| net | 1 | 11.0 | 9.50 | 1.5 [1.2, 1.8] |"


def test_gaps_name_the_network():
    assert [gap.split(":")[0] for gap in grid.gaps({"net": REPORT, "other": SMALLER})] == ["net", "net"]


def test_csv_has_a_line_for_each_engine_and_batch():
    header, first, *others = csv.reader(io.StringIO(as_csv(REPORT)))
    assert len(others) == 4
    line = dict(zip(header, first, strict=True))
    assert (line["network"], line["engine"], line["threads"], line["batch"]) == ("Net", "nncompile", "2", "1")
    assert (float(line["p50_us"]), float(line["p99_us"])) == (9.314, 12.314)
    assert (line["yardstick"], float(line["ratio"]), float(line["ratio_high"])) == ("onnxruntime", 2.004, 2.1)


def test_csv_has_no_ratio_where_there_is_none():
    without = dataclasses.replace(REPORT, rows=(row("eager", 1, 2.0, None),))
    header, line = csv.reader(io.StringIO(as_csv(without)))
    assert dict(zip(header, line, strict=True))["ratio"] == ""


def test_unequal_threads_are_told():
    told = "do not compute with the same number of threads"
    assert told in as_markdown(REPORT)
    equal = tuple(dataclasses.replace(engine, threads=2) for engine in REPORT.engines)
    assert told not in as_markdown(dataclasses.replace(REPORT, engines=equal))


SERVER = ScenarioReport(
    Scenario("server", 250.0),
    (
        ScenarioRow(
            "nncompile", 1, 500, Latency(10.0, 20.0, 30.0, 40.0), 249.0, Estimate(2.0, 1.5, 2.5), True
        ),
        ScenarioRow("onnxruntime", 1, 500, Latency(10.0, 20.0, 30.0, 80.0), 100.0, None, False),
    ),
)
WHOLE = dataclasses.replace(
    REPORT,
    scenario=SERVER,
    cold=(Cold("nncompile", 1, None, 0.081, 0.00033, 74.1), Cold("onnxruntime", 1, 7.38, 0.5, 0.1, 1073.8)),
    not_cold=(Absent("eager", "A fresh process with it fails."),),
)


def test_a_scenario_and_fresh_processes_have_tables_of_their_own():
    text = as_markdown(WHOLE)
    assert "### server: Poisson arrivals, 250 queries/s; ratio of p99" in text
    assert "| nncompile | 1 | 500 | 10.0 | 20.0 | 40.0 | 249 | 2.00 [1.50, 2.50] | yes |" in text
    assert "| onnxruntime | 1 | 500 | 10.0 | 20.0 | 80.0 | 100 | 1 | no |" in text
    assert "### a fresh process each, batch 1" in text
    assert "| nncompile | - | 0.08 | 0.33 | 74 |" in text
    assert "| onnxruntime | 7.38 | 0.50 | 100.00 | 1,074 |" in text
    assert "| eager | A fresh process with it fails. | - | - | - |" in text
    assert [table.row_count for table in section_tables(WHOLE)] == [2, 3]
    assert section_tables(REPORT) == []


def with_medians(ours, peers):
    rows = [dataclasses.replace(row("nncompile", 1, ours[0], None), medians=ours)]
    rows += [dataclasses.replace(row(name, 1, m[0], None), medians=m) for name, m in peers.items()]
    return dataclasses.replace(REPORT, batches=(1,), rows=tuple(rows))


def test_the_best_peer_is_the_one_with_the_least_median_and_none_of_ours():
    report = with_medians(
        (10.0, 10.0), {"nncompile-tuned": (1.0, 1.0), "ncnn": (20.0, 20.0), "eager": (90.0, 90.0)}
    )
    assert grid.best_peer(report, 1).engine == "ncnn"
    assert (
        grid.against_the_best({"net": report}, "nncompile").splitlines()[-1]
        == "| net | 2.00 [2.00, 2.00] ncnn |"
    )
    assert grid.against_the_best({"net": report}, "openvino").splitlines()[-1] == "| net | - |"


def test_a_cell_that_is_not_won_by_the_whole_interval_is_named():
    won = with_medians((10.0, 10.0, 10.0), {"ncnn": (11.0, 12.0, 13.0)})
    level = with_medians((10.0, 10.0, 10.0), {"ncnn": (9.0, 12.0, 13.0)})
    lost = with_medians((10.0, 10.0, 10.0), {"ncnn": (7.0, 8.0, 9.0)})
    assert grid.losses({"a": won, "b": level, "c": lost}, "nncompile") == [
        "b, batch 1: ncnn is level (1.20 [0.90, 1.30]): not explained",
        "c, batch 1: ncnn is ahead (0.80 [0.70, 0.90]): not explained",
    ]


def test_a_grid_of_fresh_processes():
    assert grid.cold({"net": WHOLE}).splitlines()[2] == "| net | nncompile | - | 0.08 | 0.33 | 74 |"
    assert grid.cold({"net": REPORT}) == ""


def test_the_method_says_which_engines_are_opened_anew():
    anew = [dataclasses.replace(e, sessions=5 if e.name != "eager" else 1) for e in REPORT.engines]
    text = method(dataclasses.replace(REPORT, engines=tuple(anew)))
    assert "10 rounds in one process, in 5 sessions." in text
    assert "Each session opens nncompile, onnxruntime anew; eager stays open throughout." in text
    once = dataclasses.replace(REPORT.method, schedule=Schedule(rounds=3, sessions=1))
    alone = method(dataclasses.replace(REPORT, method=once))
    assert "3 rounds in one process, in 1 session." in alone
    assert "anew" not in alone


def test_a_busy_machine_and_unequal_threads_are_warned_of_first():
    busy = dataclasses.replace(REPORT, disturbance=Disturbance(7.0, 0.0, 2, 2))
    first, second, *_ = remarks(busy)
    assert "the load average was 7.0 when it began" in first
    assert second == "These engines do not compute with the same number of threads."
    assert f"- {first}" in as_markdown(busy)
    even = dataclasses.replace(
        REPORT,
        engines=tuple(dataclasses.replace(e, threads=2) for e in REPORT.engines),
        disturbance=Disturbance(1.0, 0.0, 2, 2),
    )
    assert warnings(even) == []


def test_how_far_sessions_differ():
    assert grid.spreads({"net": REPORT}, ("nncompile", "onnxruntime")).splitlines()[-1] == (
        "| net | 1.33 / 1.33 | - / 1.33 |"
    )


def test_a_cell_without_our_time_or_without_a_peers_is_no_win():
    alone = dataclasses.replace(REPORT, rows=REPORT.rows[:1], batches=(1,))
    assert grid.losses({"net": alone}, "nncompile") == [
        "net, batch 1: no peer has a time (see what was not measured)"
    ]
    fast = dataclasses.replace(REPORT.rows[0], medians=(1.0,))
    slow = [dataclasses.replace(row, medians=(2.0,)) for row in REPORT.rows[1:]]
    assert grid.losses({"net": dataclasses.replace(REPORT, rows=(fast, *slow))}, "nncompile") == [
        "net, batch 64: nncompile has no time (see what was not measured)"
    ]


def test_a_reason_is_that_of_one_peer():
    slow = dataclasses.replace(REPORT.rows[0], medians=(2.0,))
    fast = dataclasses.replace(REPORT.rows[1], medians=(1.0,))
    lost = {"net": dataclasses.replace(REPORT, rows=(slow, fast), batches=(1,))}
    told = "net, batch 1: onnxruntime is ahead (0.50 [0.50, 0.50]): "
    assert grid.losses(lost, "nncompile", {("net", 1, "onnxruntime"): "so"}) == [told + "so"]
    assert grid.losses(lost, "nncompile", {("net", 1, "openvino"): "so"}) == [told + "not explained"]
