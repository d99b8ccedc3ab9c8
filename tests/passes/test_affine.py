"""Maps of each channel: arithmetic with a constant in every order."""

import numpy as np
import pytest

from nncompile.passes.affine import arithmetic

FUNCTIONS = {"Mul": np.multiply, "Div": np.divide, "Add": np.add, "Sub": np.subtract}


@pytest.mark.parametrize(
    ("operator", "first"),
    [
        (operator, first)
        for operator in FUNCTIONS
        for first in (False, True)
        if (operator, first) != ("Div", True)
    ],
)
def test_scale_and_shift(random, operator, first):
    y, k = random.standard_normal((5, 3)), random.uniform(0.5, 2, 3)
    scale, shift = arithmetic(operator, k, constant_first=first)
    assert scale.shape == shift.shape == k.shape
    expected = FUNCTIONS[operator](*((k, y) if first else (y, k)))
    np.testing.assert_allclose(y * scale + shift, expected, rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize(("operator", "first"), [("Div", True), ("Pow", False), ("Pow", True)])
def test_what_is_no_such_map(operator, first):
    with pytest.raises(ValueError, match=operator):
        arithmetic(operator, np.ones(3), constant_first=first)


def test_a_division_by_zero_is_left_to_the_caller():
    scale, _ = arithmetic("Div", np.array([0.0, 2.0]))
    np.testing.assert_array_equal(scale, [np.inf, 0.5])
