"""Whether a target of speed was reached."""

from __future__ import annotations

import dataclasses

import pytest

from models.gpu_check import speed
from models.gpu_check.context import Context
from models.gpu_check.table import NotRunError
from nncompile.bench.results import Absent
from nncompile.bench.roofline import Shares
from nncompile.bench.timing import Schedule
from nncompile_runtime import container


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
    late = {"torch-compile-max-autotune": "It takes longer than 9 s."}
    found = speed.judged(report, speed.Target("lenet5", "torch-compile-max-autotune", 1.0), 1, late)
    assert (found.verdict, "longer than 9 s" in found.said) == ("not run", True)
    rows = tuple(row for row in report.rows if row.engine != "nncompile")
    found = speed.judged(dataclasses.replace(report, rows=rows), speed.Target("lenet5", "eager", 1.0), 1)
    assert found.verdict == "failed"


def test_what_was_exported_beforehand_is_run(here, monkeypatch):
    """A machine with a GPU may lack what exports."""
    given = []

    def runs(*_, exported, **__):
        given.append(exported)
        raise NotRunError("enough")

    monkeypatch.setattr(speed, "run", runs)
    for folder, found in ((here.folder, here.exported("lenet5", "float32")), (here.folder / "empty", None)):
        there = dataclasses.replace(here, folder=folder)
        monkeypatch.setattr(Context, "file", lambda self, *_: here.path("lenet5", "float32"))
        with pytest.raises(NotRunError, match="enough"):
            list(speed.small(there))
        assert given.pop() == found
    assert "Conv" in container.read(here.exported("lenet5", "float32")).facts.operators


@pytest.mark.parametrize(
    ("launches", "launch", "said"), [(3, 0.125, "3 launches 12 %"), (None, None, "launches not counted")]
)
def test_the_share_of_each_line_of_the_roofline_is_told(report, launches, launch, said):
    shares = Shares(0.25, 0.5, launch)
    rows = [dataclasses.replace(row, share=0.5, launches=launches, shares=shares) for row in report.rows]
    found = list(speed._told(dataclasses.replace(report, rows=tuple(rows)), "lenet5", 1))
    assert {finding.verdict for finding in found} == {"told"}
    assert found[0].said.endswith(f"; 50 % of the limit: FLOPs 25 %, bytes 50 %, {said}")
    *found, limit = speed._told(report, "lenet5", 1)
    assert found[0].said.endswith(" of the limit")  # of a processor
    assert (limit.what, limit.verdict) == ("lenet5, batch 1: the limit", "told")
    *_, missing = speed._told(dataclasses.replace(report, roofline=None), "lenet5", 1)
    assert (missing.what, missing.verdict) == ("lenet5, batch 1: the roofline", "not run")
