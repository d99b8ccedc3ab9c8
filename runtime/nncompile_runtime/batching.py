"""Batches of any size: empty ones, large ones cut into pieces, and streams."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np

from nncompile_runtime import device_arrays, torch_arrays
from nncompile_runtime.device_arrays import library_of, taker_of
from nncompile_runtime.errors import InputError
from nncompile_runtime.inputs import Array
from nncompile_runtime.manifest import Signature
from nncompile_runtime.session import Session
from nncompile_runtime.shapes import carries_batch, output_shapes
from nncompile_runtime.structure import TensorLeaf
from nncompile_runtime.torch_arrays import is_tensor
from nncompile_runtime.workers import workers

FEWEST_ROWS = 256
"""Rows of a piece, at least, where no plan says."""
_SHARE = 2**20  # bytes of inputs for each thread, at least


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
    if size == 0 and every_output_batched:
        two_rows = {  # a Squeeze in the graph could take one for no batch
            name: np.zeros((2, *array.shape[1:]), array.dtype) if name in batched else array
            for name, array in feed.items()
        }
        return [output[:0] for output in session.run(two_rows)]
    if size is None or piece is None or not every_output_batched:
        return session.run(feed)
    piece = min(piece, -(-size // at_once))
    if size <= piece:
        return session.run(feed)
    return _run_in_pieces(session, signature, feed, batched, size, piece, at_once)


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


def stream(
    begin: Callable[..., Callable[[], Any]],
    signature: Signature,
    iterable: Iterable[Any],
    batch_size: int | None,
    *,
    ahead: int = 0,
) -> Iterator[Any]:
    """Yield the answers to one batch after another; see `Predictor.predict_batches`.

    Args:
        begin: Takes a batch; what it returns gives the answer.
        signature: The model's.
        iterable: Of samples or batches.
        batch_size: Rows of a batch; None keeps them as they come.
        ahead: How many batches behind one are begun before its answer is asked for.
    """
    if batch_size is not None and (type(batch_size) is not int or batch_size < 1):
        raise InputError(f"batch_size is {batch_size!r}.", remedy="Give a whole number from 1 on, or None.")
    if not all(isinstance(argument.structure, TensorLeaf) for argument in signature.arguments):
        raise InputError(
            "predict_batches takes models whose inputs are plain tensors; this one's are nested.",
            remedy="Call predict once per batch.",
        )
    single = [s.name for s in signature.inputs if not carries_batch(s, signature.batch)]
    if batch_size is not None and signature.batch is not None and single:
        raise InputError(
            f"Input {single[0]!r} has no batch dimension, so batches cannot be cut and joined.",
            remedy="Give batch_size=None, which keeps the batches as they come.",
        )
    if not isinstance(iterable, Iterable) or getattr(iterable, "ndim", 1) == 0:
        raise InputError(
            f"An object of type {type(iterable).__name__} is no stream.", remedy="Give an iterable."
        )
    return _predictions(begin, signature, _batches(signature, iterable, batch_size), ahead=ahead)


def _predictions(
    begin: Callable[..., Callable[[], Any]],
    signature: Signature,
    batches: Iterator[tuple[int, tuple[Any, ...]]],
    *,
    ahead: int,
) -> Iterator[Any]:
    calls = _begun(begin, signature, batches)
    waiting: deque[tuple[int, Callable[[], Any]]] = deque()
    failure: Exception | None = None
    while True:
        try:
            waiting.append(next(calls))
        except StopIteration:
            break
        except Exception as error:
            failure = error  # which comes behind the answers to the batches before it
            break
        if len(waiting) > ahead:
            yield _ended(*waiting.popleft())
    while waiting:
        yield _ended(*waiting.popleft())
    if failure is not None:
        raise failure


def _begun(
    begin: Callable[..., Callable[[], Any]],
    signature: Signature,
    batches: Iterator[tuple[int, tuple[Any, ...]]],
) -> Iterator[tuple[int, Callable[[], Any]]]:
    names = [argument.name for argument in signature.arguments]
    for number, batch in batches:
        with _blaming(number):
            started = begin(**dict(zip(names, batch, strict=True)))
        yield number, started


def _ended(number: int, end: Callable[[], Any]) -> Any:
    with _blaming(number):
        return end()


@contextmanager
def _blaming(number: int) -> Iterator[None]:
    """Say which element of the stream an input's error came with."""
    try:
        yield
    except InputError as error:
        raise InputError(
            f"The batch that element {number} of the stream completes: {error.problem}",
            remedy=error.remedy,
        ) from None


def _batches(
    signature: Signature, iterable: Iterable[Any], batch_size: int | None
) -> Iterator[tuple[int, tuple[Any, ...]]]:
    if batch_size and len(signature.inputs) == 1 and (isinstance(iterable, np.ndarray) or taker_of(iterable)):
        rows: Any = iterable
        for start in range(0, len(rows), batch_size):
            yield start, (rows[start : start + batch_size],)
        return
    pending: list[tuple[Any, ...]] = []
    waiting = 0
    for number, element in enumerate(iterable):
        batch = _as_batch(signature, element, number)
        if batch_size is None:
            yield number, batch
            continue
        while waiting + len(batch[0]) >= batch_size:
            take = batch_size - waiting
            yield number, _join([*pending, tuple(column[:take] for column in batch)], number)
            batch = tuple(column[take:] for column in batch)
            pending, waiting = [], 0
        if len(batch[0]):
            pending.append(batch)
            waiting += len(batch[0])
    if pending:
        yield number, _join(pending, number)


def _as_batch(signature: Signature, element: Any, number: int) -> tuple[Any, ...]:
    """One element of the stream as a tuple of arrays with a batch dimension."""
    names = [argument.name for argument in signature.arguments]
    if isinstance(element, Mapping):
        if set(element) != set(names):
            raise _bad(number, f"has the keys {list(element)[:20]}", f"Give a dict with the keys {names}.")
        element = tuple(element[name] for name in names)
    columns = element if isinstance(element, (tuple, list)) else (element,)
    if len(columns) != len(names):
        raise _bad(number, f"holds {len(columns)} inputs", f"The model takes {len(names)}: {names}.")
    for column in columns:
        code = None if taker_of(column) else device_arrays.to_take_over(column)
        if code is not None:
            raise _bad(number, "is not on the host", f"Make it a tensor or a CuPy array: {code}.")
    try:
        columns = tuple(c if taker_of(c) else np.asarray(c) for c in columns)
    except ValueError as error:
        raise _bad(number, f"is no array: {error}", "Give numpy arrays or torch tensors.") from None
    specs = [
        signature.inputs[a.structure.index]
        for a in signature.arguments
        if isinstance(a.structure, TensorLeaf)
    ]
    ranks = [len(spec.shape) for spec in specs]
    got = [column.ndim for column in columns]
    if got == [rank - 1 for rank in ranks]:
        columns = tuple(column[None] for column in columns)
    elif got != ranks:
        wanted = ", ".join(map(str, specs))
        raise _bad(
            number, f"has shape {[list(c.shape) for c in columns]}", f"Give samples or batches of {wanted}."
        )
    rows = [len(c) for c, s in zip(columns, specs, strict=True) if carries_batch(s, signature.batch)]
    if len(set(rows)) > 1:
        raise _bad(number, f"holds {rows} rows", "Give as many rows for each input.")
    return columns


def _join(parts: list[tuple[Any, ...]], number: int) -> tuple[Any, ...]:
    if len(parts) == 1:
        return parts[0]
    joined = []
    for column in zip(*parts, strict=True):
        if len({(c.shape[1:], c.dtype, is_tensor(c), _place(c)) for c in column}) != 1:
            raise _bad(
                number,
                "or one shortly before differs in shape, dtype or device",
                "Give rows of one shape and dtype, in one place.",
            )
        joined.append((torch_arrays if is_tensor(column[0]) else device_arrays).joined(column))
    return tuple(joined)


def _place(value: Any) -> str | None:
    library = library_of(value)
    return None if library is None else library.device(value)


def _bad(number: int, what: str, remedy: str) -> InputError:
    return InputError(f"Element {number} of the stream {what}.", remedy=remedy)
