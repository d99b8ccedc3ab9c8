"""What a compiled graph is compared with on one case: eager's own answer, and the module's in float64."""

from __future__ import annotations

from typing import Any

import numpy as np

from nncompile.verify.cases import Case
from nncompile.verify.compare import NARROW, Array, largest_error, telling
from nncompile.verify.eager import Eager, widened
from nncompile.verify.neighbours import undecided
from nncompile_runtime.errors import VerificationError
from nncompile_runtime.manifest import Precision


def answered(
    eager: Eager,
    double: Eager | None,
    case: Case,
    precision: Precision,
    answer: list[Array] | None = None,
) -> tuple[Case, tuple[list[Array], list[Array]]]:
    """A case with both sets of outputs: its fallback, where eager refuses, mistakes or cannot rank them.

    Args:
        eager: The module as it is.
        double: The module in float64; None where it cannot run in it.
        case: The inputs.
        precision: What the module was cast to.
        answer: That of `double`, where it is known.

    Raises:
        VerificationError: Eager itself fails on the example's values, or is too far off in the precision.
    """
    fallback = None if case.fallback is None else Case(f"{case.name} of the example", case.fallback)
    try:
        own: list[Any] = eager(case.inputs)
    except Exception as error:
        if fallback:
            return answered(eager, double, fallback, precision)
        raise VerificationError(
            f"Eager PyTorch fails on the verification input {case.name!r}: {type(error).__name__}: {error}",
            remedy="Give an example whose values and sizes are typical, or compile with dynamic_batch=False.",
        ) from error
    reference = answer or _reference(double, case, own)
    tells = all(telling(a, b, precision) for a, b in zip(own, reference, strict=True))
    if fallback and undecided(eager, case.inputs, own):
        return answered(eager, double, fallback, precision)
    if tells or not (fallback or precision in NARROW):
        return case, (own, reference)
    if fallback:
        return answered(eager, double, fallback, precision)
    errors = [largest_error(a, b) for a, b in zip(own, reference, strict=True)]
    raise VerificationError(
        f"The module is too far off in {precision} to be compiled for it: on the {case.name} input, eager "
        f"PyTorch in {precision} differs from the module in float64 by {max(errors):.3g}, where the largest "
        f"value is {max(map(largest_value, reference)):.3g}.",
        remedy=f"Compile with precision={'bfloat16' if precision == 'float16' else 'tf32'!r} or 'float32'.",
    )


def _reference(double: Eager | None, case: Case, own: list[Array]) -> list[Array]:
    """The float64 module's answers; eager's own, which allow less, where that module fails on a case."""
    if double is None:
        return own
    try:
        return double(widened(case.inputs))
    except Exception:
        return own


def largest_value(output: Array) -> float:
    """The largest finite absolute value; 0 for integers and booleans."""
    return float(np.abs(output[np.isfinite(output)]).max(initial=0.0)) if output.dtype.kind == "f" else 0.0
