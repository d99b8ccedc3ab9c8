"""Booleans and integers of every width, beyond what floats hold; the examples hold small ones."""

import pytest
import torch
from several import assert_as_eager

BOOLEANS = [
    lambda x, y: x + y,
    lambda x, y: x + True,
    lambda x, y: torch.add(x, y, alpha=0),
    lambda x, y: x * y,
    lambda x, y: (x < y, x >= y, x == y),
    lambda x, y: torch.where(x, y, ~y),
    lambda x, y: (x.masked_fill(y, True), x.masked_fill(y, False)),
    lambda x, y: (x.max(1), x.min(1), x.max(1, keepdim=True)),
    lambda x, y: (x.sum(1), x.cumsum(1), x.cumprod(1), x.prod(1)),
    lambda x, y: (x.cummax(1).values, y.cummin(1)),
    lambda x, y: x.scatter(1, y.long(), True),
]


def test_booleans():
    torch.manual_seed(0)
    x, y = torch.rand(2, 5, 7) > 0.5
    assert_as_eager(BOOLEANS, (x[:2], y[:2]), (x, y), (x[:1], y[:1]))


WHOLE = [
    lambda x, y: (x + y, x * y, x - y, -x),
    lambda x, y: (x << (y & 3), x >> (y & 3)),
    lambda x, y: (x << 2, x >> 1),
    lambda x, y: (x & y, x | y, x ^ y, ~x),
    lambda x, y: (x**0, x**1, x**2, x**3, x**7),
    lambda x, y: x ** (y & 7),
    lambda x, y: x.cumprod(1),
    lambda x, y: x.cumsum(1),
]


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int8, torch.uint8])
def test_integers_wrap(dtype):
    torch.manual_seed(0)
    limits = torch.iinfo(dtype)
    x, y = torch.randint(limits.min, limits.max, (2, 3, 9)).to(dtype)
    small = torch.ones(2, 9, dtype=dtype)
    assert_as_eager(WHOLE, (small, small), (x, y))


def test_powers_of_integers():
    """Of either sign, beyond what float64 holds, and so large that they wrap."""
    x = torch.tensor([[-3, -2, -1, 0, 1, 2, 3]])
    y = torch.tensor(
        [[-3], [-2], [0], [1], [5], [35], [40], [62], [63], [64], [65], [127], [128], [129], [200]]
    )
    functions = [lambda x, y: x**y, lambda x, y: 2**y, lambda x, y: (-1) ** y, lambda x, y: x**39]
    x, y = x.expand(15, 7), y.expand(15, 7)
    keep = (y < 128) | (x.abs() < 3)  # beyond, an odd power that wraps is some number
    assert_as_eager(functions, (torch.ones(2, 7).long(),) * 2, (torch.where(keep, x, 1), y))
