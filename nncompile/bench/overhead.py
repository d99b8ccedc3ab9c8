"""What `predict` costs over the bare call of its own ONNX Runtime session."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from nncompile.bench.engines import Feed
from nncompile.bench.timing import Clock
from nncompile.calling import Calling
from nncompile_runtime.bootstrap import Estimate, median_estimate
from nncompile_runtime.predictor import Predictor
from nncompile_runtime.race import garbage_left_alone

_MOST_PAIRS = 3000


@dataclass(frozen=True)
class Overhead:
    """The cost of `predict` in microseconds a call.

    Attributes:
        batch: Batch of the calls.
        pairs: Pairs of calls.
        predict: Median of `predict`.
        bare: Median of `session.run`.
        difference: Median over the pairs of `predict` less `session.run`.
    """

    batch: int
    pairs: int
    predict: float
    bare: float
    difference: Estimate


def measure_overhead(
    predictor: Predictor,
    feed: Feed,
    batch: int,
    *,
    seconds: float = 1.0,
    warmup: float = 0.05,
    clock: Clock = time.perf_counter_ns,
) -> Overhead:
    """Time the two calls in turn on one session, each first in every other pair.

    Args:
        predictor: The loaded model.
        feed: Inputs by graph input name.
        batch: Their batch.
        seconds: When to stop, unless 3000 pairs are done before.
        warmup: Seconds of pairs before that, which are not counted.
        clock: Nanoseconds that only grow.
    """
    calling = Calling(predictor.signature)
    args, kwargs = calling.arguments([feed[name] for name in calling.names])
    predict, bare = predictor.predict, predictor.session.native.run

    def pair(predict_first: bool) -> tuple[int, int]:
        if predict_first:
            start = clock()
            predict(*args, **kwargs)
            between = clock()
            bare(None, feed)
            return between - start, clock() - between
        start = clock()
        bare(None, feed)
        between = clock()
        predict(*args, **kwargs)
        return clock() - between, between - start

    def pairs(duration: float, most: int) -> list[tuple[int, int]]:
        end = clock() + round(duration * 1e9)
        taken: list[tuple[int, int]] = []
        while not taken or (clock() < end and len(taken) < most):
            taken.append(pair(predict_first=len(taken) % 2 == 0))
        return taken

    with garbage_left_alone():
        pairs(warmup, _MOST_PAIRS)
        taken = np.array(pairs(seconds, _MOST_PAIRS)) / 1e3
    ours, theirs = taken[:, 0], taken[:, 1]
    return Overhead(
        batch, len(taken), float(np.median(ours)), float(np.median(theirs)), median_estimate(ours - theirs)
    )
