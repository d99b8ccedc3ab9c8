"""Pools whose last windows ONNX counts otherwise than PyTorch."""

import pytest
import torch
from torch import nn
from torch.nn import functional

import nncompile
from nncompile.capture import pools

EXACT = {"rtol": 1e-6, "atol": 1e-6}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("counted", [True, False])
@pytest.mark.parametrize("divisor", [None, 5])
def test_average_windows_that_reach_over_one_edge_where_onnx_counts_another_too_many(divisor, counted):
    """Columns as ONNX counts them wrongly, rows whose last window is cut off."""
    pool = nn.AvgPool2d((3, 2), (3, 3), (1, 0), True, counted, divisor)
    x = torch.randn(3, 2, 7, 6)
    assert pools.avg_pool(2)(x, (3, 2), (3, 3), (1, 0), True, counted) is not NotImplemented
    net = nn.Sequential(pool)
    torch.testing.assert_close(nncompile.compile(net, x[:2]).predict(x), net(x), **EXACT)


def test_pools_of_random_windows():
    random, tried = torch.Generator().manual_seed(0), 0
    for _ in range(400):
        size, kernel, stride = torch.randint(1, 10, (3, 2), generator=random).tolist()
        padding = [k // 2 for k in kernel]
        counted = bool(torch.randint(2, (), generator=random))
        x = torch.randn(1, 1, *size, dtype=torch.float64)
        arguments = (x, kernel, stride, padding, True, counted)
        try:
            want = functional.avg_pool2d(*arguments)
        except RuntimeError:  # a window larger than the plane
            continue
        got = pools.avg_pool(2)(*arguments)
        if got is not NotImplemented:
            tried += 1
            torch.testing.assert_close(got, want)
    assert tried > 50


class LPThenMax(nn.Module):
    def forward(self, x):
        y = functional.lp_pool2d(x, 2, 2, 3, ceil_mode=True)
        z = functional.max_pool2d(y, 3, 3, 1)
        return torch.cat([z, z * 2], 1)


def test_a_pool_behind_a_pool_in_ceil_mode():
    x = torch.randn(3, 2, 12, 13)
    got = nncompile.compile(LPThenMax(), x[:2]).predict(x)
    torch.testing.assert_close(got, LPThenMax()(x), rtol=1e-5, atol=1e-6)
