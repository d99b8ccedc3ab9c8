"""Inputs to measure on: seeded, of the signature's shapes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from nncompile_runtime.errors import InputError
from nncompile_runtime.inputs import Array
from nncompile_runtime.manifest import Signature


def standard_feed(
    signature: Signature, batch: int, sizes: Mapping[str, int] | None = None, seed: int = 0
) -> list[Array]:
    """One array for each graph input: standard normal for floats, zeros for everything else.

    Zero is the one integer that is in range whatever it means: an index into a table, say.

    Args:
        signature: The model's.
        batch: Size of the free batch.
        sizes: Sizes of other free dimensions by symbol; those of the example, where the file tells them.
        seed: Of the values.

    Raises:
        InputError: A free dimension has no size, or a size is for none.
    """
    symbols = {size for spec in signature.inputs for size in spec.shape if isinstance(size, str)}
    others = sorted(symbols - {signature.batch})
    for name in sizes or {}:
        if name not in others:
            raise InputError(
                f"A size is given for {name!r}, which is no free dimension of the inputs.",
                remedy=f"They are {', '.join(map(repr, others))}."
                if others
                else "There is none but the batch.",
            )
    typical = {name: size.typical for name, size in signature.sizes.items()}
    for name, size in (sizes or {}).items():
        if name in signature.sizes and size not in signature.sizes[name]:
            raise InputError(
                f"{name} = {size} is to be measured: the model was compiled for {signature.sizes[name]}.",
                remedy="Give such a size.",
            )
    known = {**typical, **(sizes or {}), **({signature.batch: batch} if signature.batch else {})}
    generator = np.random.default_rng(seed)
    arrays = []
    for spec in signature.inputs:
        free = [size for size in spec.shape if isinstance(size, str) and size not in known]
        if free:
            raise InputError(
                f"Input {spec.name!r} is {spec}, and {free[0]!r} may have any size.",
                remedy=f"Say which size to measure: sizes={{{free[0]!r}: ...}}.",
            )
        shape = [known[size] if isinstance(size, str) else size for size in spec.shape]
        is_float = spec.array_dtype.kind == "f"
        values = generator.standard_normal(shape) if is_float else np.zeros(shape)
        arrays.append(values.astype(spec.array_dtype))
    return arrays
