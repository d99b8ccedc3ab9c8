"""Streams of samples or batches as batches of one size, and the answers to them in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from nncompile_runtime import device_arrays, torch_arrays
from nncompile_runtime.device_arrays import library_of, taker_of
from nncompile_runtime.errors import InputError
from nncompile_runtime.manifest import Signature
from nncompile_runtime.shapes import carries_batch
from nncompile_runtime.structure import TensorLeaf
from nncompile_runtime.torch_arrays import is_tensor

AT_ONCE = 3
"""Calls under way on a GPU for which copies and kernels overlap: one copies in, one runs, one copies back."""


def stream(
    begin: Callable[..., Callable[[], Any]],
    signature: Signature,
    iterable: Iterable[Any],
    batch_size: int | None,
    *,
    ahead: bool = False,
) -> Iterator[Any]:
    """Yield the answers to one batch after another; see `Predictor.predict_batches`.

    Args:
        begin: Takes a batch; what it returns gives the answer.
        signature: The model's.
        iterable: Of samples or batches.
        batch_size: Rows of a batch; None keeps them as they come.
        ahead: Whether batches are begun before the answer to one is asked for, to be `AT_ONCE` with it.
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
    batches = _batches(signature, iterable, batch_size)
    return _predictions(begin, signature, batches, begun=AT_ONCE if ahead else 1)


def _predictions(
    begin: Callable[..., Callable[[], Any]],
    signature: Signature,
    batches: Iterator[tuple[int, tuple[Any, ...]]],
    *,
    begun: int,
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
        if len(waiting) == begun:
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
