"""Functions that the exporter writes as differences, which leave nothing near 0, or by what overflows."""

from __future__ import annotations

import torch

_NEAR = 0.5  # beyond it, 1 + x has lost no digit that its logarithm shows


def expm1(x: torch.Tensor) -> torch.Tensor:
    """exp(x) - 1 without the difference: tanh(x / 2) * (exp(x) + 1)."""
    x = _floating(x)
    return torch.tanh(x / 2) * (torch.exp(x) + 1)


def log1p(x: torch.Tensor) -> torch.Tensor:
    """log(1 + x), near 0 times what 1 + x was rounded by.

    Source: Goldberg, "What every computer scientist should know about floating-point arithmetic", ACM
    Computing Surveys 1991, theorem 4.
    """
    x = _floating(x)
    more = 1 + x
    added = more - 1
    log = torch.log(more)
    near = torch.where(added == 0, x, x * log / added)
    return torch.where(x.abs() < _NEAR, near, log)


def logaddexp(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """log(exp(x) + exp(y)) by way of the larger one."""
    return torch.maximum(x, y) + log1p(torch.exp(-_distance(x, y)))


def logaddexp2(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """log2(2**x + 2**y), likewise."""
    unit = torch.log(x.new_full((), 2))  # of x's dtype: the exporter rounds Python's numbers to float32
    return torch.maximum(x, y) + log1p(torch.exp2(-_distance(x, y))) / unit


def _distance(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Between two numbers; 0 between infinities of one sign."""
    return torch.where(x == y, 0.0, x - y).abs()


def _floating(x: torch.Tensor) -> torch.Tensor:
    return x if x.is_floating_point() else x.to(torch.get_default_dtype())
