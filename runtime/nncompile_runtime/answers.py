"""Whether two plans give the same answers, rounding aside."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nncompile_runtime.inputs import Array

# dtype -> share of an output's largest value, by which two plans may differ: each may be off by the
# tolerance of the verification (nncompile/verify/compare.py), which takes one of them for exact.
_TOLERANCES = {"float64": 2e-9, "float32": 2e-4, "float16": 2e-2}
# The same where a precision was asked for, whatever the outputs are. TF32's factors are as long as float16's.
_OF_PRECISION = {"tf32": 2e-2, "float16": 2e-2, "bfloat16": 1.6e-1}


def difference(reference: Sequence[Array], got: Sequence[Array], precision: str = "float32") -> str | None:
    """How an answer differs from the yardstick's; None where it does not beyond rounding.

    Args:
        reference: The yardstick's.
        got: The answer.
        precision: The manifest's.
    """
    for number, (wanted, given) in enumerate(zip(reference, got, strict=True)):
        where = f"output {number}"
        if wanted.shape != given.shape or wanted.dtype != given.dtype:
            return f"{where} is {given.dtype}{list(given.shape)}, not {wanted.dtype}{list(wanted.shape)}"
        if wanted.dtype.kind != "f":
            if not np.array_equal(wanted, given):
                return f"{where} differs"
            continue
        share = max(_TOLERANCES[wanted.dtype.name], _OF_PRECISION.get(precision, 0.0))
        wanted, given = _at_the_end_of_the_range(wanted, given, share)
        finite = np.isfinite(wanted)
        if not np.array_equal(wanted[~finite], given[~finite], equal_nan=True):
            return f"{where} differs where it is not finite"
        largest = float(np.abs(wanted[finite]).max(initial=0))
        apart = np.abs(given[finite].astype(np.float64) - wanted[finite]).max(initial=0)
        if not apart <= share * largest:
            return f"{where} differs by {apart:.2g}, where its largest value is {largest:.2g}"
    return None


def _at_the_end_of_the_range(one: Array, other: Array, share: float) -> tuple[Array, Array]:
    """Both, infinite where one is and the other nearly so: in float16, rounding decides which is."""
    if one.dtype != np.float16:
        return one, other
    edge = np.float16((1 - share) * np.finfo(np.float16).max)
    beyond = (np.abs(one) >= edge) & (np.abs(other) >= edge) & (np.isinf(one) | np.isinf(other))
    with_sign = [np.where(beyond, np.copysign(np.float16(np.inf), a), a) for a in (one, other)]
    return with_sign[0], with_sign[1]
