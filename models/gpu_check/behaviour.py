"""Answers do not depend on the batches before, or on how a batch is run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from models.gpu_check.context import Context, arrays, warnings
from models.gpu_check.table import Finding
from nncompile_runtime import Predictor
from nncompile_runtime.answers import difference

_BATCHES = (1, 2, 3, 5, 8, 13, 16, 17, 31, 64, 3, 1)


def ragged(context: Context) -> Iterator[Finding]:
    """Batches around those that graphs are captured for, against a plan without graphs.

    On the CPU, where there are no CUDA graphs, against batches cut into pieces.
    """
    special: dict[str, Any] = {"cuda_graph": True} if context.on_gpu else {"micro_batch": 4}
    for name in context.small:
        plain = context.load(name, "float32", {"cuda_graph": False} if context.on_gpu else {})
        predictor = context.load(name, "float32", special)
        feeds = [context.inputs(name, batch, seed) for seed, batch in enumerate(_BATCHES)]
        expected = [arrays(plain, plain(x)) for x in feeds]
        for kind, given in (("arrays", feeds), ("tensors", [context.tensor(x) for x in feeds])):
            with warnings() as told:
                results = [predictor(x) for x in given]
            # Read when all calls are done: a later one must not write there.
            wrong = [
                f"batch {batch}: {problem}"
                for batch, wanted, result in zip(_BATCHES, expected, results, strict=True)
                if (problem := difference(wanted, arrays(predictor, result)))
            ] + told  # of graphs that could not be captured
            said = "; ".join(wrong) or f"batches {', '.join(map(str, _BATCHES))} as without"
            yield Finding.of(f"{name}, {special}, {kind}", not wrong, said)
        yield _streamed(context, name, predictor, plain)


def _streamed(context: Context, name: str, predictor: Predictor, plain: Predictor) -> Finding:
    """A stream of batches of all sizes, cut anew."""
    feeds = [context.inputs(name, batch, seed) for seed, batch in enumerate(_BATCHES)]
    got = [arrays(predictor, y) for y in predictor.predict_batches(iter(feeds), batch_size=16)]
    joined = [np.concatenate(column) for column in zip(*got, strict=True)]
    wrong = difference(arrays(plain, plain(np.concatenate(feeds))), joined)
    said = wrong or f"{len(got)} batches of 16 rows at most, as in one call"
    return Finding.of(f"{name}, predict_batches", wrong is None, said)
