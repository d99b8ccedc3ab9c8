"""A peer that takes too long is left out with the reason; what it compiled in time is found."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time

import pytest

from models.gpu_check import speed
from models.gpu_check.context import Context
from models.gpu_check.table import NotRunError
from models.gpu_check.warming import warmed


def test_an_engine_runs_beforehand_in_a_process_of_its_own(here, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "before")
    with warmed("eager", here, "lenet5", "float32", 2, 100.0) as why_not:
        assert why_not == ""
        assert os.environ["TORCHINDUCTOR_CACHE_DIR"].endswith("inductor-eager")
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "before"


def test_what_takes_too_long_is_ended(here, monkeypatch):
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    start = time.monotonic()
    with warmed("eager", here, "lenet5", "float32", 2, 0.1) as why_not:
        assert "takes longer than 0 s" in why_not
    assert time.monotonic() - start < 60
    assert "TORCHINDUCTOR_CACHE_DIR" not in os.environ


@pytest.mark.parametrize("why_not", ["", "A fresh process with it takes longer than 25 s."])
def test_the_peer_that_is_late_is_not_timed(here, monkeypatch, why_not):
    peer, given = "torch-compile-max-autotune", []

    @contextlib.contextmanager
    def late(engine, context, name, precision, batch, seconds):
        assert (engine, name, precision, batch) == (peer, "resnet18", "float16", 256)
        assert 20 < seconds <= 25  # the rest is for the engines themselves
        yield why_not

    def runs(file, batches, peers, **_):
        given.extend(peers)
        raise NotRunError("enough")

    monkeypatch.setattr(speed, "warmed", late)
    monkeypatch.setattr(speed, "run", runs)
    monkeypatch.setattr(Context, "file", lambda self, *_: here.path("lenet5", "float32"))
    until = time.time() + speed._FOR_THE_REST + 25
    there = dataclasses.replace(here, device="cuda", networks=("resnet18",), until=until)
    with pytest.raises(NotRunError, match="enough"):
        list(speed.resnet18(there))
    assert (peer in given) == (not why_not)
    assert "nncompile-tuned" in given
