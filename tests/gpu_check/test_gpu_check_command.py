"""The command: its report, its exit code, and what it compiles."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import models.gpu_check
from models.gpu_check.__main__ import main
from models.gpu_check.page import this_place
from models.gpu_check.running import Result
from models.gpu_check.table import CHECKS, Finding
from nncompile_runtime import cuda
from nncompile_runtime.session import onnxruntime

MAIN = sys.modules[main.__module__]
NO_GPU = pytest.mark.skipif(not cuda.examine(onnxruntime()).fault, reason="there is a GPU")


def test_a_dry_run_ends_with_a_report(here, tmp_path, capsys, monkeypatch):
    patient = tuple(dataclasses.replace(check, seconds=200) for check in CHECKS)
    monkeypatch.setattr(MAIN, "CHECKS", patient)
    common = ["--device", "cpu", "--networks", "lenet5", "--precisions", "float32"]
    code = main(
        [*common, "--only", "refusals,copies", "--prepared", str(here.folder), "-o", str(tmp_path / "out")]
    )
    assert code == 0, capsys.readouterr().out
    told = json.loads((tmp_path / "out" / "gpu-check.json").read_text())
    assert {check["name"]: check["status"] for check in told["checks"]} == {
        "refusals": "passed",
        "copies": "not run",
    }
    assert told["place"]["versions"]["torch"] == torch.__version__
    assert told["counts"]["failed"] == 0
    assert told["before"] == {}
    assert told["incomplete"] == []  # of a dry run, what only a GPU can show is not asked
    assert (tmp_path / "out" / "logs" / "refusals.log").exists()
    text = (tmp_path / "out" / "gpu-check.md").read_text()
    assert "A dry run on the CPU" in text
    assert "| refusals | what must be refused is refused, by its name | passed |" in text
    assert "| float64 inputs | passed | " in text
    assert "What failed" not in text
    assert "refusals: passed" in capsys.readouterr().out


def test_a_failure_is_told_first_and_ends_with_1(here, tmp_path, capsys, monkeypatch):
    results = [Result("answers", "about", 1.0, (Finding.of("lenet5", False, "it is\nwrong | so"),))]
    monkeypatch.setattr(MAIN, "run_all", lambda checks, context, folder, tell: results)
    assert main(["--device", "cpu", "-o", str(tmp_path), "--prepared", "there"]) == 1
    assert "## What failed\n\n- answers: lenet5: it is wrong | so" in (tmp_path / "gpu-check.md").read_text()
    assert "findings: 0 passed, 1 failed, 0 not run" in capsys.readouterr().out


def test_the_report_is_there_after_each_check(tmp_path, monkeypatch):
    page = tmp_path / "gpu-check.md"

    def stopped(checks, context, folder, tell):
        assert folder == tmp_path / "logs"  # not among prepared networks, which may be read-only
        tell(Result("answers", "about", 1.0, (Finding.of("lenet5", False, "wrong"),)))
        assert "This is not all yet: refusals were to follow." in page.read_text()
        tell(Result("refusals", "about", 1.0, (Finding.of("lenet5", True, "right"),)))
        raise KeyboardInterrupt

    monkeypatch.setattr(MAIN, "run_all", stopped)
    with pytest.raises(KeyboardInterrupt):
        main(["--device", "cpu", "-o", str(tmp_path), "--only", "answers,refusals", "--prepared", "there"])
    assert "not all yet" not in page.read_text()
    assert len(json.loads((tmp_path / "gpu-check.json").read_text())["checks"]) == 2


def test_where_nothing_passed_nothing_is_proved(tmp_path, monkeypatch):
    results = [Result("answers", "about", 1.0, (Finding("lenet5", "not run", "it is not there"),))]
    monkeypatch.setattr(MAIN, "run_all", lambda checks, context, folder, tell: results)
    assert main(["--device", "cpu", "-o", str(tmp_path), "--prepared", "there"]) == 1


@NO_GPU
def test_without_a_gpu_one_line_says_so(tmp_path, capsys):
    assert main(["-o", str(tmp_path / "out")]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: cuda:0 cannot be had: ")
    assert said.err.count("\n") == 1
    assert not (tmp_path / "out").exists()  # nothing was compiled for what cannot be checked


def test_a_pytorch_without_cuda_is_told(monkeypatch, capsys):
    monkeypatch.setattr(cuda, "require", lambda *_: None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert main([]) == 2
    assert "cannot use cuda: install a build of it with CUDA" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--networks", "lenet6"], "no network 'lenet6': choose from net"),
        (["--precisions", "int8"], "no precision 'int8'"),
        (["--only", "magic"], "no check 'magic'"),
        (["--device", "tpu"], "no device 'tpu'"),
        (["--device", "cuda:x"], "no device 'cuda:x'"),
    ],
)
def test_wrong_use_is_told(arguments, problem, capsys):
    assert main(arguments) == 2
    assert problem in capsys.readouterr().err


def not_run(what, **fields):
    return Result(fields.pop("name"), "about", 1.0, (GOOD, Finding(what, "not run", "why")), **fields)


GOOD = Finding.of("something", True, "fine")


@pytest.mark.parametrize(
    ("result", "on_gpu", "on_cpu", "said"),
    [
        (Result("answers", "about", 1.0, (GOOD,)), 0, 0, ""),
        *(
            (not_run("mynet", name=name), 3, 0, f"of {name} was not run: mynet.")
            for name in ("answers", "refusals", "placement", "exchange", "memory", "ragged", "queued")
        ),
        (not_run("a graph", name="layers"), 0, 0, ""),
        (not_run("a figure", name="overlap"), 0, 0, ""),
        (
            Result("overlap", "about", 1.0, (Finding("overlap", "not run", "why"),)),
            3,
            0,
            "overlap was not run",
        ),
        (not_run("lenet5", name="copies"), 3, 0, "of copies was not run: lenet5."),
        (not_run("a target", name="speed-small"), 3, 0, "of speed-small was not run: a target."),
        (not_run("the sources", name="compile"), 3, 0, "of compile was not run: the sources."),
        (not_run("the rest", name="answers", cut=True), 3, 3, "answers ran out of time."),
    ],
)
@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_an_incomplete_proof_ends_with_3(result, on_gpu, on_cpu, said, device, tmp_path, monkeypatch, capsys):
    """A target that was not run is none that was reached."""
    results = [Result("answers", "about", 1.0, (GOOD,)), result]
    place = dataclasses.replace(this_place("cpu"), device=device)
    monkeypatch.setattr(MAIN, "this_place", lambda _: place)
    monkeypatch.setattr(MAIN, "run_all", lambda checks, context, folder, tell: results)
    expected = on_gpu if device == "cuda" else on_cpu
    assert main(["--device", "cpu", "-o", str(tmp_path), "--prepared", "there"]) == expected
    out = capsys.readouterr().out
    assert ("Incomplete: " in out) == bool(expected)
    assert not expected or said in out
    page = (tmp_path / "gpu-check.md").read_text()
    assert ("| passed, out of time | " in page) == result.cut
    assert json.loads((tmp_path / "gpu-check.json").read_text())["incomplete"] == [said.rstrip(".")] * bool(
        expected
    )


def test_a_failure_is_worse_than_an_incomplete_proof(tmp_path, monkeypatch):
    results = [not_run("the rest", name="ragged", cut=True)]
    results.append(Result("answers", "about", 1.0, (Finding.of("lenet5", False, "wrong"),)))
    monkeypatch.setattr(MAIN, "run_all", lambda checks, context, folder, tell: results)
    assert main(["--device", "cpu", "-o", str(tmp_path), "--prepared", "there"]) == 1


def test_networks_are_compiled_before_by_a_process_of_its_own(here, tmp_path, monkeypatch, capsys):
    """And that is no part of what the checks take."""
    started = []
    monkeypatch.setattr(MAIN.subprocess, "run", lambda command, **_: started.append(command))
    monkeypatch.setattr(
        MAIN, "run_all", lambda checks, context, folder, tell: [Result("answers", "about", 1.0, (GOOD,))]
    )
    chosen = ["--networks", "lenet5", "--precisions", "float32"]
    assert main(["--device", "cpu", "-o", str(tmp_path), *chosen]) == 0
    (command,) = started
    assert command[:5] == [sys.executable, "-m", "models.gpu_check", "--prepare", str(tmp_path / "networks")]
    told = json.loads((tmp_path / "gpu-check.json").read_text())
    assert list(told["before"]) == ["networks"]
    assert told["seconds"] == 1.0
    assert told["total_seconds"] == 1.0 + told["before"]["networks"]
    page = (tmp_path / "gpu-check.md").read_text()
    assert "Made before the checks, and not in their 480 s: networks in 0 s." in page
    assert "Preparing, warming and checks together took 1 s." in page
    capsys.readouterr()
    command[command.index("--prepare") + 1] = str(here.folder)
    assert main(command[3:]) == 0
    assert capsys.readouterr().out == "lenet5, float32: was there\n"


def test_on_a_gpu_torch_compile_has_compiled_before_too(tmp_path, monkeypatch):
    order = []
    monkeypatch.setattr(MAIN, "_missing", lambda device: "")
    monkeypatch.setattr(MAIN, "this_place", lambda device: this_place("cpu"))
    monkeypatch.setattr(MAIN, "warm", lambda context: iter([order.append(context.peers) or GOOD]))
    monkeypatch.setattr(
        MAIN,
        "run_all",
        lambda checks, context, folder, tell: (
            order.append(context.peers) or [Result("answers", "about", 1.0, (GOOD,))]
        ),
    )
    main(["-o", str(tmp_path), "--prepared", "there"])
    assert order == [tmp_path / "peers"] * 2
    assert list(json.loads((tmp_path / "gpu-check.json").read_text())["before"]) == ["torch.compile's code"]


def test_a_machine_that_cannot_compile_keeps_what_was_prepared(here, monkeypatch, capsys):
    monkeypatch.setattr(MAIN, "find_spec", lambda name: None if name == "onnxscript" else name)
    before = sorted(here.folder.iterdir())
    for arguments in (["--prepare", str(here.folder)], ["--device", "cpu"]):
        assert main(arguments) == 2
        said = capsys.readouterr().err
        assert said.startswith("error: compiling needs onnxscript: ")
        assert "--prepared FOLDER" in said
    assert sorted(here.folder.iterdir()) == before


@pytest.mark.parametrize(("verdict", "code"), [("passed", 0), ("not run", 1)])
def test_torch_compile_can_compile_apart(tmp_path, monkeypatch, capsys, verdict, code):
    """Where one session is too short for its code and the checks."""
    given = []
    monkeypatch.setattr(MAIN, "_missing", lambda device: "")
    monkeypatch.setattr(
        MAIN, "warm", lambda context: iter([given.append(context) or Finding("a peer", verdict, "so long")])
    )
    assert main(["--warm", "--prepared", "there", "-o", str(tmp_path)]) == code
    assert (given[0].folder.name, given[0].peers) == ("there", tmp_path / "peers")
    assert capsys.readouterr().out == "a peer: so long\n"
    assert not list(tmp_path.iterdir())


def test_without_a_gpu_torch_compile_has_nothing_to_compile_for(capsys):
    assert main(["--warm", "--device", "cpu"]) == 2
    assert "is made on a GPU" in capsys.readouterr().err


WITHOUT_ONNX = """
import sys

class Refused:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("onnx", "onnx_ir", "onnxscript"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Refused())
"""


def test_a_machine_without_onnx_runs_what_was_prepared(here, tmp_path):
    """In every process: Python imports `sitecustomize` when it starts."""
    (tmp_path / "sitecustomize.py").write_text(WITHOUT_ONNX)
    names = sorted(path.stem for path in Path(models.gpu_check.__path__[0]).glob("*.py"))
    program = f"for name in {names}: __import__(f'models.gpu_check.{{name}}')"
    entries = [str(tmp_path), *(entry or "." for entry in sys.path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(entries)}
    common = {"env": environment, "capture_output": True, "text": True, "check": False, "timeout": 300}
    done = subprocess.run([sys.executable, "-c", program], **common)
    assert (done.returncode, done.stderr) == (0, "")
    chosen = ["--networks", "lenet5", "--precisions", "float32", "--only", "answers"]
    place = ["--device", "cpu", "--prepared", str(here.folder), "-o", str(tmp_path / "out")]
    done = subprocess.run([sys.executable, "-m", "models.gpu_check", *place, *chosen], **common)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "answers: passed" in done.stdout
