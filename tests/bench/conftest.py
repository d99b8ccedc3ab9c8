"""A small network, compiled once, and a schedule that takes no time."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

import nncompile
from models.lenet import LeNet5
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
