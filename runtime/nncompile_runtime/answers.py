"""Whether two plans give the same answers, rounding aside."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nncompile_runtime.inputs import Array

# dtype -> share of an output's largest value, by which two plans may differ: each may be off by the
# tolerance of the verification (nncompile/verify/compare.py), which takes one of them for exact.
_TOLERANCES = {"float64": 2e-9, "float32": 2e-4, "float16": 2e-2}


def difference(reference: Sequence[Array], got: Sequence[Array]) -> str | None:
    """How an answer differs from the yardstick's; None where it does not beyond rounding."""
    for number, (wanted, given) in enumerate(zip(reference, got, strict=True)):
        where = f"output {number}"
        if wanted.shape != given.shape or wanted.dtype != given.dtype:
            return f"{where} is {given.dtype}{list(given.shape)}, not {wanted.dtype}{list(wanted.shape)}"
        if wanted.dtype.kind != "f":
            if not np.array_equal(wanted, given):
                return f"{where} differs"
            continue
        finite = np.isfinite(wanted)
        if not np.array_equal(wanted[~finite], given[~finite], equal_nan=True):
            return f"{where} differs where it is not finite"
        largest = float(np.abs(wanted[finite]).max(initial=0))
        apart = np.abs(given[finite].astype(np.float64) - wanted[finite]).max(initial=0)
        if not apart <= _TOLERANCES[wanted.dtype.name] * largest:
            return f"{where} differs by {apart:.2g}, where its largest value is {largest:.2g}"
    return None
