import json

import pytest


def test_bench_compares_the_engines(run, folder, exported):
    quick = ("--seconds", "0.02", "--rounds", "2", "-b", "1,2", "--markdown", "table.md")
    result = run(
        "bench", exported.model, "--module", "nets.py:Small", "-w", exported.weights, *quick, "--json"
    )
    assert result.code == 0
    report = json.loads(result.out)
    rows = {(row["engine"], row["batch"]) for row in report["rows"]}
    assert rows == {(e, b) for e in ("nncompile", "onnxruntime", "eager") for b in (1, 2)}
    assert "eager" in (folder / "table.md").read_text()


def test_bench_without_a_module_says_what_eager_needs(run, exported):
    result = run("bench", exported.model, "--seconds", "0.02", "--rounds", "1", "-b", "1")
    assert result.code == 0
    assert "eager was not measured" in result.out


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["-b", "0"], "no list of batch sizes"),
        (["-b", "one"], "no list of batch sizes"),
        (["--against", "tensorrt"], "tensorrt"),
        (["--seconds", "0"], "not above 0"),
    ],
)
def test_bench_errors(run, exported, arguments, problem):
    result = run("bench", exported.model, *arguments)
    assert result.code == 2
    assert problem in result.err
    assert "fix: " in result.err
