"""Quotients and remainders at multiples, of both signs, of zero and infinity, and of large integers."""

import pytest
import torch
from torch import nn

import nncompile


class Division(nn.Module):
    def forward(self, x, y):
        return (
            x // y,
            x % y,
            torch.fmod(x, y),
            torch.div(x, y, rounding_mode="trunc"),
            torch.div(x, y, rounding_mode="floor"),
        )


class ByNumbers(nn.Module):
    def __init__(self, by):
        super().__init__()
        self.by = by

    def forward(self, x):
        by = self.by
        return x // by, x % by, x % -by, torch.fmod(x, by), torch.div(x, by, rounding_mode="trunc"), -7 // x


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_floats(dtype):
    x = torch.tensor(
        [[1.0, -1.0, 0.9, -0.9, 7.5, -7.5, 3e8, torch.inf, -torch.inf, torch.nan, 0.0]], dtype=dtype
    )
    net, y = Division(), torch.tensor([[0.1, -0.1, 0.3, torch.inf, 0.0]], dtype=dtype).T
    got = nncompile.compile(net, (torch.ones(2, 11, dtype=dtype),) * 2)
    for divisor in y:
        given = (x, divisor.expand_as(x))
        torch.testing.assert_close(got.predict(*given), net(*given), rtol=0, atol=0, equal_nan=True)
    numbers = ByNumbers(0.1)
    got = nncompile.compile(numbers, torch.ones(2, 11, dtype=dtype)).predict(x)
    torch.testing.assert_close(got, numbers(x), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int8, torch.uint8])
def test_integers(dtype):
    """Also those that float32, or float64, does not hold; the example has small ones only."""
    torch.manual_seed(0)
    limits, small = torch.iinfo(dtype), torch.ones(2, 50, dtype=dtype)
    x = torch.randint(limits.min + 1, limits.max, (3, 50)).to(dtype)
    x[:, 0] = limits.max
    y = torch.randint(max(limits.min, -9), 10, (3, 50)).to(dtype)
    y = torch.where(y == 0, 3, y).to(dtype)
    net = Division()
    for got, want in zip(nncompile.compile(net, (small, small)).predict(x, y), net(x, y), strict=True):
        assert torch.equal(got, want)
    x = torch.where(x == 0, 3, x).to(dtype)
    numbers = ByNumbers(7)
    if dtype is not torch.uint8:  # of which -7 is none
        for got, want in zip(nncompile.compile(numbers, small).predict(x), numbers(x), strict=True):
            assert torch.equal(got, want)
