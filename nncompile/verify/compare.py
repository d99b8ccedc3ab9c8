"""How far two answers are apart, and whether that is within tolerance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

# What an output was computed in -> (rtol, atol). Sums of a few thousand products, reordered.
TOLERANCES = {
    "float64": (1e-9, 1e-10),
    "float32": (1e-4, 1e-5),
    "float16": (1e-2, 1e-3),
    "bfloat16": (8e-2, 8e-3),
}
NARROW = ("float16", "bfloat16")  # precisions that a module is cast to
EAGER_MULTIPLE = 8.0
# Eager's own error counts up to this share of the largest value; beyond, nothing could be verified.
EAGER_CAP = {"float64": 1e-4, "float32": 1e-2, "float16": 1e-1, "bfloat16": 4e-1}
# Share of the largest value that an element which cancels may lose to rounding alone.
ROUNDING = {"float64": 4e-15, "float32": 2e-6, "float16": 5e-3, "bfloat16": 4e-2}
# Where a graph rounds to 8 bits, a value on the border may land on the neighbouring step, on the way and
# at the end: two steps of 7 bits, the coarser of torch.ao's ranges, as a share of the range.
QUANTIZED_ROUNDING = 2 / 127


@dataclass(frozen=True)
class Difference:
    """One output of one case.

    Attributes:
        passed: Whether every element is within tolerance.
        max_abs: Largest absolute difference to the reference, over elements that are finite in it.
        max_rel: The same relative to the largest finite reference value.
        eager_max_abs: Eager PyTorch's own largest difference to the reference.
        agreeing_rows: Rows whose largest entry is at the same index as eager's, or as the reference's where
            the module was cast to a narrower precision; with `rows` 0, meaningless.
        rows: Rows compared for that.
        note: What is wrong beyond the numbers: a shape, a dtype, a NaN in the wrong place.
    """

    passed: bool
    max_abs: float = 0.0
    max_rel: float = 0.0
    eager_max_abs: float = 0.0
    agreeing_rows: int = 0
    rows: int = 0
    note: str = ""


def computed_in(dtype: np.dtype[Any], precision: str) -> str:
    """What an output of `dtype` was computed in: a module cast to float16 hands out float32."""
    return precision if precision in NARROW and dtype.kind == "f" else dtype.name


def difference(
    got: Array,
    eager: Array,
    reference: Array,
    *,
    precision: str = "float32",
    step: float = 0.0,
    nearby: float = 0.0,
    largest: float = 1.0,
) -> Difference:
    """Compare a compiled output with eager's, and both with the reference.

    An element passes within `atol + rtol * |reference|`, or within 8 times eager's own largest error (at
    most 1% of the largest value in float32): an ill-conditioned network differs from its own float64
    self, and no compiler can do better. A few roundings of the largest value are allowed everywhere:
    where a module cannot run in float64, eager is its own reference and shows no error.

    Of an output whose largest value is below 1 only that share of `atol` is left, or an output of tiny
    numbers could be anything; but no less than 8 times eager's own error, and than a rounding of 1 (ONNX
    Runtime's Sigmoid has that error near 0 too).

    Integers and booleans must equal eager's or the reference's. NaN and infinity must be eager's; where the
    reference has a number instead, that will do as well, within `atol + rtol * |reference|`.

    Args:
        got: The compiled graph's output.
        eager: Eager PyTorch's, in the module's own dtype.
        reference: The module's in float64, or `eager` again where it does not run so.
        precision: What the module was cast to.
        step: What the 8-bit roundings of a quantised graph may change.
        nearby: Eager's largest error on inputs next to these.
        largest: The largest value of this output in any case.
    """
    if got.shape != eager.shape:
        return Difference(False, note=f"shape {list(got.shape)} instead of {list(eager.shape)}")
    if got.dtype != eager.dtype:
        return Difference(False, note=f"dtype {got.dtype} instead of {eager.dtype}")
    if got.dtype.kind != "f":
        wrong = int(np.count_nonzero((got != eager) & (got != reference)))
        return Difference(wrong == 0, note=f"{wrong} of {got.size} values differ" if wrong else "")
    finite = np.isfinite(eager) & np.isfinite(reference)
    kind = computed_in(got.dtype, precision)
    rtol, atol = TOLERANCES[kind]
    own = max(largest_error(eager, reference), nearby)
    atol = min(atol, max(atol * largest, EAGER_MULTIPLE * own, float(np.finfo(got.dtype).eps)))
    special, wanted = got[~finite].astype(np.float64), reference[~finite]
    with np.errstate(invalid="ignore"):
        exact_enough = np.abs(special - wanted) <= atol + rtol * np.abs(wanted)
    # Where eager overflows or underflows and float64 does not, the answer may be the better one.
    same_special = (
        _same(special, eager[~finite]) | _same(special, wanted) | (np.isfinite(wanted) & exact_enough)
    )
    if not same_special.all() or not np.isfinite(got[finite]).all():
        return Difference(
            False, float("inf"), float("inf"), note="NaN or infinity where eager has none, or the reverse"
        )
    exact = reference[finite].astype(np.float64)
    error = np.abs(got[finite] - exact)
    max_abs = float(error.max(initial=0.0))
    scale = float(np.abs(exact).max(initial=0.0))
    conditioning = min(EAGER_MULTIPLE * own, EAGER_CAP[kind] * scale)
    rounding = max(ROUNDING[kind] * scale, step)
    allowed = np.maximum(atol + rtol * np.abs(exact), max(conditioning, rounding))
    model = reference if precision in NARROW else eager
    agreeing, rows = _top1(got, model) if finite.all() else (0, 0)
    return Difference(
        bool((error <= allowed).all()), max_abs, max_abs / scale if scale else 0.0, own, agreeing, rows
    )


def largest_error(eager: Array, reference: Array) -> float:
    """The largest absolute difference over elements that are finite in both; 0 for integers and booleans."""
    if eager.dtype.kind != "f":
        return 0.0
    finite = np.isfinite(eager) & np.isfinite(reference)
    return float(np.abs(eager[finite] - reference[finite].astype(np.float64)).max(initial=0.0))


def telling(eager: Array, reference: Array, precision: str = "float32") -> bool:
    """Whether eager is near enough to the reference for 8 times its own error to be an allowance.

    It is not where the inputs make the network chaotic: a right graph is as far off, in another direction.
    Nor where a module that was cast to a narrower precision overflows in it.
    """
    if eager.dtype.kind != "f":
        return True
    if precision in NARROW and not np.isfinite(eager[np.isfinite(reference)]).all():
        return False
    finite = np.isfinite(eager) & np.isfinite(reference)
    kind = computed_in(eager.dtype, precision)
    cap = EAGER_CAP[kind] * float(np.abs(reference[finite]).max(initial=0.0))
    return EAGER_MULTIPLE * largest_error(eager, reference) <= max(cap, TOLERANCES[kind][1])


def _same(a: Array, b: Array) -> Array:
    same: Array = (a == b) | (np.isnan(a) & np.isnan(b))
    return same


def _top1(got: Array, model: Array) -> tuple[int, int]:
    """Rows that agree on the index of their largest entry, and rows; (0, 0) where that means nothing."""
    if got.ndim != 2 or got.shape[1] < 2:
        return 0, 0
    return int(np.count_nonzero(got.argmax(1) == model.argmax(1))), len(got)
