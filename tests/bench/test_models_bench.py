import json
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from models import bench, zoo


def invoke(*args):
    return CliRunner().invoke(bench.app, [*args, "--seconds", "0.004", "--rounds", "2"])


@pytest.fixture
def with_a_network_that_needs_timm(monkeypatch):
    def needs_timm():
        raise ImportError("this network needs timm: pip install timm")

    entry = SimpleNamespace(build=needs_timm, input_shape=(3, 64, 64))
    monkeypatch.setattr(bench, "ZOO", {"lenet5": zoo.ZOO["lenet5"], "big": entry})


@pytest.mark.usefixtures("with_a_network_that_needs_timm")
def test_the_page_holds_every_network_and_why_one_is_left_out(tmp_path):
    page = tmp_path / "benchmarks.md"
    result = invoke("--networks", "lenet5,big", "--batches", "1,2", "-o", str(page), "--json")
    assert result.exit_code == 0, result.output
    text = page.read_text()
    assert "| network | batch 1 | batch 2 |" in text
    assert text.count("| lenet5 |") == 4
    assert "- big: not measured: this network needs timm: pip install timm" in text
    assert "Machine: " in text
    data = json.loads(result.stdout)
    assert len(data["networks"]["lenet5"]["rows"]) == 6
    assert data["skipped"] == {"big": "this network needs timm: pip install timm"}


@pytest.mark.usefixtures("with_a_network_that_needs_timm")
def test_where_nothing_can_be_measured_the_command_fails():
    result = invoke("--networks", "big")
    assert result.exit_code == 1
    assert "needs timm" in result.stderr
    assert result.stdout == ""


def test_a_network_that_fails_to_compile_is_listed_and_fails_the_command(monkeypatch, lenet, instant):
    def fails_on_net(name, *args):
        if name == "net":
            raise bench.NncompileError("It broke.")
        return bench.run(lenet.path, (1,), ("onnxruntime",), schedule=instant)

    monkeypatch.setattr(bench, "bench", fails_on_net)
    result = invoke("--networks", "net,lenet5", "-b", "1")
    assert result.exit_code == 1
    assert "- net: not measured: It broke." in result.stdout
    assert "| lenet5 |" in result.stdout


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--networks", "lenet6"], "no network is called 'lenet6'"),
        (["--batches", "1,two"], "batches are '1,two'"),
        (["--batches", "0"], "batches are '0'"),
        (["-o", "/nowhere/page.md"], "cannot write /nowhere/page.md"),
    ],
)
def test_mistakes_are_told_at_once(args, message):
    result = invoke(*args)
    assert result.exit_code == 2
    assert message in result.stderr


def test_a_large_network_keeps_to_small_batches(monkeypatch):
    seen = {}
    monkeypatch.setattr(bench, "LARGEST_BATCH", {"lenet5": 8})
    monkeypatch.setattr(bench.nncompile, "compile", lambda *args: SimpleNamespace(save=lambda path: None))
    monkeypatch.setattr(bench, "run", lambda path, batches, *args, **kwargs: seen.update(batches=batches))
    bench.bench("lenet5", (1, 8, 64), None, None)
    assert seen["batches"] == (1, 8)
    bench.bench("lenet5", (64,), None, None)
    assert seen["batches"] == (8,)
