"""Functions near 0, of large numbers, of infinity, and in another dtype than their input's."""

import pytest
import torch
from torch import nn
from torch.nn import functional

import nncompile


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


class Elementary(nn.Module):
    def forward(self, x, y):
        return x.log1p(), x.expm1(), torch.logaddexp(x, y), torch.logaddexp2(x, y), functional.logsigmoid(x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_functions_near_0_and_of_large_numbers(dtype):
    values = [1e-20, -1e-20, 1e-8, -1e-8, 1e-4, -1e-3, 0.3, -0.49, 0.5, -0.51, 1.0, 17.0, 80.0, 1000.0, 0.0]
    x = torch.tensor([values], dtype=dtype)
    net, y = Elementary(), x.flip(1)
    got = nncompile.compile(net, (x, y)).predict(x, y)
    digits = 20 * torch.finfo(dtype).eps
    for have, want in zip(got, net(x.double(), y.double()), strict=True):
        inside = want.abs() < torch.finfo(dtype).max
        torch.testing.assert_close(have[inside].double(), want[inside], rtol=digits, atol=1e-30)


def test_functions_of_infinity_and_nan():
    net, inf, nan = Elementary(), torch.inf, torch.nan
    x = torch.tensor([[inf, -inf, inf, -inf, nan, 1.0, -1.0, -2.0, 3e38]])
    y = torch.tensor([[inf, -inf, -inf, 1.0, 1.0, nan, inf, -2.0, 3e38]])
    model = nncompile.compile(net, (x.new_ones(1, 9), y.new_ones(1, 9)))
    torch.testing.assert_close(model.predict(x, y), net(x, y), rtol=1e-6, atol=1e-6, equal_nan=True)


class InDouble(nn.Module):
    def forward(self, x):
        doubled = {"dtype": torch.float64}
        return x.mean(**doubled), x.mean(1, **doubled), x.softmax(1, **doubled), x.log_softmax(1, **doubled)


def test_what_is_cast_before_it_is_computed():
    x = torch.randn(3, 50)
    got = nncompile.compile(InDouble(), x[:2]).predict(x)
    torch.testing.assert_close(got, InDouble()(x), rtol=1e-12, atol=1e-13)
