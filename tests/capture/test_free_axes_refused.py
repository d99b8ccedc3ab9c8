"""Dimensions that cannot be free: which those are, and what the error says of each."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import nncompile
from nncompile import CaptureError, NncompileError

A, B = torch.ones(2, 7, 5), torch.ones(2, 7, 5)


class Flat(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(35, 3)

    def forward(self, x):
        return self.linear(x.flatten(1))


class Product(nn.Module):
    def forward(self, x, y):
        return x * y


class Square(nn.Module):
    def forward(self, x):
        return x * 2 if 48 < x.shape[1] * x.shape[1] < 50 else x


class Tall(nn.Module):
    def forward(self, x):
        return x * 2 if x.shape[1] > x.shape[2] else x


class Pooled(nn.Module):
    """A pool that is written out window by window, which fixes its plane after torch.export is done."""

    def forward(self, x):
        return nn.functional.adaptive_max_pool1d(x.relu(), 2)


@pytest.mark.parametrize(
    ("net", "inputs", "axes", "message"),
    [
        (Pooled(), A, {"x": {2: "n"}}, r"fixes 'n' \(axis 2 of input 'x'\) at 5"),
        (Flat(), A, {"x": {1: "n"}}, r"fixes 'n' \(axis 1 of input 'x'\) at 7 at .*free_axes_refused.py"),
        (Product(), (A, B), {"x": {1: "n"}, "y": {1: "m"}}, "'m' .*always equals 'n'.*Give both one name"),
        (Product(), (A, B), {"x": {1: "n"}}, "fixes 'n'"),
        (Product(), (A, B), {"z": {1: "n"}}, "'z', which is no input. The inputs are 'x', 'y'"),
        (Flat(), A, {"x": {3: "n"}}, "axis 3 of input 'x', which has 3 axes"),
        (Flat(), A, {"x": {0: "n"}}, "axis 0 of input 'x' 'n', and it is the batch"),
        (Flat(), A, {"x": {1: "batch"}}, "axis 1 of input 'x' the batch: it is 7 .* and the batch is 2"),
        (Flat(), A[:, :1], {"x": {1: "n"}}, "fails on the example input"),
        (nn.ReLU(), A[:, :1], {"input": {1: "n"}}, "size 1 in axis 1 of input 'input'"),
        (nn.ReLU(), A, {"input": {1: "n", 2: "n"}}, "'n' is 7 in axis 1 .* and 5 in axis 2"),
        (Square(), A, {"x": {1: "n"}}, "takes 'n' at 7 only"),
        (Tall(), A, {"x": {1: "n", 2: "m"}}, r"'n', 'm' depend on one another: at \{'n': 6, 'm': 6\}"),
    ],
)
def test_what_cannot_be_free_is_refused(net, inputs, axes, message):
    with pytest.raises(CaptureError, match=message) as caught:
        nncompile.compile(net.eval(), inputs, dynamic_axes=axes)
    assert caught.value.remedy


def test_a_batch_that_is_fixed_late_is_refused():
    class Turned(Pooled):
        def forward(self, x):
            return super().forward(x.t())

    with pytest.raises(CaptureError, match="fixes its batch size") as caught:
        nncompile.compile(Turned(), torch.randn(4, 4))
    assert "--static" in caught.value.remedy


@pytest.mark.parametrize(
    "axes", [{"x": 1}, {"x": {1: 2}}, {"x": {"1": "n"}}, {1: {1: "n"}}, {"x": {1: "2n"}}, [1]]
)
def test_what_says_no_axes_is_refused(axes):
    with pytest.raises(NncompileError, match="does not say which axes are free"):
        nncompile.compile(nn.ReLU(), A, dynamic_axes=axes)
