"""Answers that are alike: nesting, dtypes and values."""

import dataclasses
from typing import Any

import torch


def assert_like(got: Any, expected: Any, rtol: float, atol: float) -> None:
    """Same nesting; tensors of one dtype within tolerance; a dataclass by its fields."""
    if isinstance(expected, torch.Tensor):
        torch.testing.assert_close(got, expected, rtol=rtol, atol=atol)
    elif isinstance(expected, dict):
        assert isinstance(got, dict)
        assert list(got) == list(expected)
        for key in expected:
            assert_like(got[key], expected[key], rtol, atol)
    elif dataclasses.is_dataclass(expected):
        assert type(got).__name__ == type(expected).__name__
        for field in dataclasses.fields(expected):
            assert_like(getattr(got, field.name), getattr(expected, field.name), rtol, atol)
    elif isinstance(expected, (tuple, list)):
        assert type(got).__name__ == type(expected).__name__
        assert len(got) == len(expected)
        for a, b in zip(got, expected, strict=True):
            assert_like(a, b, rtol, atol)
    else:
        assert got == expected
