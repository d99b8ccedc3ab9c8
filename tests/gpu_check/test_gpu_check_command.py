"""The command: its report, its exit code, and what it compiles."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import sys

import pytest
import torch

from models.gpu_check import context
from models.gpu_check.__main__ import main
from models.gpu_check.context import compiled
from models.gpu_check.running import Result
from models.gpu_check.table import CHECKS, Finding
from nncompile_runtime import cuda
from nncompile_runtime.session import onnxruntime

from .breaking import verdicts

NO_GPU = pytest.mark.skipif(not cuda.examine(onnxruntime()).fault, reason="there is a GPU")


def test_a_dry_run_ends_with_a_report(here, tmp_path, capsys, monkeypatch):
    patient = tuple(dataclasses.replace(check, seconds=200) for check in CHECKS)
    monkeypatch.setattr(sys.modules["models.gpu_check.__main__"], "CHECKS", patient)
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
    assert (tmp_path / "out" / "logs" / "refusals.log").exists()
    text = (tmp_path / "out" / "gpu-check.md").read_text()
    assert "A dry run on the CPU" in text
    assert "| refusals | what must be refused is refused, by its name | passed |" in text
    assert "| float64 inputs | passed | " in text
    assert "What failed" not in text
    assert "refusals: passed" in capsys.readouterr().out


def test_a_failure_is_told_first_and_ends_with_1(here, tmp_path, capsys, monkeypatch):
    results = [Result("answers", "about", 1.0, (Finding.of("lenet5", False, "it is\nwrong | so"),))]
    monkeypatch.setattr(
        sys.modules["models.gpu_check.__main__"], "run_all", lambda checks, context, folder, tell: results
    )
    assert main(["--device", "cpu", "-o", str(tmp_path)]) == 1
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

    monkeypatch.setattr(sys.modules["models.gpu_check.__main__"], "run_all", stopped)
    with pytest.raises(KeyboardInterrupt):
        main(["--device", "cpu", "-o", str(tmp_path), "--only", "answers,refusals"])
    assert "not all yet" not in page.read_text()
    assert len(json.loads((tmp_path / "gpu-check.json").read_text())["checks"]) == 2


def test_where_nothing_passed_nothing_is_proved(tmp_path, monkeypatch):
    results = [Result("answers", "about", 1.0, (Finding("lenet5", "not run", "it is not there"),))]
    monkeypatch.setattr(
        sys.modules["models.gpu_check.__main__"], "run_all", lambda checks, context, folder, tell: results
    )
    assert main(["--device", "cpu", "-o", str(tmp_path)]) == 1


@NO_GPU
def test_without_a_gpu_one_line_says_so(tmp_path, capsys):
    assert main(["-o", str(tmp_path / "out")]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: cuda:0 cannot be had: ")
    assert said.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


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


def test_networks_can_be_prepared(here, capsys):
    arguments = ["--prepare", str(here.folder), "--networks", "lenet5", "--precisions", "float32"]
    assert main(arguments) == 0
    assert capsys.readouterr().out == "lenet5, float32: was there\n"


def test_a_network_that_cannot_be_compiled_fails_or_is_not_run(here, monkeypatch, tmp_path):
    fresh = dataclasses.replace(here, folder=tmp_path, precisions=("float32",))
    for error, verdict in ((ImportError("timm"), "not run"), (RuntimeError("it broke"), "failed")):

        def fails(*_, error=error):
            raise error

        monkeypatch.setattr(context, "_built", fails)
        assert verdicts(compiled(fresh))[-1] == verdict


def test_workers_share_the_processors(monkeypatch):
    free, taken, threads = set(range(5)), [], []
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: free, raising=False)
    monkeypatch.setattr(os, "sched_setaffinity", lambda _, mine: taken.append(mine), raising=False)
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    counter = multiprocessing.get_context("spawn").Value("i", 0)
    for _ in range(4):
        context._take_processors(counter)
    assert taken == [[0, 1], [2, 3], [4], [0, 1, 2, 3, 4]]
    assert threads == [2] * 4


def test_weights_are_kept_beside_the_files_and_batch_norms_are_live(here):
    module = here.module("lenet5")
    kept = torch.load(here.folder / "lenet5.pt", weights_only=True)
    assert all(torch.equal(weight, kept[name]) for name, weight in module.state_dict().items())
    norm = context._built("resnet18").get_submodule("bn1")
    assert norm.running_mean.abs().max() > 0
    assert not torch.equal(norm.running_var, torch.ones_like(norm.running_var))
