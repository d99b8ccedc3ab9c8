"""A check that fails, crashes or hangs does not stop the others."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import time

import pytest

from models.gpu_check import answers, running
from models.gpu_check.context import Context
from models.gpu_check.running import Result, perform, run_all, run_apart
from models.gpu_check.table import CHECKS, Check, Finding, NotRunError

from .breaking import BY_NAME, verdicts


def test_what_a_check_raises_is_a_finding(here, monkeypatch, capfd):
    def raises(_):
        yield Finding.of("first", True, "fine")
        raise ValueError("it broke")

    monkeypatch.setattr(answers, "answers", raises)
    assert verdicts(perform(BY_NAME["answers"], here)) == ["passed", "failed"]
    assert 'raise ValueError("it broke")' in capfd.readouterr().err  # the log has the whole traceback

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
        ("", ["failed"], "found nothing"),
    ],
)
def test_what_was_found_before_a_process_ended_is_kept(child, tmp_path, program, verdicts_found, said):
    start = time.monotonic()
    result = run_apart(BY_NAME["answers"], child(program), tmp_path, 30.0)
    assert time.monotonic() - start < 30
    assert verdicts(result.findings) == verdicts_found
    assert said in result.findings[-1].said
    assert result.status == verdicts_found[-1]
    assert not result.cut


@pytest.mark.parametrize(
    ("found", "status"), [(FOUND, "passed"), ("import sys, time; out = sys.stdout;", "not run")]
)
def test_a_check_without_time_left_is_not_run_rather_than_failed(child, tmp_path, found, status):
    program = found + "out.write('{\"what\"'); out.flush(); print('busy', flush=True); time.sleep(60)"
    result = run_apart(BY_NAME["answers"], child(program), tmp_path, 3.0)
    *before, last = result.findings
    assert verdicts(before) == ["passed"] * (found == FOUND)
    assert (last.verdict, last.what) == ("not run", "what is not above")
    assert "out of time after 3 s; the log ends with: " in last.said
    assert last.said.endswith("busy")
    assert (result.status, result.cut) == (status, True)


def test_no_time_at_all_is_none_to_begin_in(child, tmp_path):
    result = run_apart(BY_NAME["answers"], child(FOUND), tmp_path, -1.0)
    assert result.cut
    assert result.seconds < 30


def test_a_check_may_take_all_but_what_those_after_it_need(here, tmp_path, monkeypatch):
    given = []

    def apart(check, _, folder, seconds):
        assert folder == tmp_path
        given.append(round(seconds))
        return Result(check.name, "", 0.0, (Finding.of("a", check.name != "b", "said"),))

    monkeypatch.setattr(running, "run_apart", apart)
    told = []
    checks = [
        Check(name, seconds, "answers:answers", "") for name, seconds in (("a", 10), ("b", 5), ("c", 1))
    ]
    results = run_all(checks, here, tmp_path, told.append)
    assert given == [474, 479, 480]
    assert told == results
    assert [r.status for r in results] == ["passed", "failed", "passed"]
    assert sum(check.seconds for check in CHECKS) <= running.SECONDS  # so that none is left less than its own


@pytest.mark.parametrize(
    ("taken", "again"),
    [
        ({"a": 100.0, "b": 50.0}, [("a", 330.0)]),
        ({"a": 300.0, "b": 50.0}, []),  # 130 s are left, and it had 300
        ({"a": 20.0, "b": 30.0}, [("a", 430.0), ("b", 400.0)]),
    ],
)
def test_what_ran_out_of_time_is_run_once_more_where_more_is_left(here, tmp_path, monkeypatch, taken, again):
    clock, given, told = [0.0], [], []
    cut = {name for name, _ in again} or {"a"}

    def apart(check, _, folder, seconds):
        given.append((check.name, seconds))
        first = [name for name, _ in given].count(check.name) == 1
        spent = taken[check.name] if first else 30.0
        clock[0] += spent
        return Result(check.name, "", spent, (Finding.of("x", True, "y"),), cut=first and check.name in cut)

    monkeypatch.setattr(running, "run_apart", apart)
    monkeypatch.setattr(running.time, "monotonic", lambda: clock[0])
    checks = [Check(name, 10, "answers:answers", "") for name in "ab"]
    results = run_all(checks, here, tmp_path, told.append)
    assert given[2:] == again
    assert [r.name for r in results] == ["a", "b"]
    assert [r.seconds for r in results] == [taken[name] + 30.0 * (name in dict(again)) for name in "ab"]
    assert [r.cut for r in results] == [not again, False]
    assert [r.name for r in told] == ["a", "b", *(name for name, _ in again)]


@pytest.mark.parametrize(
    ("first", "second", "cut", "kept"),
    [
        (["passed", "not run"], ["passed"] * 3, False, ["passed"] * 3),
        (["passed", "not run"], ["passed", "passed", "not run"], True, ["passed", "passed", "not run"]),
        (["passed", "passed", "not run"], ["passed", "not run"], True, ["passed", "passed", "not run"]),
        (["passed", "passed", "not run"], ["failed", "not run"], True, ["failed", "not run"]),
        (["failed", "not run"], ["passed"] * 3, False, ["failed", "not run"]),
    ],
)
def test_a_second_try_hides_nothing(here, tmp_path, monkeypatch, first, second, cut, kept):
    tries = iter([(first, True), (second, cut)])

    def apart(check, *_):
        found, was_cut = next(tries)
        return Result(check.name, "", 1.0, tuple(Finding("x", v, "y") for v in found), was_cut)

    monkeypatch.setattr(running, "run_apart", apart)
    (result,) = run_all([Check("a", 10, "answers:answers", "")], here, tmp_path, lambda _: None)
    assert verdicts(result.findings) == kept
    assert result.seconds == (1.0 if "failed" in first else 2.0)


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


def test_the_context_crosses_to_another_process(here, tmp_path):
    for context in (here, dataclasses.replace(here, peers=tmp_path)):
        assert Context.from_json(context.as_json()) == context
