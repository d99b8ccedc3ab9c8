"""Answers do not depend on the batches before, or on how a batch is run."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from models.gpu_check.context import Context, arrays, warnings
from models.gpu_check.table import Finding, NotRunError
from models.gpu_check.ways import Way, ways
from nncompile_runtime import Predictor
from nncompile_runtime.answers import difference


def ragged(context: Context) -> Iterator[Finding]:
    """Batches around those that graphs are captured for, against a plan without graphs, channels first."""
    for way in ways(context):
        try:
            yield from _as_without(context, way)
        except NotRunError as error:
            yield Finding(f"{way.name}, {way.plan}", "not run", str(error))


def _as_without(context: Context, way: Way) -> Iterator[Finding]:
    plain = way.load({"cuda_graph": False} if context.on_gpu else {})
    predictor = way.load(way.plan)
    feeds = [way.inputs(batch, seed) for seed, batch in enumerate(way.batches)]
    expected = [arrays(plain, plain(x)) for x in feeds]
    for kind, given in (("arrays", feeds), ("tensors", [context.tensor(x) for x in feeds])):
        with warnings() as told:
            results = [predictor(x) for x in given]
        # Read when all calls are done: a later one must not write there.
        wrong = [
            f"batch {batch}: {problem}"
            for batch, wanted, result in zip(way.batches, expected, results, strict=True)
            if (problem := difference(wanted, arrays(predictor, result), way.precision))
        ] + told  # of graphs that could not be captured
        said = "; ".join(wrong) or f"batches {', '.join(map(str, way.batches))} as without"
        yield Finding.of(f"{way.name}, {way.plan}, {kind}", not wrong, said)
    yield _streamed(way, feeds, predictor, plain)


def _streamed(way: Way, feeds: list[np.ndarray], predictor: Predictor, plain: Predictor) -> Finding:
    """A stream of batches of all sizes, cut anew."""
    got = [arrays(predictor, y) for y in predictor.predict_batches(iter(feeds), batch_size=16)]
    joined = [np.concatenate(column) for column in zip(*got, strict=True)]
    wrong = difference(arrays(plain, plain(np.concatenate(feeds))), joined, way.precision)
    said = wrong or f"{len(got)} batches of 16 rows at most, as in one call"
    return Finding.of(f"{way.name}, {way.plan}, predict_batches", wrong is None, said)
