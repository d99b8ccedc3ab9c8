"""Commands run in this process: the exit code, stdout and stderr of `nncompile ARGUMENTS`."""

import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from nncompile.cli import main

NETWORKS = """
import torch
from torch import nn


class Small(nn.Module):
    def __init__(self, out=3):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(4 * 6 * 6, out)

    def forward(self, x):
        return self.head(self.drop(torch.relu(self.norm(self.conv(x)))).flatten(1))


class Other(Small):
    pass


class Branching(nn.Module):
    def forward(self, x):
        if x.sum() > 0:
            return x
        return -x


class Random(nn.Module):
    def forward(self, x):
        return nn.functional.dropout(x, 0.5)


class Pair(nn.Module):
    def forward(self, left, right):
        return {"sum": left + right, "product": left * right}


def factory(out=2):
    torch.manual_seed(7)
    return Small(out)


number = 3
"""


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty working folder with `nets.py`."""
    (tmp_path / "nets.py").write_text(NETWORKS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(folder, monkeypatch, capsys):
    """`run("export", ...)`: one command, in the folder."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["nncompile", *map(str, arguments)])
        capsys.readouterr()
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code or 0
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return call


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """`small.onnx` with its weights, exported once, and `apart.onnx` without fused regions."""
    import importlib.util

    import safetensors.torch
    import torch

    import nncompile

    place = tmp_path_factory.mktemp("exported")
    (place / "nets.py").write_text(NETWORKS)
    spec = importlib.util.spec_from_file_location("nets_exported", place / "nets.py")
    nets = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(nets)
    torch.manual_seed(1)
    net = nets.Small()
    net.norm.running_mean.normal_()
    net.norm.running_var.uniform_(0.5, 2.0)
    safetensors.torch.save_file(net.state_dict(), place / "small.safetensors")
    how = nncompile.ImagePreprocessing(size=(8, 8), mode="L", mean=(0.5,), std=(0.25,))
    labels = ("cat", "dog", "eel")
    model = nncompile.compile(net, torch.randn(1, 1, 8, 8), preprocess=how, labels=labels)
    model.save(place / "small.onnx")
    apart = nncompile.compile(net, torch.randn(1, 1, 8, 8), disabled_passes=["outline-fused-regions"])
    apart.save(place / "apart.onnx")
    return Exported(place / "small.onnx", place / "apart.onnx", place / "small.safetensors", net.eval())


@dataclass(frozen=True)
class Exported:
    model: Path
    apart: Path  # the same without fused regions
    weights: Path
    net: object
