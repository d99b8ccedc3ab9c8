"""Scans and scatters: ties, NaN, infinity, and what would underflow beside the largest."""

import pytest
import torch
from several import assert_as_eager

INF, NAN = torch.inf, torch.nan
SCANS = [
    lambda x: x.cummax(1),
    lambda x: x.cummin(-1),
    lambda x: x.reshape(-1, 3, 3).cummax(1),
    lambda x: x.logcumsumexp(1),
]
SPECIAL = [
    [0.0, 1.0, 1.0, -1.0, 2.0, 2.0, 0.0, 3.0, 3.0],
    [0.0, NAN, 1.0, NAN, 2.0, INF, -INF, 3.0, 3.0],
    [-INF, -INF, -1000.0, 0.0, 1000.0, INF, 1.0, INF, -INF],
    [-500.0, -400.0, 0.0, 100.0, -100.0, 900.0, -0.0, 0.0, 1.0],
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_scans(dtype):
    torch.manual_seed(0)
    x, special = torch.randn(3, 9, dtype=dtype), torch.tensor(SPECIAL, dtype=dtype)
    digits = 8 * torch.finfo(dtype).eps
    assert_as_eager(SCANS, (x,), (special,), (x[:1],), rtol=digits, atol=digits)


def test_scans_of_integers():
    torch.manual_seed(0)
    x = torch.randint(-3, 4, (5, 9))
    assert_as_eager(SCANS[:3], (x[:2],), (x,))


REDUCTIONS = [
    lambda x, index, y, how=how, own=own: x.scatter_reduce(1, index, y, how, include_self=own)
    for how in ("sum", "prod", "mean", "amax", "amin")
    for own in (True, False)
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64])
def test_reductions_of_what_is_written(dtype):
    torch.manual_seed(0)
    x, y = torch.randint(-9, 10, (2, 4, 6)).to(dtype)
    index = torch.randint(0, 4, (4, 6))  # places 4 and 5 are never written to
    lowest = torch.full_like(y, -INF if dtype.is_floating_point else torch.iinfo(dtype).min)
    digits = 4 * torch.finfo(dtype).eps if dtype.is_floating_point else 0
    others = ((x, index, y), (x, index[:, [0] * 6], lowest)) if dtype.is_floating_point else ((x, index, y),)
    assert_as_eager(REDUCTIONS, (x[:2], index[:2], y[:2]), *others, rtol=digits)


def test_put():
    torch.manual_seed(0)
    x, places, values = torch.randn(3, 4), torch.tensor([[0, -1], [3, 2]]), torch.randn(2, 2)
    functions = [
        lambda x: x.put(places, values),
        lambda x: x.put(torch.tensor([1, 1, -4]), torch.ones(3), accumulate=True),
    ]
    assert_as_eager(functions, (x,), (x[:2],))
