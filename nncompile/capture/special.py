"""Special functions: gamma's logarithm and that one's derivative, and the inverse of the error function."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

aten = torch.ops.aten

# Lanczos' approximation with g = 7. Source: P. Godfrey, "A note on the computation of the convergent Lanczos
# complex gamma approximation", 2001; the coefficients of the GNU Scientific Library, specfunc/gamma.c.
_G = 7
_LANCZOS = (
    0.99999999999980993227684700473478,
    676.520368121885098567009190444019,
    -1259.13921672240287047156078755283,
    771.3234287776530788486528258894,
    -176.61502916214059906584551354,
    12.507343278686904814458936853,
    -0.13857109526572011689554707,
    9.984369578019570859563e-6,
    1.50563273514931155834e-7,
)


def _in_float64(function: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[torch.Tensor], torch.Tensor]:
    """Computed in float64, so that of float32 no digit is lost near a zero."""

    def lowered_function(x: torch.Tensor) -> torch.Tensor:
        dtype = x.dtype if x.is_floating_point() else torch.get_default_dtype()
        return function(x.to(torch.float64)).to(dtype)

    return lowered_function


def _sine(x: torch.Tensor) -> torch.Tensor:
    """sin(pi * x), exactly 0 at whole numbers."""
    return torch.sin(math.pi * (x - torch.round(x))) * (1 - 2 * torch.remainder(torch.round(x), 2))


def lgamma(x: torch.Tensor) -> torch.Tensor:
    """Logarithm of the absolute value of gamma; below 1/2 by way of 1 - x. Near its zeros within 1e-14."""
    reflected = x < 0.5
    z = torch.where(reflected, 1 - x, x) - 1
    series = sum((c / (z + i) for i, c in enumerate(_LANCZOS[1:], 1)), start=torch.full_like(z, _LANCZOS[0]))
    t = z + _G + 0.5
    direct = (z + 0.5) * (torch.log(t) - 1) - _G + 0.5 * math.log(2 * math.pi) + torch.log(series)
    mirrored = math.log(math.pi) - torch.log(_sine(x).abs()) - direct
    result = torch.where(reflected, mirrored, direct)
    return torch.where(torch.isinf(x), math.inf, result)


_SHIFT = 10
# Of the asymptotic series in 1 / x ** 2. Source: Abramowitz and Stegun, 6.3.18.
_BERNOULLI = (1 / 12, -1 / 120, 1 / 252, -1 / 240, 1 / 132, -691 / 32760, 1 / 12)


def digamma(x: torch.Tensor) -> torch.Tensor:
    """The derivative of gamma's logarithm, by its recurrence and, beyond 10, a series; below 0 reflected."""
    reflected = x < 0
    y = torch.where(reflected, 1 - x, x)
    before = sum((1 / (y + i) for i in range(1, _SHIFT)), start=1 / y)
    z = y + _SHIFT
    inverse = 1 / (z * z)
    series = torch.zeros_like(z)
    for c in reversed(_BERNOULLI):
        series = (series + c) * inverse
    direct = torch.log(z) - 0.5 / z - series - before
    direct = torch.where(y == math.inf, y, direct)
    cotangent = _sine(x + 0.5) / _sine(x)
    mirrored = torch.where(x == torch.floor(x), math.nan, direct - math.pi * cotangent)
    return torch.where(x == 0, -1 / x, torch.where(reflected, mirrored, direct))


# Source: M. Giles, "Approximating the erfinv function", GPU Computing Gems 2, 2011, single precision.
_NEAR = (
    2.81022636e-08, 3.43273939e-07, -3.5233877e-06, -4.39150654e-06, 0.00021858087,
    -0.00125372503, -0.00417768164, 0.246640727, 1.50140941,
)  # fmt: skip
_FAR = (
    -0.000200214257, 0.000100950558, 0.00134934322, -0.00367342844, 0.00573950773,
    -0.0076224613, 0.00943887047, 1.00167406, 2.83297682,
)  # fmt: skip


def erfinv(x: torch.Tensor) -> Any:
    """The inverse of the error function to the digits of float32; float64 is refused."""
    if x.dtype is torch.float64:
        return NotImplemented
    wide = x.to(torch.float64)
    w = -torch.log((1 - wide) * (1 + wide))
    near, far = torch.zeros_like(w), torch.zeros_like(w)
    for a, b in zip(_NEAR, _FAR, strict=True):
        near = near * (w - 2.5) + a
        far = far * (torch.sqrt(w) - 3) + b
    result = torch.where(w < 5, near, far) * wide
    dtype = x.dtype if x.is_floating_point() else torch.get_default_dtype()
    return torch.where(wide.abs() == 1, wide * math.inf, result).to(dtype)


LOWERINGS: dict[Any, Callable[..., Any]] = {
    aten.lgamma.default: _in_float64(lgamma),
    aten.digamma.default: _in_float64(digamma),
    aten.erfinv.default: erfinv,
}
