import csv
import json
import sys

import pytest

from nncompile.bench import runner
from nncompile_runtime import cuda
from nncompile_runtime.session import onnxruntime


def test_bench_compares_the_engines(run, folder, exported):
    quick = ("--seconds", "0.02", "--rounds", "3", "--sessions", "2", "-b", "1,2", "--markdown", "table.md")
    result = run(
        "bench", exported.model, "--module", "nets.py:Small", "-w", exported.weights, *quick, "--json"
    )
    assert result.code == 0
    report = json.loads(result.out)
    rows = {(row["engine"], row["batch"]) for row in report["rows"]}
    assert rows == {(e, b) for e in ("nncompile", "onnxruntime", "eager") for b in (1, 2)}
    assert [engine["sessions"] for engine in report["engines"]] == [2, 2, 1]
    assert all(row["by_session"]["low"] <= row["by_session"]["high"] for row in report["rows"])
    assert "3 rounds in one process, in 2 sessions" in (folder / "table.md").read_text()


def test_bench_without_a_module_says_what_eager_needs(run, exported):
    result = run("bench", exported.model, "--seconds", "0.02", "--rounds", "1", "-b", "1")
    assert result.code == 0
    assert "eager was not measured" in result.out


def test_bench_of_other_weights_ends_before_it_measures(run, exported):
    result = run("bench", exported.model, "--module", "nets.py:Small", "--seconds", "1000")
    assert result.code == 1
    assert "does not answer as the module does" in result.err
    assert "fix: Its weights are not those of the module. Add --weights." in result.err


def test_bench_of_another_class_names_the_files_own(run, exported):
    result = run("bench", exported.model, "--module", "nets.py:factory", "--arg", "out=4")
    assert "fix: Its weights are not those of the module." in result.err
    result = run("bench", exported.model, "--module", "nets.py:Other")
    assert result.code == 1
    assert (
        "small.onnx was exported from Small, and this is Other: name Small." in result.err.split("  fix:")[1]
    )


def test_bench_prints_csv(run, exported):
    result = run("bench", exported.model, "--seconds", "0.02", "--rounds", "1", "-b", "1,3", "--csv")
    assert result.code == 0
    lines = list(csv.DictReader(result.out.splitlines()))
    assert [(line["engine"], line["batch"]) for line in lines] == [
        (engine, batch) for batch in ("1", "3") for engine in ("nncompile", "onnxruntime")
    ]


def test_bench_serves(run, exported):
    quick = ("--seconds", "0.02", "--rounds", "1", "--against", "onnxruntime")
    result = run(
        "bench", exported.model, *quick, "--scenario", "server", "--rate", "200", "--bound", "1e6", "--json"
    )
    assert result.code == 0
    report = json.loads(result.out)
    assert report["batches"] == [1]
    assert report["scenario"]["scenario"] == {"name": "server", "rate": 200.0, "bound": 1e6}
    assert [row["held"] for row in report["scenario"]["rows"]] == [True, True]


def test_bench_starts_engines_afresh_and_says_where_the_time_goes(run, exported):
    quick = ("--seconds", "0.02", "--rounds", "1", "-b", "1", "--against", "onnxruntime")
    result = run("bench", exported.model, *quick, "--cold", "--distance")
    assert result.code == 0
    assert "a fresh process each, batch 1" in result.out
    assert "where the time of nncompile goes" in result.out


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["-b", "0"], "no list of batch sizes"),
        (["-b", "one"], "no list of batch sizes"),
        (["--against", "tensorrt"], "tensorrt"),
        (["--seconds", "0"], "not above 0"),
        (["--json", "--csv"], "both print on stdout"),
        (["--scenario", "multi-stream"], "no scenario"),
        (["--scenario", "server"], "has the rate None"),
        (["--scenario", "offline", "--rate", "3"], "has no rate"),
        (["--scenario", "offline", "--bound", "3"], "--bound is for a server"),
        (["--rate", "3"], "--rate is for a server"),
        (["--transfers", "none"], "--transfers is for a GPU"),
        (["--device", "cuda", "--distance"], "--distance is for the CPU"),
        (["--device", "cuda", "--transfers", "in"], "transfers='in' is not offered"),
        (["--device", "auto"], "does not say what is measured"),
        (["--device", "cuda", "--against", "openvino"], "no engine 'openvino' on cuda"),
    ],
)
def test_bench_errors(run, exported, arguments, problem):
    result = run("bench", exported.model, *arguments)
    assert result.code == 2
    assert problem in result.err
    assert "fix: " in result.err


@pytest.mark.skipif(not cuda.examine(onnxruntime()).fault, reason="there is a GPU")
@pytest.mark.parametrize("module", [(), ("--module", "nets.py:Small")])
def test_bench_without_a_gpu_says_so_before_anything_else(run, exported, module):
    result = run("bench", exported.model, "--device", "cuda", "--against", "all", *module)
    assert result.code == 1
    assert result.out == ""
    assert "cuda:0 cannot be had" in result.err
    assert "fix: " in result.err


def test_bench_writes_a_page(run, folder, exported):
    quick = ("--seconds", "0.02", "--rounds", "2", "-b", "1,2", "--html", "page.html")
    result = run("bench", exported.model, "--module", "nets.py:Small", "-w", exported.weights, *quick)
    assert result.code == 0
    page = (folder / "page.html").read_text()
    for words in (
        "Small",
        "as PyTorch exports it",
        "BatchNormalization",
        "the compiled file",
        'id="roofline"',
    ):
        assert words in page


def test_bench_writes_a_page_without_the_module(run, folder, exported):
    quick = ("--seconds", "0.02", "--rounds", "1", "-b", "1", "--html", "page.html")
    assert run("bench", exported.model, *quick).code == 0
    page = (folder / "page.html").read_text()
    assert "the compiled file" in page
    assert "as PyTorch exports it" not in page


@pytest.mark.parametrize("option", ["--html", "--markdown"])
@pytest.mark.parametrize("place", ["missing/page", "."])
def test_bench_refuses_a_report_that_cannot_be_written_before_it_measures(
    run, exported, monkeypatch, option, place
):
    monkeypatch.setattr(runner, "run", pytest.fail)
    result = run("bench", exported.model, option, place)
    assert result.code == 2
    assert f"{option} {place} cannot be written" in result.err
    assert "fix: " in result.err


def test_bench_says_what_a_page_needs_before_it_measures(run, folder, exported, monkeypatch):
    for module in ("nncompile.bench.html", "nncompile.bench.plots"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.delattr("nncompile.bench.plots", raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = run("bench", exported.model, "--html", "page.html")
    assert result.code == 1
    assert "needs matplotlib, which is not installed" in result.err
    assert "pip install 'nncompile[bench" in result.err
    assert not (folder / "page.html").exists()
