"""Functions of two numbers, distances and special functions: their zeros, poles, signs, infinity and NaN."""

import pytest
import torch
from several import assert_as_eager

INF, NAN = torch.inf, torch.nan
DTYPES = [torch.float32, torch.float64]
NUMBERS = [0.0, -0.0, 1.0, -1.0, 0.3, -2.5, 1e-30, 1e30, -1e30, INF, -INF, NAN]


def every_pair(dtype, numbers=NUMBERS):
    x = torch.tensor(numbers, dtype=dtype)
    return tuple(part.contiguous() for part in torch.meshgrid(x, x, indexing="ij"))


@pytest.mark.parametrize("dtype", DTYPES)
def test_pairs(dtype):
    functions = [
        torch.fmax,
        torch.fmin,
        torch.hypot,
        torch.heaviside,
        lambda x, y: torch.copysign(x, torch.where(y.isnan(), 1, y)),
        lambda x, _: torch.copysign(x, -0.0).reciprocal(),
        lambda x, _: torch.copysign(x, 0.1),
    ]
    if dtype is torch.float32:  # ONNX Runtime's CPU has no Atan of float64
        functions.append(torch.atan2)
    x, y = torch.randn(2, 3, len(NUMBERS), dtype=dtype)
    digits = 4 * torch.finfo(dtype).eps
    assert_as_eager(functions, (x, y), every_pair(dtype), rtol=digits)


def test_extremes_of_integers():
    x, y = torch.randint(-5, 6, (2, 3, 9))
    assert_as_eager([torch.fmax, torch.fmin], (x, y))


NORMS = (0.0, 1.0, 2.0, 3.0, INF)


@pytest.mark.parametrize("dtype", DTYPES)
def test_distances(dtype):
    torch.manual_seed(0)
    x, y = torch.randn(3, 5, 4, dtype=dtype), torch.randn(3, 6, 4, dtype=dtype)
    y[:, 0] = x[:, 0]
    functions = [lambda x, y, p=p: torch.cdist(x, y, p=p) for p in NORMS]
    functions.append(lambda x, _: torch.cdist(x, x, compute_mode="use_mm_for_euclid_dist_if_necessary"))
    digits = 8 * torch.finfo(dtype).eps
    assert_as_eager(functions, (x, y), (x[:1] * 1e-8, y[:1] * 1e-8), rtol=digits)


def test_distances_of_many_rows():
    """Which eager takes from products; where rows are alike it loses what these keep."""
    torch.manual_seed(0)
    x = torch.randn(2, 30, 4)
    assert_as_eager([lambda x: torch.cdist(x, x.flip(1))], (x,), rtol=1e-3, atol=3e-3)


POINTS = [1e-30, 1e-5, 0.3, 0.5, 1.0, 1 + 1e-6, 1.4616321, 2 - 1e-6, 2.0, 2.5, 9.99, 50.0, 1e4, 1e20, INF]


@pytest.mark.parametrize("dtype", DTYPES)
def test_gamma(dtype):
    x = torch.tensor(
        [POINTS, [-p for p in POINTS[:3]] + [-1.5, -2.25, -3.7, -9.99, 0.0, -0.0, NAN] + [7.0] * 5]
    )
    x = x.to(dtype)
    digits = 4e-6 if dtype is torch.float32 else 2e-12
    functions = [torch.lgamma, torch.digamma, lambda x: torch.lgamma(-x.abs().ceil())]
    assert_as_eager(functions, (torch.rand(2, 15, dtype=dtype) + 0.1,), (x,), rtol=digits, atol=digits / 100)


def test_the_inverse_of_the_error_function():
    x = torch.tensor([[0.0, 1e-30, 1e-4, 0.3, -0.7, 0.99, -0.9999, 0.9999999, 1.0, -1.0, 1.1, NAN]])
    assert_as_eager([torch.erfinv], (torch.rand(2, 12),), (x,), rtol=2e-6)
