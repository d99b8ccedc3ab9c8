"""A small network, compiled once, a schedule that takes no time, and what engines are opened for."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

import nncompile
from models.lenet import LeNet5
from nncompile.bench import attribution
from nncompile.bench.engines import Subject, nncompile_tuned
from nncompile.bench.inputs import make_feed
from nncompile.bench.timing import Schedule

INSTANT = Schedule(rounds=2, seconds=0.004, warmup=0.001, pause=0.0)


@dataclass(frozen=True)
class Compiled:
    path: Path
    module: torch.nn.Module


@pytest.fixture(scope="session")
def lenet(tmp_path_factory) -> Compiled:
    torch.manual_seed(0)
    module = LeNet5()
    path = tmp_path_factory.mktemp("bench") / "lenet5.onnx"
    nncompile.compile(module, torch.randn(2, 1, 32, 32)).save(path)
    return Compiled(path, module)


@pytest.fixture(scope="session")
def instant() -> Schedule:
    return INSTANT


@pytest.fixture
def subject_of(tmp_path):
    def make(path, module=None, threads=1):
        signature = nncompile.load(path, device="cpu").signature
        return Subject(str(path), signature, module, threads, make_feed(signature, 2), tmp_path)

    return make


@pytest.fixture
def subject(lenet, tmp_path):
    """LeNet5, to be run on a GPU."""
    signature = nncompile.load(lenet.path, device="cpu").signature
    feed = make_feed(signature, 2)
    return Subject(str(lenet.path), signature, lenet.module, 1, feed, tmp_path, device="cuda")


@pytest.fixture(autouse=True)
def hurried(monkeypatch, without_rest):
    """What is measured besides the engines takes no longer than it must."""
    monkeypatch.setattr(nncompile_tuned, "SECONDS", 0.2)
    monkeypatch.setattr(attribution, "_SCHEDULE", INSTANT)
