import dataclasses
import json
import re
from types import SimpleNamespace

import pages
import pytest
from typer.testing import CliRunner

from models import bench, bench_page, zoo
from nncompile.bench import Scenario
from nncompile.bench.disturbance import Disturbance
from nncompile.bench.engines import NAMES
from nncompile.bench.timing import Schedule

QUICK = ("--seconds", "0.004", "--rounds", "2", "--cold", "", "--engines", "nncompile,onnxruntime,eager")


@pytest.fixture
def invoke(tmp_path):
    def call(*args):
        return CliRunner().invoke(bench.app, [*QUICK, "--keep", str(tmp_path / "kept"), *args])

    return call


@pytest.fixture
def with_a_network_that_needs_timm(monkeypatch):
    def needs_timm():
        raise ImportError("this network needs timm: pip install timm")

    entry = SimpleNamespace(build=needs_timm, input_shape=(3, 64, 64))
    monkeypatch.setattr(bench, "NETWORKS", {"lenet5": zoo.ZOO["lenet5"], "big": entry})


@pytest.mark.usefixtures("with_a_network_that_needs_timm")
def test_the_page_holds_every_network_and_why_one_is_left_out(invoke, tmp_path):
    page = tmp_path / "benchmarks.md"
    networks = ("--networks", "lenet5,big", "--cold", "lenet5")
    result = invoke(*networks, "--batches", "1,2", "-o", str(page), "--json")
    assert result.exit_code == 0, result.output
    text = page.read_text()
    assert "| network | batch 1 | batch 2 |" in text
    assert text.count("| lenet5 |") == 7 + 3 + 2 + 2 * 5  # tables, fresh processes, batches, their layers
    assert "## Times as fast as the best peer: nncompile" in text
    assert "## Share of what the machine allows: nncompile\n\nLimit: " in text
    assert "- big: not measured: this network needs timm: pip install timm" in text
    assert "Machine: " in text
    data = json.loads(result.stdout)
    assert len(data["networks"]["lenet5"]["rows"]) == 6
    assert data["skipped"] == {"big": "this network needs timm: pip install timm"}


@pytest.mark.usefixtures("with_a_network_that_needs_timm")
def test_where_nothing_can_be_measured_the_command_fails(invoke):
    result = invoke("--networks", "big")
    assert result.exit_code == 1
    assert "needs timm" in result.stderr
    assert result.stdout == ""


def test_a_network_that_fails_to_compile_is_listed_and_fails_the_command(invoke, monkeypatch, lenet, instant):
    def fails_on_net(name, *args, **options):
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
        (["--cold", "lenet6"], "no network is called 'lenet6'"),
        (["--batches", "1,two"], "batches are '1,two'"),
        (["--batches", "0"], "batches are '0'"),
        (["--engines", "magic"], "no engine 'magic'"),
        (["-o", "/nowhere/page.md"], "cannot write /nowhere/page.md"),
    ],
)
def test_mistakes_are_told_at_once(invoke, args, message):
    result = invoke(*args)
    assert result.exit_code == 2
    assert message in result.stderr


def test_a_large_network_keeps_to_fewer_batches_and_calls(monkeypatch):
    seen = []
    monkeypatch.setattr(bench, "LARGE", ("lenet5",))
    monkeypatch.setattr(bench, "SESSIONS_OF_LARGE", 2)
    monkeypatch.setattr(bench.nncompile, "compile", lambda *args: SimpleNamespace(save=lambda path: None))
    monkeypatch.setattr(
        bench, "run", lambda path, batches, engines, schedule, **_: seen.append((batches, schedule))
    )
    for name, batches in (("lenet5", None), ("lenet3", None), ("lenet5", (64,))):
        bench.bench(name, batches, (), Schedule())
    assert [batches for batches, _ in seen] == [(1, 16), (1, 8, 64, 256), (64,)]
    assert [schedule.minimum_calls for _, schedule in seen] == [1, 3, 1]
    assert [schedule.sessions for _, schedule in seen] == [2, 5, 2]


def test_a_run_goes_on_where_it_was_interrupted(invoke, monkeypatch, lenet, instant):
    measured = []

    def breaks_off_at(last):
        def measure(name, *args, **options):
            if name == last:
                raise KeyboardInterrupt
            measured.append(name)
            return bench.run(
                lenet.path, (1,), ("onnxruntime",), schedule=instant, scenario=Scenario("offline")
            )

        return measure

    monkeypatch.setattr(bench, "bench", breaks_off_at("lenet5"))
    assert invoke("--networks", "net,lenet5", "-b", "1").exit_code != 0
    monkeypatch.setattr(bench, "bench", breaks_off_at(None))
    result = invoke("--networks", "net,lenet5", "-b", "1", "--resume")
    assert result.exit_code == 0
    assert measured == ["net", "lenet5"]
    assert "| net |" in result.stdout
    invoke("--networks", "net", "-b", "2", "--resume")
    assert measured == ["net", "lenet5", "net"]  # other batches are another measurement
    invoke("--networks", "net", "-b", "2")
    assert measured == ["net", "lenet5", "net", "net"]


def test_what_is_kept_comes_back_whole(lenet, instant, tmp_path):
    found = bench.run(lenet.path, (1,), ("onnxruntime",), schedule=instant, scenario=Scenario("offline"))
    bench.keep(tmp_path / "a.json", {"batches": (1,)}, found)
    assert bench.kept(tmp_path / "a.json", {"batches": (1,)}) == found
    assert bench.kept(tmp_path / "a.json", {"batches": (2,)}) is None
    (tmp_path / "a.json").write_text('{"settings": {"batches": [1]}, "report": {}}')
    assert bench.kept(tmp_path / "a.json", {"batches": (1,)}) is None


def test_engines_start_cold_only_where_that_is_asked_for(invoke, monkeypatch, lenet, instant):
    asked = []

    def measure(name, *, cold, load_before, **options):
        asked.append((name, cold))
        return bench.run(lenet.path, (1,), ("onnxruntime",), schedule=instant, load_before=load_before)

    monkeypatch.setattr(bench, "bench", measure)
    assert invoke("--networks", "net,lenet5", "-b", "1", "--cold", "lenet5,resnet18").exit_code == 0
    assert asked == [("net", False), ("lenet5", True)]
    invoke("--networks", "net,lenet5", "-b", "1", "--cold", "net,lenet5", "--resume")
    assert asked[2:] == [("net", True)]  # what is kept was measured otherwise


def test_the_load_is_that_of_before_the_first_network(invoke, monkeypatch, lenet, instant):
    loads = iter([99.0, 98.0])
    monkeypatch.setattr(bench, "load_average", lambda: next(loads))

    def measure(name, *, cold, load_before, **options):
        return bench.run(lenet.path, (1,), ("onnxruntime",), schedule=instant, load_before=load_before)

    monkeypatch.setattr(bench, "bench", measure)
    text = invoke("--networks", "net,lenet5", "-b", "1").stdout
    for name in ("net", "lenet5"):
        assert re.search(rf"\*\*Warning\*\*.*- {name}: The machine of \d+ processors was not quiet: "
                         r"the load average was 99\.0 when it began", text, re.DOTALL)  # fmt: skip


def test_the_page_of_a_quiet_machine_warns_of_nothing():
    quiet = pages.report("net")
    text = bench_page.page({"net": quiet}, {}, "onnxruntime")
    assert "Warning" not in text
    loud = dataclasses.replace(quiet, disturbance=Disturbance(9.0, 0.0, 2, 2))
    assert "- net: The machine of 2 processors was not quiet" in bench_page.page(
        {"net": loud}, {}, "onnxruntime"
    )


def test_the_page_prints_every_count_of_threads_and_warns_where_they_differ():
    def with_threads(count):
        found = pages.report("net", engines=("nncompile", "onnxruntime"))
        ours = dataclasses.replace(found.engines[0], threads=count)
        return dataclasses.replace(found, engines=(ours, found.engines[1]))

    equal = bench_page.page({"a": with_threads(2)}, {}, "onnxruntime")
    assert "- nncompile: net nncompile, 2 threads\n" in equal
    assert "Warning" not in equal
    unequal = bench_page.page({"a": with_threads(2), "b": with_threads(1)}, {}, "onnxruntime")
    assert "- nncompile: net nncompile, 2 threads or 1 thread\n" in unequal
    assert "- b: These engines do not compute with the same number of threads." in unequal
    assert "- a: These engines" not in unequal


def test_every_cell_that_is_not_won_is_listed_with_its_reason_or_without(monkeypatch):
    found = pages.report("net", (1, 8), ("nncompile", "onnxruntime"))
    slow = tuple(
        dataclasses.replace(row, medians=(2.0, 2.0) if row.engine == "nncompile" else (1.0, 1.0))
        for row in found.rows
    )
    monkeypatch.setattr(bench_page, "REASONS", {("net", 8, "onnxruntime"): "its products are faster"})
    text = bench_page.page({"net": dataclasses.replace(found, rows=slow)}, {}, "onnxruntime")
    assert "- net, batch 1: onnxruntime is ahead (0.50 [0.50, 0.50]): not explained" in text
    assert "- net, batch 8: onnxruntime is ahead (0.50 [0.50, 0.50]): its products are faster" in text


def test_the_page_says_what_tuning_adds_where_both_plans_were_timed():
    title = "## Times as fast as nncompile: nncompile-tuned"
    both = pages.report("net", (1,), ("nncompile", "onnxruntime", "nncompile-tuned"))
    text = bench_page.page({"net": both}, {}, "onnxruntime")
    ratio = both.row("nncompile", 1).latency.p50 / both.row("nncompile-tuned", 1).latency.p50
    assert f"{title}\n\n| network | batch 1 |\n| :--- | ---: |\n| net | {ratio:.2f} [" in text
    assert title not in bench_page.page({"net": pages.report("net", (1,))}, {}, "onnxruntime")


def test_reasons_are_of_networks_and_engines_that_there_are():
    for network, batch, peer in bench_page.REASONS:
        assert network in bench.NETWORKS
        assert batch in (*bench.BATCHES, *bench.LARGE_BATCHES)
        assert peer in NAMES


def test_networks_that_were_measured_otherwise_have_a_method_of_their_own():
    small = pages.report("net")
    large = dataclasses.replace(small, method=dataclasses.replace(small.method, schedule=Schedule(rounds=4)))
    alike = bench_page.page({"a": small, "b": small}, {}, "onnxruntime")
    assert "\n\nMethod: 10 rounds" in alike
    apart = bench_page.page({"a": small, "b": small, "c": large}, {}, "onnxruntime")
    assert "\n\na, b: Method: 10 rounds" in apart
    assert "\n\nc: Method: 4 rounds" in apart
