"""An engine that takes too long is left out with the reason; what was compiled in time is found."""

from __future__ import annotations

import dataclasses
import os
import time

import pytest

from models.gpu_check import record, speed, warming
from models.gpu_check.context import Context
from models.gpu_check.record import Record
from models.gpu_check.table import NotRunError
from models.gpu_check.warming import MAX_AUTOTUNE, PEERS, REDUCE_OVERHEAD, Peer, warm, warmed

from .breaking import verdicts

CACHE = "TORCHINDUCTOR_CACHE_DIR"


@pytest.fixture
def peers(here, tmp_path, monkeypatch):
    """Eager PyTorch stands in for what compiles: it takes a process too."""
    monkeypatch.setattr(warming, "PEERS", (Peer("eager", "lenet5", "float32", 2, 100.0),))
    return dataclasses.replace(here, peers=tmp_path / "peers")


def test_an_engine_runs_beforehand_in_a_process_of_its_own(peers, monkeypatch):
    monkeypatch.setenv(CACHE, "before")
    (finding,) = warm(peers)
    assert (finding.verdict, "compiled in" in finding.said) == ("passed", True), finding
    with warmed(peers, "eager") as late:
        assert late == {}
        assert os.environ[CACHE] == str(peers.peers / "inductor-eager")
    assert os.environ[CACHE] == "before"
    monkeypatch.setattr(warming, "measure_cold", None)  # not called again
    assert [f.said for f in warm(peers)] == ["was there"]


def test_what_takes_too_long_is_ended_and_tried_again(peers, monkeypatch):
    monkeypatch.delenv(CACHE, raising=False)
    monkeypatch.setattr(warming, "PEERS", (Peer("eager", "lenet5", "float32", 2, 0.1),))
    start = time.monotonic()
    (finding,) = warm(peers)
    assert time.monotonic() - start < 60
    assert (finding.verdict, "takes longer than 0 s" in finding.said) == ("not run", True)
    with warmed(peers, "eager") as late:
        assert list(late) == ["lenet5"]
        assert "takes longer than 0 s" in late["lenet5"]
    assert CACHE not in os.environ
    tried = []
    monkeypatch.setattr(warming, "measure_cold", lambda *args, **_: tried.append(args[0]))
    assert verdicts(warm(peers)) == ["passed"]
    assert tried == ["eager"]
    with warmed(peers, "eager") as late:
        assert late == {}


def test_what_another_torch_compiled_is_thrown_away(peers, monkeypatch):
    monkeypatch.setattr(warming, "measure_cold", lambda *_, **__: None)
    list(warm(peers))
    ours, theirs = peers.peers / "inductor-eager" / "code", peers.peers / "notes.txt"
    ours.parent.mkdir()
    for file in (ours, theirs):
        file.write_text("something")
    other = dataclasses.replace(record.this_maker(), versions={"torch": "0"})
    monkeypatch.setattr(warming, "this_maker", lambda _: other)
    assert [f.said == "was there" for f in warm(peers)] == [False]
    assert (ours.exists(), theirs.exists()) == (False, True)
    assert Record.read(peers.peers).maker == other


def test_networks_that_are_not_there_have_no_peer(peers, monkeypatch):
    monkeypatch.setattr(warming, "PEERS", (Peer("eager", "net", "float32", 2, 1.0),))
    assert list(warm(peers)) == []
    (finding,) = warm(dataclasses.replace(peers, networks=("net",)))
    assert (finding.verdict, "net is not there" in finding.said) == ("not run", True)


def test_a_network_that_cannot_be_read_costs_one_peer_and_not_the_checks(peers):
    peers = dataclasses.replace(peers, folder=peers.peers.parent)
    peers.path("lenet5", "float32").write_bytes(b"no network")
    (finding,) = warm(peers)
    assert (finding.verdict, "ModelLoadError: " in finding.said) == ("not run", True)


def test_a_dry_run_has_no_peers(here):
    with warmed(here, MAX_AUTOTUNE) as late:
        assert late == {}


def test_what_is_compiled_before_is_what_targets_are_compared_with():
    compiled = {(peer.network, peer.engine) for peer in PEERS}
    targets = {(t.network, t.peer) for t in (*speed.SMALL, *speed.LARGE) if t.peer != "onnxruntime"}
    assert compiled == targets
    assert {(p.precision, p.batch) for p in PEERS if p.engine == REDUCE_OVERHEAD} == {("float32", 1)}
    assert {(p.precision, p.batch) for p in PEERS if p.engine == MAX_AUTOTUNE} == {("float16", 256)}
    assert all(peer.seconds >= 150 for peer in PEERS if peer.engine == MAX_AUTOTUNE)


@pytest.mark.parametrize("why_not", ["", "A fresh process with it takes longer than 300 s."])
def test_the_peer_that_is_late_is_not_timed(here, tmp_path, monkeypatch, why_not):
    given, (peer,) = [], (peer for peer in PEERS if peer.engine == MAX_AUTOTUNE)

    def runs(file, batches, peers, **_):
        assert batches == (256,)
        assert os.environ[CACHE] == str(tmp_path / f"inductor-{MAX_AUTOTUNE}")
        given.extend(peers)
        raise NotRunError("enough")

    monkeypatch.setattr(warming, "_why_not", lambda *_: why_not)
    monkeypatch.setattr(speed, "run", runs)
    monkeypatch.setattr(Context, "file", lambda self, *_: here.path("lenet5", "float32"))
    there = dataclasses.replace(here, device="cuda", networks=("resnet18",), peers=tmp_path)
    assert [finding.what for finding in warm(there)] == [peer.what]
    with pytest.raises(NotRunError, match="enough"):
        list(speed.resnet18(there))
    assert (MAX_AUTOTUNE in given) == (not why_not)
    assert "nncompile-tuned" in given
