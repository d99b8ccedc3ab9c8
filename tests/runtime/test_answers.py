"""How far the answers of two plans may be apart."""

from __future__ import annotations

import numpy as np
import pytest

from nncompile_runtime.answers import difference


@pytest.mark.parametrize(
    ("got", "differs"),
    [
        (np.array([1, -2, 3], np.float32), False),
        (np.array([1, -2, 3.0004], np.float32), False),
        (np.array([1, -2, 3.001], np.float32), True),
        (np.array([1.001, -2, 3], np.float32), True),
        (np.array([np.nan, -2, 3], np.float32), True),
        (np.array([1, -2], np.float32), True),
        (np.array([1, -2, 3], np.float64), True),
    ],
)
def test_answers(got: np.ndarray, differs: bool) -> None:
    assert (difference([np.array([1, -2, 3], np.float32)], [got]) is not None) is differs


def test_answers_that_are_not_finite_or_no_floats() -> None:
    odd = np.array([np.nan, np.inf, -np.inf, 1], np.float32)
    assert difference([odd], [odd.copy()]) is None
    assert difference([odd], [-odd]) is not None
    assert difference([odd], [np.array([0, np.inf, -np.inf, 1], np.float32)]) is not None
    assert difference([np.array([1, 2])], [np.array([1, 2])]) is None
    assert difference([np.array([1, 2])], [np.array([1, 3])]) == "output 0 differs"
    zero = np.zeros(3, np.float32)
    assert difference([zero], [zero + np.float32(1e-9)]) is not None


@pytest.mark.parametrize(
    ("precision", "apart", "differs"),
    [
        ("float32", 1e-4, False),
        ("float32", 3e-4, True),
        ("tf32", 1e-2, False),
        ("tf32", 3e-2, True),
        ("float16", 1e-2, False),
        ("float16", 3e-2, True),
        ("bfloat16", 1e-1, False),
        ("bfloat16", 2e-1, True),
    ],
)
def test_answers_differ_by_what_the_precision_allows(precision: str, apart: float, differs: bool) -> None:
    wanted = np.array([0.5, 1], np.float32)
    got = wanted + np.array([apart, 0], np.float32)
    assert (difference([wanted], [got], precision) is not None) is differs


def test_double_answers_are_held_to_their_own_tolerance() -> None:
    assert difference([np.ones(3)], [np.ones(3) + 1e-6], "float32") is not None


def test_half_answers_at_the_end_of_their_range() -> None:
    def differs(one: float, other: float) -> bool:
        pair = [np.array([1, value], np.float16) for value in (one, other)]
        return difference(pair[:1], pair[1:], "float16") is not None

    inf = np.inf
    assert not differs(65504, inf)
    assert not differs(inf, 65000)
    assert not differs(-inf, -65504)
    assert not differs(inf, inf)
    assert differs(inf, 60000)
    assert differs(inf, 3)
    assert differs(inf, -65504)
    assert differs(np.nan, inf)
    assert differs(np.nan, 65504)


def test_an_infinity_does_not_hide_other_differences() -> None:
    one, other = (np.array([value, np.inf], np.float16) for value in (1, 2))
    assert difference([one], [other], "float16") is not None
