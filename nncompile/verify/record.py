"""What a comparison found, as the record that the file keeps of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from nncompile.verify.cases import BATCHES, other_sizes
from nncompile.verify.compare import EAGER_MULTIPLE, TOLERANCES, Difference, computed_in
from nncompile_runtime.manifest import OutputRecord, Precision, Signature, Verification


def record(
    signature: Signature,
    found: Sequence[Sequence[Difference]],
    *,
    cases: int,
    precision: Precision,
    reference: Literal["float64", "float32"],
    rows_independent: bool,
) -> Verification:
    """The record of a graph that passed.

    Args:
        signature: How it is called.
        found: For each case, and each way in which it was run, the differences of all outputs.
        cases: How many cases there were.
        precision: What the module was cast to.
        reference: The dtype of the answers that count as right.
        rows_independent: Whether a row's answer was seen to depend on no other row.
    """
    kinds = [computed_in(spec.array_dtype, precision) for spec in signature.outputs]
    floats = [kind for kind in kinds if kind in TOLERANCES]
    rtol, atol = TOLERANCES[floats[0]] if floats else (0.0, 0.0)
    columns = zip(signature.outputs, zip(*found, strict=True), strict=True)
    return Verification(
        status="verified",
        reference=reference,
        batches=BATCHES if signature.batch else (),
        sizes=_compared_sizes(signature),
        cases=cases,
        rtol=rtol,
        atol=atol,
        eager_multiple=EAGER_MULTIPLE,
        rows_independent=rows_independent,
        outputs=tuple(_worst(spec.name, column) for spec, column in columns),
    )


def _worst(name: str, column: Sequence[Difference]) -> OutputRecord:
    """The largest errors of one output; how often its largest element stood where eager's does."""
    rows = sum(difference.rows for difference in column)
    return OutputRecord(
        name=name,
        max_abs=max(difference.max_abs for difference in column),
        max_rel=max(difference.max_rel for difference in column),
        eager_max_abs=max(difference.eager_max_abs for difference in column),
        top1_agreement=sum(difference.agreeing_rows for difference in column) / rows if rows else None,
    )


def _compared_sizes(signature: Signature) -> dict[str, tuple[int, ...]]:
    return {
        name: tuple(sorted({row.typical, *(sizes[name] for sizes in other_sizes(signature))}))
        for name, row in signature.sizes.items()
    }
