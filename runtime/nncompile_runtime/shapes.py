"""The shapes of a call's outputs before it is run, as far as the signature tells."""

from __future__ import annotations

from collections.abc import Sequence

from nncompile_runtime.manifest import Signature, TensorSpec


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


def carries_batch(spec: TensorSpec, batch: str | None) -> bool:
    """Whether dimension 0 is the batch."""
    return batch is not None and bool(spec.shape) and spec.shape[0] == batch
