"""Axes besides the batch that take several sizes: `export --dynamic-axis`, and what the others make of it."""

import json

import numpy as np
import pytest
import torch

import nncompile

NETS = """
from torch import nn


class Sums(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 4)

    def forward(self, left, right):
        return self.linear(left).relu().sum(1), self.linear(right).amax(1)
"""
SHAPES = ("-s", "2x7x3", "-s", "2x5x3")
BOTH = ("--dynamic-axis", "1=n", "--dynamic-axis", "right:-2=m")


@pytest.fixture
def sums(run, folder):
    (folder / "sums.py").write_text(NETS)
    torch.manual_seed(0)
    result = run("export", "sums.py:Sums", *SHAPES, *BOTH, "-o", "sums.onnx")
    assert result.code == 0, result.err
    return result


def test_export(sums, folder):
    assert "batches 1, 2, 3, 8, n 2, 3, 7, 10, m 2, 5, 7" in sums.out
    model = nncompile.load(folder / "sums.onnx", device="cpu")
    assert [spec.shape for spec in model.inputs] == [("batch", "n", 3), ("batch", "m", 3)]
    y = model(np.ones((4, 9, 3), np.float32), np.ones((4, 2, 3), np.float32))
    assert [part.shape for part in y] == [(4, 4), (4, 4)]


def test_inspect(sums, run):
    shown = run("inspect", "sums.onnx", "--module", "sums.py:Sums", "--passes")
    assert shown.code == 0
    assert "n: at least 2\n" in shown.out
    found = json.loads(run("inspect", "sums.onnx", "--json").out)["sizes"]
    assert found["m"] == {"least": 2, "step": 1, "most": None, "typical": 5}


def test_verify_predict_bench_and_tune_take_the_typical_sizes(sums, run, folder):
    weights = ("-w", "w.pt")
    torch.manual_seed(0)
    state = {"linear.weight": torch.randn(4, 3), "linear.bias": torch.randn(4)}
    torch.save(state, folder / "w.pt")
    assert run("export", "sums.py:Sums", *weights, *SHAPES, *BOTH, "-o", "sums.onnx").code == 0
    verified = run("verify", "sums.onnx", "sums.py:Sums", *weights)
    assert (verified.code, verified.err) == (0, "")
    assert "n 2, 3, 7, 10" in verified.out
    np.savez(folder / "x.npz", left=np.ones((3, 20, 3), "f"), right=np.ones((3, 11, 3), "f"))
    assert run("predict", "sums.onnx", "x.npz").code == 0
    np.savez(folder / "x.npz", left=np.ones((3, 1, 3), "f"), right=np.ones((3, 11, 3), "f"))
    refused = run("predict", "sums.onnx", "x.npz")
    assert refused.code == 1
    assert "n = 1: the model was compiled for at least 2" in refused.err
    assert run("tune", "sums.onnx", "-b", "1", "--seconds", "0.2").code == 0
    assert run("tune", "sums.onnx", "-b", "1", "--seconds", "0.2", "--size", "n=30").code == 0
    refused = run("tune", "sums.onnx", "-b", "1", "--seconds", "0.2", "--size", "n=1")
    assert refused.code == 1
    assert "n = 1 is to be measured: the model was compiled for at least 2" in refused.err


@pytest.mark.parametrize("text", ["n", "=n", "1=", "1=2n", "left:n", "left:1:n", "1=a b", "1.5=n"])
def test_what_is_no_axis_is_wrong_usage(run, folder, text):
    (folder / "sums.py").write_text(NETS)
    result = run("export", "sums.py:Sums", *SHAPES, "--dynamic-axis", text, "-o", "sums.onnx")
    assert result.code == 2
    assert "is no axis" in result.err
    assert not (folder / "sums.onnx").exists()


def test_an_unknown_input(run, folder):
    (folder / "sums.py").write_text(NETS)
    result = run("export", "sums.py:Sums", *SHAPES, "--dynamic-axis", "x:1=n", "-o", "sums.onnx")
    assert result.code == 1
    assert "'x', which is no input" in result.err
    assert "The inputs are 'left', 'right'" in result.err
