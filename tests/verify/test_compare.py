"""difference(): what passes and what does not, to the last representable number."""

import numpy as np
import pytest

from nncompile.verify.compare import EAGER_CAP, EAGER_MULTIPLE, NARROW, TOLERANCES, difference, telling

DTYPES = [dtype for dtype in TOLERANCES if dtype not in NARROW or dtype == "float16"]
INF, NAN = np.inf, np.nan


def arrays(dtype, *values):
    return [np.array(value, dtype) for value in values]


def largest_within(limit, dtype):
    """The largest number of `dtype` that is at most `limit`, and the one after it."""
    number = np.dtype(dtype).type(limit)
    if float(number) > limit:
        number = np.nextafter(number, number.dtype.type(-INF))
    return number, np.nextafter(number, number.dtype.type(INF))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sign", [1, -1])
def test_absolute_tolerance(dtype, sign):
    within, beyond = largest_within(TOLERANCES[dtype][1], dtype)
    (zero,) = arrays(dtype, [0])
    assert difference(np.array([sign * within]), zero, zero.astype("f8")).passed
    assert not difference(np.array([sign * beyond]), zero, zero.astype("f8")).passed


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_absolute_tolerance_of_tiny_outputs(dtype):
    """It shrinks with the largest value of any case, to a rounding of 1, and to 8 times eager's own error."""
    atol, largest = TOLERANCES[dtype][1], 0.1
    (zero,) = arrays(dtype, [0])
    exact = zero.astype("f8")
    within, beyond = largest_within(atol * largest, dtype)
    assert difference(np.array([within]), zero, exact, largest=largest).passed
    assert not difference(np.array([beyond]), zero, exact, largest=largest).passed
    within, beyond = largest_within(np.finfo(dtype).eps, dtype)
    assert difference(np.array([within]), zero, exact, largest=0.0).passed
    assert not difference(np.array([beyond]), zero, exact, largest=0.0).passed
    within, beyond = largest_within(atol / 2, dtype)
    nearby = float(within) / EAGER_MULTIPLE
    assert difference(np.array([within]), zero, exact, largest=largest, nearby=nearby).passed
    assert not difference(np.array([beyond]), zero, exact, largest=largest, nearby=nearby).passed
    within, beyond = largest_within(atol, dtype)
    for more in ({"largest": 100.0}, {"largest": largest, "nearby": 1.0}):
        assert difference(np.array([within]), zero, exact, **more).passed
        assert not difference(np.array([beyond]), zero, exact, **more).passed


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reference", [1.0, -1.0, 1000.0])
def test_relative_tolerance(dtype, reference):
    rtol, atol = TOLERANCES[dtype]
    allowed = atol + rtol * abs(reference)
    within, _ = largest_within(abs(reference) + allowed * (1 - 1e-6), dtype)
    _, beyond = largest_within(abs(reference) + allowed * (1 + 1e-6), dtype)
    (eager,) = arrays(dtype, [reference])
    sign = np.sign(eager)
    assert difference(sign * within, eager, eager.astype("f8")).passed
    assert not difference(sign * beyond, eager, eager.astype("f8")).passed


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_multiple_of_eagers_own_error(dtype):
    """The allowance holds for every element, whichever of them eager got wrong."""
    own = EAGER_CAP[dtype] * 256 / 64
    reference = np.array([0, 256.0])
    (eager,) = arrays(dtype, [0, 256 + own])
    own = float(eager[1]) - 256
    within, beyond = largest_within(EAGER_MULTIPLE * own, dtype)
    result = difference(np.array([within, 256], dtype), eager, reference)
    assert result.passed
    assert result.max_abs == float(within)
    assert result.eager_max_abs == own
    assert not difference(np.array([beyond, 256], dtype), eager, reference).passed


def test_eagers_error_on_neighbouring_inputs_counts_as_its_own():
    reference = np.array([0, 128.0])
    (eager,) = arrays("float32", [0, 128])
    got = np.array([0.5, 128], "f4")
    assert not difference(got, eager, reference).passed
    result = difference(got, eager, reference, nearby=0.5 / EAGER_MULTIPLE)
    assert result.passed
    assert result.eager_max_abs == 0.5 / EAGER_MULTIPLE
    assert not difference(got, eager, reference, nearby=0.49 / EAGER_MULTIPLE).passed
    assert not difference(got * 4, eager, reference, nearby=100.0).passed  # up to 1 % of the largest value


@pytest.mark.parametrize("dtype", DTYPES)
def test_eagers_own_error_counts_up_to_a_share_of_the_largest_value(dtype):
    reference = np.array([0, 128.0])
    (eager,) = arrays(dtype, [16, 128])
    within, beyond = largest_within(EAGER_CAP[dtype] * 128, dtype)
    assert difference(np.array([within, 128], dtype), eager, reference).passed
    assert not difference(np.array([beyond, 128], dtype), eager, reference).passed
    assert not difference(eager, eager, reference).passed  # such a network cannot be verified


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_rounding_of_a_large_sum_may_fall_on_a_small_element(dtype):
    """Where eager has no error of its own to show, because it could not run in float64."""
    (eager,) = arrays(dtype, [0.0, 1000.0])
    got = eager + np.array([1000 * 12 * np.finfo(dtype).eps, 0], dtype)
    assert difference(got, eager, eager).passed
    assert not difference(got + np.array([1000 * 1e-3, 0], dtype), eager, eager).passed


def test_what_is_recorded():
    reference = np.array([[1.0, 2.0], [4.0, 3.0]])
    eager = reference.astype("f4") + np.array([[0, 0], [0, 2**-20]], "f4")
    got = reference.astype("f4") + np.array([[0, 2**-19], [0, 0]], "f4")
    result = difference(got, eager, reference)
    assert result.passed
    assert result.max_abs == 2**-19
    assert result.max_rel == 2**-19 / 4
    assert result.eager_max_abs == 2**-20
    assert (result.agreeing_rows, result.rows) == (2, 2)
    assert result.note == ""


@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_not_finite_must_be_where_eager_has_it(dtype, value):
    eager, right = arrays(dtype, [1, value, 3], [1, value, 3])
    moved, missing, extra, other = arrays(
        dtype, [value, 1, 3], [1, 2, 3], [1, value, value], [1, -INF if value == INF else INF, 3]
    )
    reference = eager.astype("f8")
    assert difference(right, eager, reference).passed
    for wrong in (moved, missing, extra, other):
        result = difference(wrong, eager, reference)
        assert not result.passed
        assert "NaN or infinity" in result.note
    assert not difference(right, missing, missing.astype("f8")).passed


def test_an_overflow_of_eager_may_be_there_or_not():
    eager, reference = np.array([INF, 1], "f4"), np.array([1e39, 1])
    assert difference(eager, eager, reference).passed
    assert not difference(np.array([NAN, 1], "f4"), eager, reference).passed


@pytest.mark.parametrize(("value", "passes"), [(-150, True), (-150.01, True), (-151, False), (NAN, False)])
def test_a_number_may_be_where_only_float64_has_one(value, passes):
    """log(softmax(x)) underflows to -inf in float32; LogSoftmax does not."""
    eager, reference = np.array([-INF, 1], "f4"), np.array([-150.005, 1])
    assert difference(np.array([value, 1], "f4"), eager, reference).passed == passes


def test_each_element_that_is_not_finite_may_agree_with_eager_or_with_the_reference():
    eager, reference = np.array([NAN, INF, 1], "f4"), np.array([NAN, NAN, 1])
    for got in ([NAN, INF, 1], [NAN, NAN, 1]):
        assert difference(np.array(got, "f4"), eager, reference).passed
    eager, reference = np.array([INF, NAN, 1], "f4"), np.array([NAN, INF, 1])
    assert difference(np.array([INF, INF, 1], "f4"), eager, reference).passed


@pytest.mark.parametrize("dtype", ["int64", "int32", "uint8", "bool"])
def test_integers_and_booleans_are_exact(dtype):
    eager, reference, neither = arrays(dtype, [0, 1, 0], [0, 1, 1], [1, 1, 0])
    assert difference(eager, eager, reference).passed
    assert difference(reference, eager, reference).passed  # a tie that float64 decides otherwise
    result = difference(neither, eager, reference)
    assert not result.passed
    assert result.note == "1 of 3 values differ"


def test_large_integers_are_not_compared_as_floats():
    eager = np.array([2**53], "i8")
    assert not difference(eager + 1, eager, eager).passed


@pytest.mark.parametrize(
    ("got", "eager"),
    [
        ("float32", "int64"),
        ("int64", "float32"),
        ("bool", "int64"),
        ("int32", "int64"),
        ("float64", "float32"),
        ("float32", "float64"),
        ("float16", "float32"),
        ("uint8", "bool"),
    ],
)
def test_another_dtype(got, eager):
    values = np.ones((2, 2))
    result = difference(values.astype(got), values.astype(eager), values.astype(eager))
    assert not result.passed
    assert result.note == f"dtype {got} instead of {eager}"


@pytest.mark.parametrize(("got", "eager"), [((2, 3), (3, 2)), ((2,), (2, 1)), ((), (1,)), ((1, 3), (2, 3))])
def test_another_shape(got, eager):
    result = difference(np.zeros(got, "f4"), np.zeros(eager, "f4"), np.zeros(eager))
    assert not result.passed
    assert result.note == f"shape {list(got)} instead of {list(eager)}"


@pytest.mark.parametrize("dtype", [*DTYPES, "int64", "bool"])
@pytest.mark.parametrize("shape", [(0,), (0, 3), (2, 0), ()])
def test_empty_and_scalar_outputs(dtype, shape):
    zeros = np.zeros(shape, dtype)
    assert difference(zeros, zeros, zeros).passed


@pytest.mark.parametrize(
    ("shape", "rows"), [((4, 3), 4), ((4, 1), 0), ((4,), 0), ((4, 3, 2), 0), ((0, 3), 0)]
)
def test_rows_that_agree_on_the_largest_entry(shape, rows):
    values = np.arange(np.prod(shape)).reshape(shape).astype("f4")
    result = difference(values, values, values)
    assert (result.agreeing_rows, result.rows) == (rows, rows)


def test_a_row_that_disagrees():
    eager = np.array([[1, 1.0000001], [1, 2]], "f4")
    got = np.array([[1.0000001, 1], [1, 2]], "f4")
    result = difference(got, eager, eager.astype("f8"))
    assert result.passed
    assert (result.agreeing_rows, result.rows) == (1, 2)


@pytest.mark.parametrize("dtype", DTYPES)
def test_eager_tells_something_while_its_error_counts_in_full(dtype):
    within, beyond = largest_within(EAGER_CAP[dtype] * 128 / EAGER_MULTIPLE, dtype)
    reference = np.array([0, 128.0])
    assert telling(np.array([within, 128], dtype), reference)
    assert not telling(np.array([beyond, 128], dtype), reference)


@pytest.mark.parametrize("dtype", DTYPES)
def test_eager_tells_something_where_all_values_are_next_to_zero(dtype):
    within, beyond = largest_within(TOLERANCES[dtype][1] / EAGER_MULTIPLE, dtype)
    assert telling(np.array([within], dtype), np.zeros(1))
    assert not telling(np.array([beyond], dtype), np.zeros(1))


def test_what_eager_tells_where_values_are_not_finite_or_not_floats():
    assert telling(np.array([INF, NAN, 1], "f4"), np.array([1, NAN, 1.0]))
    assert not telling(np.array([INF, NAN, 1], "f4"), np.array([1, NAN, 1.1]))
    assert telling(np.array([1, 2]), np.array([1, 3]))
    assert telling(np.zeros((0, 3), "f4"), np.zeros((0, 3)))


@pytest.mark.parametrize("precision", NARROW)
def test_what_a_narrower_precision_allows_of_float32_outputs(precision):
    rtol, atol = TOLERANCES[precision]
    reference = np.array([1000.0, 1000.0])
    eager = reference.astype("f4")
    within, beyond = (reference * (1 + rtol * share) + atol for share in (0.999, 1.001))
    assert difference(within.astype("f4"), eager, reference, precision=precision).passed
    assert not difference(beyond.astype("f4"), eager, reference, precision=precision).passed
    for other in ("float32", "tf32"):
        assert not difference(within.astype("f4"), eager, reference, precision=other).passed


@pytest.mark.parametrize("precision", NARROW)
def test_a_narrower_precision_tells_nothing_where_it_overflows_or_is_far_off(precision):
    share = EAGER_CAP[precision] / EAGER_MULTIPLE
    reference = np.array([0, 128.0])
    for factor, tells in ((0.999, True), (1.001, False)):
        eager = np.array([share * factor * 128, 128], "f4")
        assert telling(eager, reference, precision) == tells
        assert not telling(eager, reference)
    assert not telling(np.array([INF, 128], "f4"), reference, precision)
    assert telling(np.array([INF, 128], "f4"), np.array([INF, 128]), precision)


def test_the_class_of_a_narrower_precision_is_compared_with_the_modules_own():
    reference = np.array([[1.0, 1.001], [4.0, 3.0]])
    eager = np.array([[1.001, 1.0], [4, 3]], "f4")
    got = eager.copy()
    assert difference(got, eager, reference, precision="float16").agreeing_rows == 1
    assert difference(reference.astype("f4"), eager, reference, precision="float16").agreeing_rows == 2
