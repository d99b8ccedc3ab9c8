"""Only an engine that gives the right answers is timed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nncompile.bench.engines import Array, Engine, Feed, first_line, on_host

# dtype of an output -> (rtol, atol): wide enough for any order of summation, far too narrow for a bug.
TOLERANCES = {"float16": (1e-2, 1e-2), "float32": (1e-3, 1e-4), "float64": (1e-3, 1e-4)}

# For a file that computes in a narrower precision than the module: so much of the largest value besides.
# TF32 has the significand of float16.
NARROW = {"float16": 5e-3, "tf32": 5e-3, "bfloat16": 4e-2}


@dataclass(frozen=True)
class Rejected:
    """An engine that was not timed on a batch.

    Attributes:
        engine: Its name.
        batch: The batch.
        reason: What it did instead of answering like the reference.
    """

    engine: str
    batch: int
    reason: str


def rejected(
    engines: Mapping[str, Engine], reference: str, feed: Feed, batch: int, precision: str = "float32"
) -> tuple[Rejected, ...]:
    """The engines whose answers are not the reference's.

    Args:
        engines: All engines by name.
        reference: Name of the one that is right by definition. Where it fails, the next one stands in.
        feed: Inputs by graph input name; engines get copies.
        batch: Their batch.
        precision: What one of them computes in.
    """
    expected: list[Array] | None = None
    by = ""
    found = []
    for name in sorted(engines, key=lambda name: name != reference):
        own = {key: _copied(array) for key, array in feed.items()}
        try:
            outputs = [on_host(output) for output in engines[name].run(own)]
        except Exception as error:
            found.append(Rejected(name, batch, f"fails: {first_line(error)}"))
            continue
        if expected is None:
            expected, by = outputs, name
        # ONNX Runtime on a GPU, as it comes, is allowed TF32 for every file.
        problem = disagreement(outputs, expected, getattr(engines[name], "precision", precision))
        if problem is not None:
            found.append(Rejected(name, batch, f"disagrees with {by}: {problem}"))
        elif not all(_same(on_host(own[key]), on_host(feed[key])) for key in own):
            found.append(
                Rejected(name, batch, "writes into its inputs, so it cannot be called again on them")
            )
    return tuple(found)


def _copied(value: Any) -> Any:
    """A copy on the same device."""
    return value.clone() if hasattr(value, "clone") else value.copy()


def _same(a: Array, b: Array) -> bool:
    return np.array_equal(a, b, equal_nan=a.dtype.kind == "f")


def disagreement(got: Sequence[Array], expected: Sequence[Array], precision: str = "float32") -> str | None:
    """What is wrong with the first output that is; None where all are right."""
    if len(got) != len(expected):
        return f"{len(got)} outputs instead of {len(expected)}"
    for number, (a, b) in enumerate(zip(got, expected, strict=True)):
        problem = _difference(a, b, NARROW.get(precision, 0.0))
        if problem is not None:
            return f"output {number}: {problem}"
    return None


def _difference(got: Array, expected: Array, share: float) -> str | None:
    if got.shape != expected.shape:
        return f"shape {list(got.shape)} instead of {list(expected.shape)}"
    if got.dtype != expected.dtype:
        return f"dtype {got.dtype} instead of {expected.dtype}"
    if got.dtype.kind != "f":
        wrong = int(np.count_nonzero(got != expected))
        return f"{wrong} of {got.size} values differ" if wrong else None
    rtol, atol = TOLERANCES[got.dtype.name]
    wide, exact = got.astype(np.float64), expected.astype(np.float64)
    largest = np.abs(exact, where=np.isfinite(exact), out=np.zeros_like(exact)).max(initial=0.0)
    close = np.isclose(wide, exact, rtol, atol + share * float(largest), equal_nan=True)
    if close.all():
        return None
    apart = float(np.abs(wide - exact)[~close].max())
    return f"{close.size - int(close.sum())} of {close.size} values differ, by up to {apart:.3g}"
