"""The inputs that engines are compared on: seeded, of the signature's shapes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from nncompile_runtime.errors import NncompileError
from nncompile_runtime.manifest import Signature

Array = npt.NDArray[Any]


def make_feed(
    signature: Signature, batch: int | None, sizes: Mapping[str, int] | None = None, seed: int = 0
) -> dict[str, Array]:
    """Arrays by graph input name: standard normal values for floats, zeros for everything else.

    Zero is the one integer that is in range whatever the integer means (an index into a table, say).

    Args:
        signature: The model's.
        batch: Size of the dynamic batch; None leaves it to `sizes`.
        sizes: Sizes of other free dimensions by symbol.
        seed: Seed of the values.

    Raises:
        NncompileError: A free dimension has no size.
    """
    known = dict(sizes or {})
    if batch is not None and signature.batch is not None:
        known[signature.batch] = batch
    generator = np.random.default_rng(seed)
    feed = {}
    for spec in signature.inputs:
        free = [size for size in spec.shape if isinstance(size, str) and size not in known]
        if free:
            raise NncompileError(
                f"Input {spec.name!r} is {spec}, and {free[0]!r} may have any size.",
                remedy=f"Say which size to measure: sizes={{{free[0]!r}: ...}}.",
            )
        shape = tuple(known[size] if isinstance(size, str) else size for size in spec.shape)
        dtype = spec.array_dtype
        values = generator.standard_normal(shape) if dtype.kind == "f" else np.zeros(shape)
        feed[spec.name] = values.astype(dtype)
    return feed


def fixed_batch(signature: Signature) -> int | None:
    """The one batch that the model takes; None where any will do."""
    if signature.batch is not None:
        return None
    first = next((spec.shape[0] for spec in signature.inputs if spec.shape), 1)
    return first if isinstance(first, int) else 1


def check_batches(signature: Signature, batches: tuple[int, ...]) -> None:
    """Refuse batches that cannot be measured.

    Raises:
        NncompileError: There is none, one is below 1, or the model's batch is fixed to another size.
    """
    fixed = fixed_batch(signature)
    if not batches or any(type(batch) is not int or batch < 1 for batch in batches):
        raise NncompileError(
            f"The batches are {list(batches)}.", remedy="Give one or more whole numbers from 1 on."
        )
    if fixed is not None and set(batches) != {fixed}:
        raise NncompileError(
            f"The model's batch is fixed to {fixed}, so {list(batches)} cannot be measured.",
            remedy=f"Measure batch {fixed} only, or compile with dynamic_batch=True.",
        )
