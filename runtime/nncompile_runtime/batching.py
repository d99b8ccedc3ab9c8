"""Batches of any size: empty ones, and large ones cut into pieces."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial

import numpy as np

from nncompile_runtime.container import ModelFile
from nncompile_runtime.errors import InputError
from nncompile_runtime.inputs import Array
from nncompile_runtime.manifest import Signature, TensorSpec
from nncompile_runtime.session import Session
from nncompile_runtime.shapes import carries_batch, not_by_row, output_shapes
from nncompile_runtime.workers import workers

FEWEST_ROWS = 256
"""Rows of a piece, at least, where no plan says."""
_SHARE = 2**20  # bytes of inputs for each thread, at least
# What answers of no rows otherwise than PyTorch; sums, products and norms are the same in both.
_OTHER_WITHOUT_ROWS = frozenset({"ReduceMean", "ReduceMax", "ReduceMin"})


def run(
    session: Session, signature: Signature, feed: dict[str, Array], piece: int | None, at_once: int = 1
) -> list[Array]:
    """Run a checked feed of any batch size.

    Args:
        session: The session.
        signature: Its signature; says which inputs and outputs carry the batch.
        feed: Arrays by graph input name.
        piece: Rows to run at once, at most: fewer where `at_once` threads would else go idle. None
            runs the batch whole.
        at_once: Threads that run pieces at the same time, the calling one included.

    Returns:
        The graph's outputs in order.
    """
    batched = [spec.name for spec in signature.inputs if carries_batch(spec, signature.batch)]
    size = len(feed[batched[0]]) if batched else None
    every_output_batched = all(carries_batch(spec, signature.batch) for spec in signature.outputs)
    shapes = _of_nothing(signature, feed) if size == 0 else None
    if shapes is not None:
        two_rows = (_with_rows(spec, feed[spec.name], signature.batch) for spec in signature.inputs)
        names = [spec.name for spec in signature.inputs]
        answers = zip(session.run(dict(zip(names, two_rows, strict=True))), shapes, strict=True)
        return [output[tuple(map(slice, shape))] for output, shape in answers]
    if size is None or piece is None or not every_output_batched:
        return session.run(feed)
    piece = min(piece, -(-size // at_once))
    if size <= piece:
        return session.run(feed)
    return _run_in_pieces(session, signature, feed, batched, size, piece, at_once)


def _with_rows(spec: TensorSpec, array: Array, batch: str | None) -> Array:
    """Zeros for two rows where there is a batch: a Squeeze in the graph could take one row for none."""
    if batch not in spec.shape:
        return array
    sizes = zip(spec.shape, array.shape, strict=True)
    return np.zeros([2 if symbol == batch else size for symbol, size in sizes], array.dtype)


def _of_nothing(signature: Signature, feed: Mapping[str, Array]) -> tuple[tuple[int, ...], ...] | None:
    """The shapes of outputs without elements; None where one has some, or only the graph knows."""
    shapes = output_shapes(signature, [feed[spec.name].shape for spec in signature.inputs])
    return None if shapes is None or any(map(math.prod, shapes)) else shapes


def default_piece(signature: Signature, feed: Mapping[str, Array], threads: int) -> int | None:
    """Rows that ONNX Runtime's own kernels are given at once where no plan says and rows are independent.

    It keeps what lies between layers for all rows of a run, which grows to gigabytes, and does not give it
    back. Pieces of 256 rows and 1 MiB of inputs were as fast as larger ones on one thread; several threads
    wait for one another in each layer of each piece, so each has as much to do.

    Args:
        signature: The model's.
        feed: More than no rows, by graph input name.
        threads: Of the session.

    Returns:
        Rows; None where an output has a size that no input has, which might not be the same for all pieces.
    """
    if output_shapes(signature, [feed[spec.name].shape for spec in signature.inputs]) is None:
        return None
    rows = [feed[spec.name] for spec in signature.inputs if carries_batch(spec, signature.batch)]
    row = max(1, sum(array.nbytes for array in rows) // len(rows[0]))
    return max(FEWEST_ROWS, threads * _SHARE // row)


def unlike_pytorch_without_rows(model: ModelFile) -> str | None:
    """The output of all rows that may be their mean or an extreme; None where there is none.

    A graph that PyTorch did not make has no other answer than ONNX Runtime's.
    """
    if model.manifest is None or not _OTHER_WITHOUT_ROWS & model.facts.operators.keys():
        return None
    return not_by_row(model.manifest.signature)


def no_rows(output: str) -> InputError:
    """The error for an empty batch of such a model."""
    return InputError(
        f"The batch is empty, and output {output!r} is of all rows: of none, ONNX Runtime's mean is 0 and "
        "its extremes are infinite, where PyTorch answers NaN or raises.",
        remedy="Skip empty batches.",
    )


def batch_of(signature: Signature, feed: Mapping[str, Array]) -> int:
    """Rows in a checked feed; 1 where the model has no free batch."""
    for spec in signature.inputs:
        if carries_batch(spec, signature.batch):
            rows: int = feed[spec.name].shape[0]  # len() of a torch tensor is slow
            return rows
    return 1


def _run_in_pieces(
    session: Session,
    signature: Signature,
    feed: dict[str, Array],
    batched: list[str],
    size: int,
    piece: int,
    at_once: int,
) -> list[Array]:
    """Run `piece` rows after another; ONNX Runtime writes each into its place in the result."""

    def rows(start: int) -> dict[str, Array]:
        return {n: a[start : start + piece] if n in batched else a for n, a in feed.items()}

    names = [spec.name for spec in signature.outputs]
    start = 0
    shapes = [[d for d in spec.shape[1:] if isinstance(d, int)] for spec in signature.outputs]
    if all(len(s) == len(spec.shape) - 1 for s, spec in zip(shapes, signature.outputs, strict=True)):
        specs = zip(shapes, signature.outputs, strict=True)
        results = [np.empty((size, *shape), spec.array_dtype) for shape, spec in specs]
    else:
        first = session.run(rows(0))
        results = [np.empty((size, *output.shape[1:]), output.dtype) for output in first]
        for result, output in zip(results, first, strict=True):
            result[:piece] = output
        start = piece

    def fill(at: int) -> None:
        session.run_into(rows(at), [(n, r[at : at + piece]) for n, r in zip(names, results, strict=True)])

    if at_once == 1:
        for at in range(start, size, piece):
            fill(at)
    else:
        workers().run([partial(fill, at) for at in range(start, size, piece)], at_once)
    return results
