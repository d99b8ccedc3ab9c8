"""What a call takes and returns, as far as the signature tells before it is run: shapes, dtypes, bytes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from nncompile_runtime.manifest import Signature, TensorSpec


class Port(NamedTuple):
    """One input or output of a call.

    Attributes:
        name: Of the graph's input or output.
        dtype: Of its elements.
        shape: Its sizes.
        size: Bytes.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    size: int


class Ports(NamedTuple):
    """Inputs and outputs of a call, in the graph's order.

    Attributes:
        inputs: All of the graph's.
        outputs: Likewise; None where an output has a size that no input has.
        empty: Whether one of them has no bytes.
        size: Bytes of all.
    """

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...] | None
    empty: bool
    size: int


def ports_of(signature: Signature, given: Sequence[tuple[int, ...]]) -> Ports:
    """The ports of calls on inputs of checked shapes, which are given in the graph's order."""
    shapes = output_shapes(signature, given)
    inputs = tuple(map(_port, signature.inputs, given))
    outputs = None if shapes is None else tuple(map(_port, signature.outputs, shapes))
    ports = (*inputs, *(outputs or ()))
    return Ports(inputs, outputs, not all(port.size for port in ports), sum(port.size for port in ports))


def _port(spec: TensorSpec, shape: tuple[int, ...]) -> Port:
    dtype = spec.array_dtype
    return Port(spec.name, dtype, tuple(shape), math.prod(shape) * dtype.itemsize)


def output_shapes(
    signature: Signature, inputs: Sequence[tuple[int, ...]]
) -> tuple[tuple[int, ...], ...] | None:
    """One shape for each output; None where an output has a size that no input has.

    Args:
        signature: The model's.
        inputs: Shapes of its inputs, in order, checked.
    """
    sizes: dict[str, int] = {}
    for spec, shape in zip(signature.inputs, inputs, strict=True):
        sizes |= {s: n for s, n in zip(spec.shape, shape, strict=True) if isinstance(s, str)}
    if not all(size in sizes for spec in signature.outputs for size in spec.shape if isinstance(size, str)):
        return None
    return tuple(
        tuple(sizes[s] if isinstance(s, str) else s for s in spec.shape) for spec in signature.outputs
    )


def fixed_but_for_the_batch(signature: Signature) -> bool:
    """Whether the batch is the only free size of the inputs and outputs."""
    specs = (*signature.inputs, *signature.outputs)
    return all(isinstance(size, int) or size == signature.batch for spec in specs for size in spec.shape)


def not_by_row(signature: Signature) -> str | None:
    """The first output whose shape is the same for any batch; None where the batch decides each one's."""
    sizes = {size for spec in signature.inputs for size in spec.shape if size != signature.batch}
    fixed = (s.name for s in signature.outputs if all(isinstance(n, int) or n in sizes for n in s.shape))
    return next(fixed, None)


def carries_batch(spec: TensorSpec, batch: str | None) -> bool:
    """Whether dimension 0 is the batch."""
    return batch is not None and bool(spec.shape) and spec.shape[0] == batch
