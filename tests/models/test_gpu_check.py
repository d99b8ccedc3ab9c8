"""`make gpu-check`: its dry run on the CPU, and that each check can fail."""

import dataclasses
import json
import subprocess
import sys
import time
from collections import Counter
from functools import partial

import numpy as np
import pytest
import torch

from models.gpu_check import answers, behaviour, context, memory, running, speed, strictness
from models.gpu_check.__main__ import main
from models.gpu_check.context import Context, compiled
from models.gpu_check.running import Result, perform, run_all, run_apart
from models.gpu_check.table import CHECKS, Check, Finding, NotRunError
from nncompile import DeviceError, InputError, Predictor
from nncompile.bench import roofline
from nncompile.bench.ceilings import Ceilings, Rung
from nncompile.bench.results import Absent
from nncompile.bench.timing import Schedule
from nncompile_runtime import cuda
from nncompile_runtime.session import onnxruntime

BY_NAME = {check.name: check for check in CHECKS}
NO_GPU = pytest.mark.skipif(not cuda.examine(onnxruntime()).fault, reason="there is a GPU")


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Context:
    """One network in two precisions, compiled as the check compiles it."""
    folder = tmp_path_factory.mktemp("gpu-check")
    made = Context("cpu", folder, ("lenet5",), ("float32", "float16"), seconds=0.01, calls=130)
    findings = list(compiled(made))
    assert [f.verdict for f in findings] == ["passed"] * 3, findings
    assert {f.said for f in compiled(made)} == {"was there"}
    return made


def verdicts(findings):
    return [finding.verdict for finding in findings]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("answers", {"passed"}),
        ("refusals", {"passed", "not run"}),
        ("placement", {"passed"}),
        ("copies", {"not run"}),
        ("memory", {"passed"}),
        ("out-of-memory", {"not run"}),
        ("ragged", {"passed"}),
        ("concurrent", {"passed"}),
        ("speed-small", {"told", "not run"}),
        ("speed-resnet18", {"not run"}),
    ],
)
def test_every_check_runs_on_the_cpu_as_far_as_it_makes_sense(here, monkeypatch, name, expected):
    monkeypatch.setattr(behaviour, "_CALLS", 5)
    monkeypatch.setattr(speed, "Schedule", partial(Schedule, rounds=2, warmup=0.001, pause=0.0))
    findings = list(perform(BY_NAME[name], here))
    assert set(verdicts(findings)) == expected, findings
    assert all(finding.said for finding in findings)


def test_ceilings_are_told(here, monkeypatch):
    monkeypatch.setattr(speed, "ORDERS", (64,))
    monkeypatch.setattr(speed, "SIZES", (1 << 12, 1 << 14, 1 << 16))
    findings = list(perform(BY_NAME["ceilings"], here))
    assert set(verdicts(findings)) == {"told"}
    assert [f.what for f in findings][-2:] == ["bandwidth of a copy", "shortest call"]


def test_the_table_fits_into_eight_minutes_and_every_place_exists():
    assert sum(check.seconds for check in CHECKS) <= 480
    assert len(BY_NAME) == len(CHECKS)
    modules = {"answers": answers, "behaviour": behaviour, "memory": memory, "context": context}
    modules |= {"strictness": strictness, "speed": speed}
    for check in CHECKS:
        module, function = check.place.split(":")
        assert callable(getattr(modules[module], function))


# What each check is there for: something is broken on purpose, and it says so.


def broken(predict):
    """A predictor's `predict` with its answers changed."""
    return lambda self, *args, **kwargs: predict(real(self, *args, **kwargs))


real = Predictor.predict


def patch(monkeypatch, predict):
    monkeypatch.setattr(Predictor, "predict", predict)
    monkeypatch.setattr(Predictor, "__call__", predict)


@pytest.mark.parametrize("network_precision", ["float32", "float16"])
def test_wrong_answers_are_found(here, monkeypatch, network_precision):
    off = {"float32": 1.01, "float16": 1.3}[network_precision]
    patch(monkeypatch, broken(lambda y: y * off))
    only = dataclasses.replace(here, precisions=(network_precision,))
    (finding,) = answers.answers(only)
    assert finding.verdict == "failed"
    assert "largest error" in finding.said


def test_tf32_is_judged_as_ten_bits_and_float32_is_not(here, monkeypatch):
    """The tf32 file is the float32 one; on the CPU neither rounds, so an error of 10 bits is put in."""
    both = dataclasses.replace(here, precisions=("float32", "tf32"))
    list(compiled(both))
    patch(monkeypatch, broken(lambda y: y * (1 + 2**-9)))
    assert verdicts(answers.answers(both)) == ["failed", "passed"]


def test_a_network_that_is_not_there_is_not_run(here):
    both = dataclasses.replace(here, networks=("lenet5", "net"))
    for check in (answers.answers, strictness.placement):
        assert verdicts(check(both)) == ["passed", "passed", "not run", "not run"]


def test_what_is_not_refused_is_found(here, monkeypatch):
    patch(monkeypatch, lambda self, *args: "an answer")
    failed = [f for f in strictness.refusals(here) if f.verdict == "failed"]
    assert {f.what for f in failed} == {"float64 inputs", "an input of another rank"}
    assert all("not refused, but answered with str" in f.said for f in failed)


@pytest.mark.parametrize(
    ("error", "passed"),
    [
        (InputError("It expects float32.", remedy="Cast it."), True),
        (InputError("It expects float32."), False),  # no remedy
        (InputError("Something else.", remedy="Cast it."), False),  # does not name it
        (DeviceError("It expects float32.", remedy="Cast it."), False),  # another kind
        (TypeError("float32"), False),
    ],
)
def test_a_refusal_is_of_a_kind_names_the_fault_and_has_a_remedy(error, passed):
    def request():
        raise error

    found = strictness._refused("a request", request, InputError, "float32")
    assert found.verdict == ("passed" if passed else "failed")


def test_a_node_elsewhere_is_found(here, monkeypatch):
    monkeypatch.setitem(strictness._PROVIDERS, "cpu", "CUDAExecutionProvider")
    found = list(strictness.placement(here))
    assert set(verdicts(found)) == {"failed"}
    assert "on CPUExecutionProvider" in found[0].said


def test_only_arithmetic_on_shapes_may_be_elsewhere(here, monkeypatch):
    nodes = {("CPUExecutionProvider", "Conv"): 3, ("Other", "Gather"): 1}
    monkeypatch.setattr(strictness, "executed", lambda *_: Counter(nodes))
    assert set(verdicts(strictness.placement(here))) == {"passed"}
    for bad in (("Other", "Gemm"), ("CPUExecutionProvider", "MemcpyToHost")):
        monkeypatch.setattr(strictness, "executed", lambda *_, bad=bad: Counter(nodes | {bad: 1}))
        assert set(verdicts(strictness.placement(here))) == {"failed"}
    monkeypatch.setattr(strictness, "executed", lambda *_: Counter({}))
    assert set(verdicts(strictness.placement(here))) == {"failed"}  # nothing was recorded


@pytest.mark.parametrize(
    ("arrays", "tensors", "verdict"),
    [
        ({"HtoD": 1, "DtoH": 1}, {"DtoD": 2}, "passed"),
        ({"HtoD": 1, "DtoH": 1}, {"DtoH": 1}, "failed"),
        ({"HtoD": 1, "DtoH": 1}, {"HtoD": 1}, "failed"),
        ({}, {}, "not run"),  # where copies of arrays do not show, none would
    ],
)
def test_copies_are_believed_only_where_those_of_arrays_show(here, monkeypatch, arrays, tensors, verdict):
    seen = iter([Counter(arrays), Counter(tensors)] * 2)
    monkeypatch.setattr(strictness, "copied", lambda *_: next(seen))
    one = dataclasses.replace(here, precisions=("float32",))
    assert verdicts(strictness.copies(one)) == [verdict]


def test_copies_are_read_off_the_profilers_events(here, monkeypatch):
    class Profiler:
        def __init__(self, activities):
            assert torch.profiler.ProfilerActivity.CUDA in activities

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

        def events(self):
            names = (
                "aten::mm",
                "Memcpy HtoD (Pageable -> Device)",
                "Memcpy DtoH (Device -> Pinned)",
                "Memcpy",
            )
            return [type("Event", (), {"name": name}) for name in (*names, names[1], "Memset (Device)")]

    monkeypatch.setattr(torch.profiler, "profile", Profiler)
    calls = []
    found = strictness.copied(lambda: calls.append(1), here)
    assert found == {"HtoD": 2, "DtoH": 1}
    assert len(calls) == 3


def test_a_leak_is_found(here, monkeypatch):
    kept = []

    def leaks(self, *args):
        kept.append(np.ones(1 << 17))  # 1 MiB a call
        return real(self, *args)

    patch(monkeypatch, leaks)
    assert set(verdicts(memory.flat(here))) == {"failed"}


class Gpu:
    """A predictor under a memory limit, as it should be or broken, and the memory of its GPU."""

    def __init__(self, fault):
        self.fault, self.taken, self.failed = fault, 0, False

    def __call__(self, x):
        if len(x) > 1 and self.fault != "no limit":
            self.failed = True
            self.taken += (8 << 20) * (self.fault == "leak")
            raise (RuntimeError if self.fault == "untyped" else DeviceError)(
                "It takes more memory than there is.",
                **{} if self.fault == "untyped" else {"remedy": "Less."},
            )
        if self.failed and self.fault == "lost":
            raise DeviceError("The session is lost.", remedy="Load it again.")
        return np.ones((1, 3), np.float32) * (2 if self.failed and self.fault == "wrong" else 1)

    def flatten_result(self, result):
        return [result]

    def used(self):
        return self.taken


@pytest.mark.parametrize(
    ("fault", "failed"),
    [
        ("", set()),
        ("no limit", {"resnet18, batch 1024"}),
        ("untyped", {"resnet18, batch 1024"}),
        ("lost", {"batch 1 after it"}),
        ("wrong", {"batch 1 after it"}),
        ("leak", {"memory of the GPU"}),
    ],
)
def test_out_of_memory_must_be_typed_and_recovered(here, monkeypatch, fault, failed):
    gpu = Gpu(fault)
    monkeypatch.setattr(memory, "GpuMemory", lambda number: gpu)
    monkeypatch.setattr(memory, "_TOO_MANY", 1024)
    monkeypatch.setattr(memory.np, "zeros", lambda shape, dtype: np.broadcast_to(np.float32(0), shape))
    monkeypatch.setattr(Context, "load", lambda self, name, precision, plan: gpu)
    monkeypatch.setattr(Context, "inputs", lambda self, name, batch: np.ones((batch, 3), np.float32))
    found = list(memory.out_of_memory(dataclasses.replace(here, networks=("resnet18",))))
    assert {f.what.split(" in ")[0] for f in found if f.verdict == "failed"} == failed, found


def test_a_batch_that_answers_otherwise_is_found(here, monkeypatch):
    def wrong_at_17(self, x):
        return real(self, x) * (1.01 if len(x) == 17 and self.plan.micro_batch else 1)

    patch(monkeypatch, wrong_at_17)
    failed = [f for f in behaviour.ragged(here) if f.verdict == "failed"]
    assert [f.what.split(", ")[-1] for f in failed] == ["arrays", "tensors"]
    assert all("batch 17" in f.said for f in failed)


def test_an_output_that_a_later_call_overwrites_is_found(here, monkeypatch):
    buffers = {}

    def reuses(self, x):
        result = real(self, x)
        kept = buffers.setdefault((id(self), type(result), tuple(result.shape)), result)
        kept[...] = result
        return kept

    patch(monkeypatch, reuses)
    monkeypatch.setattr(behaviour, "_BATCHES", (3, 3))
    found = {f.what.split(", ")[-1]: f.verdict for f in behaviour.ragged(here)}
    assert found["arrays"] == found["tensors"] == "failed"


def test_answers_that_callers_mix_up_are_found(here, monkeypatch):
    last = []

    def mixes(self, x):
        last.append(real(self, x))
        same = [y for y in last[-20:] if y.shape == last[-1].shape and type(y) is type(last[-1])]
        return same[0]

    monkeypatch.setattr(behaviour, "_CALLS", 5)
    patch(monkeypatch, mixes)
    assert "failed" in verdicts(behaviour.concurrent(here))


@pytest.fixture(scope="module", autouse=True)
def known_ceilings():
    """Those of the processors take seconds to measure, and no check here looks at them."""
    with pytest.MonkeyPatch.context() as patched:
        known = Ceilings(1, 1e11, "a product", (Rung(1 << 20, 1e10),))
        patched.setattr(roofline, "measure_ceilings", lambda threads: known)
        yield


@pytest.fixture(scope="module")
def report(here):
    return speed.run(
        here.file("lenet5", "float32"),
        (1,),
        ("onnxruntime", "eager"),
        module=here.module("lenet5"),
        schedule=Schedule(rounds=3, seconds=0.01, warmup=0.001, pause=0.0),
    )


@pytest.mark.parametrize(
    ("theirs", "least", "verdict"), [(30.0, 3.0, "passed"), (29.0, 3.0, "failed"), (10.0, 1.0, "passed")]
)
def test_a_target_is_reached_or_not(report, theirs, least, verdict):
    rows = [
        dataclasses.replace(row, medians=(10.0,) * 3 if row.engine == "nncompile" else (theirs,) * 3)
        for row in report.rows
    ]
    target = speed.Target("lenet5", "onnxruntime", least)
    found = speed.judged(dataclasses.replace(report, rows=tuple(rows)), target, 1)
    assert found.verdict == verdict
    assert f"{theirs / 10:.2f} [{theirs / 10:.2f}, {theirs / 10:.2f}] times as fast" in found.said


def test_a_target_is_judged_by_the_tuned_plan_where_it_was_timed(report):
    tuned = dataclasses.replace(report.row("nncompile", 1), engine="nncompile-tuned")
    found = speed.judged(
        dataclasses.replace(report, rows=(*report.rows, tuned)), speed.Target("lenet5", "eager", 0.0), 1
    )
    assert found.said.startswith("nncompile-tuned is")


def test_a_target_without_its_peer_is_not_run_and_without_us_failed(report):
    absent = (Absent("torch-compile-reduce-overhead", "It needs Triton."),)
    found = speed.judged(
        dataclasses.replace(report, absent=absent),
        speed.Target("lenet5", "torch-compile-reduce-overhead", 1.0),
        1,
    )
    assert (found.verdict, "needs Triton" in found.said) == ("not run", True)
    rows = tuple(row for row in report.rows if row.engine != "nncompile")
    found = speed.judged(dataclasses.replace(report, rows=rows), speed.Target("lenet5", "eager", 1.0), 1)
    assert found.verdict == "failed"


# Running: a check that fails, crashes or hangs does not stop the others.


def test_what_a_check_raises_is_a_finding(here, monkeypatch):
    def raises(_):
        yield Finding.of("first", True, "fine")
        raise ValueError("it broke")

    monkeypatch.setattr(answers, "answers", raises)
    assert verdicts(perform(BY_NAME["answers"], here)) == ["passed", "failed"]

    def cannot(_):
        raise NotRunError("no such thing here")
        yield

    monkeypatch.setattr(answers, "answers", cannot)
    assert list(perform(BY_NAME["answers"], here)) == [Finding("answers", "not run", "no such thing here")]


@pytest.fixture
def child(monkeypatch, tmp_path):
    """Lets `run_apart` start a small program instead of a check."""

    def starts(program):
        popen = subprocess.Popen

        def start(command, **options):
            return popen([sys.executable, "-c", program, *command[3:]], **options)

        monkeypatch.setattr(running.subprocess, "Popen", start)
        return Context("cpu", tmp_path)

    return starts


FOUND = (
    "import json, os, sys, time; out = open(sys.argv[3], 'a');"
    "print(json.dumps({'what': 'a', 'verdict': 'passed', 'said': 'fine'}), file=out, flush=True);"
)


@pytest.mark.parametrize(
    ("program", "verdicts_found", "said"),
    [
        (FOUND, ["passed"], "fine"),
        (FOUND + "os.abort()", ["passed", "failed"], "ended with signal 6"),
        (FOUND + "sys.exit('all is lost')", ["passed", "failed"], "exit code 1: all is lost"),
        (
            FOUND + "out.write('{\"what\"'); out.flush(); time.sleep(60)",
            ["passed", "failed"],
            "ended after 1 s",
        ),
        ("", ["failed"], "found nothing"),
    ],
)
def test_what_was_found_before_a_process_ended_is_kept(child, program, verdicts_found, said):
    start = time.monotonic()
    result = run_apart(BY_NAME["answers"], child(program), 1.0 if "sleep" in program else 30.0)
    assert time.monotonic() - start < 30
    assert verdicts(result.findings) == verdicts_found
    assert said in result.findings[-1].said
    assert result.status == verdicts_found[-1]


def test_time_that_is_left_over_goes_to_the_next_check(here, monkeypatch):
    given = []

    def apart(check, _, seconds):
        given.append(round(seconds))
        return Result(check.name, "", 0.0, (Finding.of("a", check.name != "b", "said"),))

    monkeypatch.setattr(running, "run_apart", apart)
    told = []
    checks = [
        Check(name, seconds, "answers:answers", "") for name, seconds in (("a", 10), ("b", 5), ("c", 1))
    ]
    results = run_all(checks, here, told.append)
    assert given == [10, 15, 16]
    assert told == results
    assert [r.status for r in results] == ["passed", "failed", "passed"]


@pytest.mark.parametrize(
    ("found", "status"),
    [
        (["passed", "not run", "told"], "passed"),
        (["passed", "failed"], "failed"),
        (["not run", "told"], "told"),
        (["not run"], "not run"),
    ],
)
def test_a_check_is_what_its_findings_are(found, status):
    assert Result("a", "", 0.0, tuple(Finding("x", v, "y") for v in found)).status == status


def test_the_context_crosses_to_another_process(here):
    assert Context.from_json(here.as_json()) == here


# The command.


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
    text = (tmp_path / "out" / "gpu-check.md").read_text()
    assert "A dry run on the CPU" in text
    assert "| refusals | what must be refused is refused, by its name | passed |" in text
    assert "| float64 inputs | passed | " in text
    assert "What failed" not in text
    assert "refusals: passed" in capsys.readouterr().out


def test_a_failure_is_told_first_and_ends_with_1(here, tmp_path, capsys, monkeypatch):
    results = [Result("answers", "about", 1.0, (Finding.of("lenet5", False, "it is\nwrong | so"),))]
    monkeypatch.setattr(
        sys.modules["models.gpu_check.__main__"], "run_all", lambda checks, context, tell: results
    )
    assert main(["--device", "cpu", "-o", str(tmp_path)]) == 1
    assert "## What failed\n\n- answers: lenet5: it is wrong | so" in (tmp_path / "gpu-check.md").read_text()
    assert "findings: 0 passed, 1 failed, 0 not run" in capsys.readouterr().out


def test_where_nothing_passed_nothing_is_proved(tmp_path, monkeypatch):
    results = [Result("answers", "about", 1.0, (Finding("lenet5", "not run", "it is not there"),))]
    monkeypatch.setattr(
        sys.modules["models.gpu_check.__main__"], "run_all", lambda checks, context, tell: results
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


def test_weights_are_kept_beside_the_files_and_batch_norms_are_live(here):
    module = here.module("lenet5")
    kept = torch.load(here.folder / "lenet5.pt", weights_only=True)
    assert all(torch.equal(weight, kept[name]) for name, weight in module.state_dict().items())
    norm = context._built("resnet18").get_submodule("bn1")
    assert norm.running_mean.abs().max() > 0
    assert not torch.equal(norm.running_var, torch.ones_like(norm.running_var))
