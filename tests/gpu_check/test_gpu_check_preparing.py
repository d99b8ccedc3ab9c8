"""What is compiled before the checks begin: once, undisturbed, and never taken for what it is not."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import shutil
from concurrent.futures import Future
from typing import ClassVar

import pytest
import torch

import nncompile
from models.gpu_check import context, preparing, record
from models.gpu_check.preparing import prepare, there
from models.gpu_check.record import OF_NETWORKS, OF_PEERS, RECORD, Maker, Record, sources
from models.gpu_check.table import Finding
from nncompile.passes import fuse_linear_relu
from nncompile.passes.layer_race import Verdict

from .breaking import verdicts

OTHER = Maker("other sources", {}, "")


@pytest.fixture
def folder(here, tmp_path):
    """The prepared networks once more, to be broken."""
    shutil.copytree(here.folder, tmp_path / "networks")
    return dataclasses.replace(here, folder=tmp_path / "networks")


@pytest.fixture
def compiling(monkeypatch):
    """Says what would be compiled, and leaves a file there."""
    asked = []

    def compiles(made, name, precision):
        asked.append((name, precision))
        made.path(name, precision).write_bytes(b"a network")
        return "compiled"

    monkeypatch.setattr(preparing, "_compile", compiles)
    return asked


def test_what_is_there_is_not_compiled_anew(folder, compiling):
    assert {finding.said for finding in prepare(folder)} == {"was there"}
    assert not compiling


@pytest.mark.parametrize(
    "maker",
    [
        OTHER,
        dataclasses.replace(record.this_maker(), versions={"torch": "0"}),
        dataclasses.replace(record.this_maker(), gpu="Another GPU"),
    ],
)
def test_what_another_compiler_made_is_compiled_anew(folder, compiling, monkeypatch, maker):
    own = folder.folder / "notes.txt"
    own.write_text("the user's")
    monkeypatch.setattr(preparing, "this_maker", lambda: maker)
    assert verdicts(prepare(folder)) == ["passed"] * 3
    assert sorted(compiling) == [("lenet5", "float16"), ("lenet5", "float32")]
    assert not (folder.folder / "lenet5.pt").exists()  # which another network may not take
    assert not folder.exported("lenet5", "float32").exists()
    assert own.exists()
    assert Record.read(folder.folder).maker == maker


@pytest.mark.parametrize("text", ["", "{}", '{"maker": {"sources": 1}, "found": []}'])
def test_a_record_that_cannot_be_read_is_none(folder, compiling, text):
    (folder.folder / RECORD).write_text(text)
    assert Record.read(folder.folder) is None
    assert [finding.verdict for finding in there(folder)] == ["failed"]
    list(prepare(folder))
    assert len(compiling) == 2


def test_what_failed_or_is_gone_is_tried_again(folder, compiling):
    was = Record.read(folder.folder)
    was.found["lenet5, float16"] = Finding.of("lenet5, float16", False, "it broke")
    was.write(folder.folder)
    folder.path("lenet5", "float32").unlink()
    list(prepare(folder))
    assert sorted(compiling) == [("lenet5", "float16"), ("lenet5", "float32")]
    assert set(verdicts(Record.read(folder.folder).found.values())) == {"passed"}


@pytest.mark.parametrize(
    ("error", "verdict"), [(ImportError("timm"), "not run"), (RuntimeError("it broke"), "failed")]
)
def test_a_network_that_cannot_be_compiled_fails_or_is_not_run(here, monkeypatch, tmp_path, error, verdict):
    fresh = dataclasses.replace(here, folder=tmp_path, precisions=("float32",))

    def fails(*_):
        raise error

    monkeypatch.setattr(context, "_built", fails)
    assert verdicts(prepare(fresh))[-1] == verdict
    (finding,) = there(fresh)  # another process tells it
    assert (finding.verdict, str(error) in finding.said) == (verdict, True)


def test_networks_that_are_there_are_told(here):
    findings = list(there(here))
    assert verdicts(findings) == ["passed"] * 2
    assert all("compiled in" in finding.said for finding in findings)


def damaged(made):
    path = made.path("lenet5", "float32")
    path.write_bytes(path.read_bytes()[:-100])


def unverified(made):
    module = made.module("lenet5")
    example = torch.from_numpy(made.inputs("lenet5", 2))
    nncompile.compile(module, example, target="cuda", verify=False).save(made.path("lenet5", "float32"))


@pytest.mark.parametrize(
    ("breaks", "said"),
    [
        (lambda made: made.path("lenet5", "float32").unlink(), "lenet5-float32.onnx"),
        (damaged, "lenet5-float32.onnx"),
        (unverified, "verification: skipped"),
    ],
)
def test_networks_that_are_not_what_the_record_says_fail(folder, breaks, said):
    breaks(folder)
    findings = list(there(folder))
    assert verdicts(findings) == ["failed", "passed"]
    assert said in findings[0].said


def test_a_network_that_nobody_prepared_fails(here):
    more = dataclasses.replace(here, networks=("lenet5", "net"), precisions=("float32",))
    findings = list(there(more))
    assert [(f.what, f.verdict) for f in findings] == [
        ("lenet5, float32", "passed"),
        ("net, float32", "failed"),
    ]


def test_networks_of_other_sources_are_run_but_prove_nothing(folder):
    was = Record.read(folder.folder)
    Record(dataclasses.replace(was.maker, sources="other"), was.found).write(folder.folder)
    assert next((f.what, f.verdict) for f in there(folder)) == ("the sources", "not run")


@pytest.mark.parametrize(
    ("prepared_on", "said"), [("", "without a GPU"), ("Another GPU", "on Another GPU"), ("This GPU", None)]
)
def test_where_linear_layers_were_raced_is_told(folder, monkeypatch, prepared_on, said):
    was = Record.read(folder.folder)
    Record(dataclasses.replace(was.maker, gpu=prepared_on), was.found).write(folder.folder)
    monkeypatch.setattr(preparing, "gpu", lambda: "This GPU")
    findings = [f for f in there(dataclasses.replace(folder, device="cuda")) if "race" in f.what]
    assert [f.verdict for f in findings] == ["told"] * bool(said)
    assert not said or (said in findings[0].said and "not raced on This GPU" in findings[0].said)
    assert not [f for f in there(folder) if "race" in f.what]  # a dry run has no GPU to race on


class Pool:
    """Stands in for processes: what it is given is compiled here."""

    given: ClassVar[list] = []

    def __init__(self, workers, *_):
        self.workers = workers

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def submit(self, call, what, make, made, *job):
        self.given.append((self.workers, job))
        done = Future()
        done.set_result(call(what, make, made, *job))
        return done


@pytest.mark.parametrize(
    ("processors", "raced", "together"),
    [
        (
            8,
            False,
            [("lenet5", "float32"), ("lenet5", "tf32"), ("lenet5", "float16"), ("lenet5", "bfloat16")],
        ),
        (8, True, [("lenet5", "float16"), ("lenet5", "bfloat16")]),
        (2, True, []),
    ],
)
def test_what_is_large_or_raced_has_the_machine_for_itself(
    here, compiling, monkeypatch, tmp_path, processors, raced, together
):
    given = []
    monkeypatch.setattr(Pool, "given", given)
    machine = dataclasses.replace(preparing.this_machine(), processors=processors)
    monkeypatch.setattr(preparing, "this_machine", lambda: machine)
    monkeypatch.setattr(preparing, "ProcessPoolExecutor", Pool)
    all_of_them = ("float32", "tf32", "float16", "bfloat16")
    made = dataclasses.replace(here, folder=tmp_path, networks=("resnet18", "lenet5"), precisions=all_of_them)
    wanted = preparing._jobs(made)
    findings = list(preparing._made(made, wanted, raced=raced))
    assert [job for _, job in given] == together
    assert {workers for workers, _ in given} <= {min(4, len(together))}
    assert compiling == [job for job in wanted if job not in together] + together
    assert len(findings) == len(wanted)


def test_only_what_computes_in_float32_is_raced(here, monkeypatch, tmp_path):
    """So nothing is raced by the processes that compile several networks at once."""
    raced = []
    monkeypatch.setattr(
        fuse_linear_relu, "measured", lambda layer, precision, _: raced.append(precision) or NO
    )
    made = dataclasses.replace(here, folder=tmp_path, networks=("mlp",))
    for precision in ("float16", "bfloat16"):
        preparing._compile(made, "mlp", precision)
    assert not raced
    preparing._compile(made, "mlp", "tf32")
    assert set(raced) == {"tf32"}


NO = Verdict(False, "slower")


def test_workers_share_the_processors_and_see_no_gpu(monkeypatch):
    free, taken, threads = set(range(5)), [], []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: free, raising=False)
    monkeypatch.setattr(os, "sched_setaffinity", lambda _, mine: taken.append(mine), raising=False)
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    counter = multiprocessing.get_context("spawn").Value("i", 0)
    for _ in range(4):
        preparing._take_processors(counter)
    assert taken == [[0, 1], [2, 3], [4], [0, 1, 2, 3, 4]]
    assert threads == [2] * 4
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""


def test_sources_are_what_decides_what_is_compiled(tmp_path):
    """A fix of the runtime makes networks anew, but not what an engine took minutes to autotune."""

    def digests(path, text):
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return sources(OF_NETWORKS, tmp_path), sources(OF_PEERS, tmp_path)

    before = digests("nncompile/passes/a.py", "1")
    for path, changed in {
        "nncompile/passes/a.py": (True, False),
        "runtime/b.py": (True, False),
        "models/gpu_check/preparing.py": (True, False),
        "nncompile/bench/engines/c.py": (True, True),
        "models/lenet.py": (True, True),
        "models/gpu_check/warming.py": (False, True),
        "models/gpu_check/answers.py": (False, False),  # a check
    }.items():
        after = digests(path, "2")
        assert tuple(a != b for a, b in zip(after, before, strict=True)) == changed, path
        before = after
    (tmp_path / "models/lenet.py").rename(tmp_path / "models/net.py")
    assert not {sources(code, tmp_path) for code in (OF_NETWORKS, OF_PEERS)} & {*before}
    assert record.sources() == record.this_maker().sources


def test_weights_are_kept_beside_the_files_and_batch_norms_are_live(here):
    module = here.module("lenet5")
    kept = torch.load(here.folder / "lenet5.pt", weights_only=True)
    assert all(torch.equal(weight, kept[name]) for name, weight in module.state_dict().items())
    norm = context._built("resnet18").get_submodule("bn1")
    assert norm.running_mean.abs().max() > 0
    assert not torch.equal(norm.running_var, torch.ones_like(norm.running_var))
