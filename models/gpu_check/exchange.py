"""What other libraries have on a GPU crosses without a copy: by DLPack, and CuPy's arrays on their stream."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from models.gpu_check.context import Context, arrays
from models.gpu_check.table import Finding
from models.gpu_check.ways import Way, small
from nncompile_runtime import Predictor
from nncompile_runtime.answers import difference

_ROWS, _LATER = 3, 5  # rows of a batch; calls after which an answer must be what it was


class Foreign:
    """A tensor as an array of a library that knows nothing but DLPack."""

    def __init__(self, tensor: torch.Tensor) -> None:
        """Hold on to the tensor."""
        self._tensor = tensor

    def __dlpack__(self, **options: Any) -> Any:
        """The tensor's capsule."""
        return self._tensor.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        """Where it lies."""
        kind, number = self._tensor.__dlpack_device__()
        return int(kind), number


def exchange(context: Context) -> Iterator[Finding]:
    """Plainly and from CUDA graphs (on the CPU, in pieces)."""
    for way in (small(context, {}), small(context)):
        predictor, x = way.load(way.plan), way.inputs(_ROWS, 0)
        expected = arrays(predictor, predictor(x))
        yield _by_dlpack(context, f"{way.name}, {way.plan}, DLPack", predictor, x, expected)
    if not context.on_gpu:
        yield Finding("CuPy", "not run", "it makes sense on a GPU only")
        return
    yield from by_cupy(context)


def by_cupy(context: Context) -> Iterator[Finding]:
    """CuPy's arrays plainly, from CUDA graphs, and in pieces."""
    try:
        import cupy  # noqa: F401
    except ImportError as error:
        yield Finding("CuPy's arrays (pip install cupy-cuda13x)", "not run", str(error))
        return
    for way in (small(context, {}), small(context, {"cuda_graph": True}), small(context, {"micro_batch": 2})):
        yield from with_cupy(context.device, way)


def _by_dlpack(
    context: Context, what: str, predictor: Predictor, x: np.ndarray, expected: list[np.ndarray]
) -> Finding:
    """In and out by DLPack: the same memory, and what was handed on outlives both tensors and later calls."""
    there = context.tensor(x)
    given = torch.from_dlpack(Foreign(there))
    answer = predictor.flatten_result(predictor(given))
    taken = [torch.from_dlpack(Foreign(y)) for y in answer]
    same = given.data_ptr() == there.data_ptr()
    same = same and [y.data_ptr() for y in taken] == [y.data_ptr() for y in answer]
    del answer, given
    others = torch.zeros_like(there)
    for _ in range(_LATER):
        predictor(others)
    wrong = difference(expected, [np.array(y.cpu().numpy()) for y in taken])
    if not same:
        wrong = "its memory is another's, so something was copied"
    return Finding.of(what, wrong is None, wrong or "the same memory, and the same values after later calls")


def with_cupy(device: str, way: Way) -> Iterator[Finding]:
    """CuPy's arrays in and out on a stream of the caller's; the input is made there late, and overwritten."""
    import cupy

    what = f"{way.name}, {way.plan}, CuPy"
    predictor, x = way.load(way.plan), way.inputs(_ROWS, 0)
    expected = [2 * y for y in arrays(predictor, predictor(x))]
    with cupy.cuda.Device(int(device.partition(":")[2] or 0)), cupy.cuda.Stream(non_blocking=True):
        half = cupy.asarray(x / 2)  # exact, and so is twice it
        given = half + half
        answer = predictor.flatten_result(predictor(given))
        given.fill(np.nan)
        doubled = [y + y for y in answer]
        for _ in range(_LATER):
            predictor(given)
        foreign = [type(y).__name__ for y in answer if not isinstance(y, cupy.ndarray)]
        wrong = difference(expected, [y.get() for y in doubled])
        if foreign:
            wrong = f"the answer is a {foreign[0]}"
        yield Finding.of(what, wrong is None, wrong or "CuPy's arrays, in the order of the caller's stream")
        parts = [predictor.flatten_result(y) for y in predictor.predict_batches(half, batch_size=2)]
        joined = [np.concatenate([y.get() for y in column]) for column in zip(*parts, strict=True)]
    wrong = difference(arrays(predictor, predictor(x / 2)), joined)
    yield Finding.of(
        f"{what}, predict_batches", wrong is None, wrong or f"{len(parts)} batches as in one call"
    )
