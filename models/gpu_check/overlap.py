"""How much of a stream's copies `predict_batches` hides behind its computing: a figure, told.

Four ways take turns: the stream, one `predict` after the other, the copies alone by way of pinned memory, and
the computing alone on tensors that lie on the GPU. What the stream takes less than the last two together was
done meanwhile; its share is of the shorter of the two, which is all that can be hidden. A stream that is
slower than one call after the other fails.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import numpy as np
import torch

from models.gpu_check.context import Context
from models.gpu_check.table import Finding
from nncompile.bench.engines.on_gpu import wait
from nncompile_runtime import Predictor
from nncompile_runtime.bootstrap import median_estimate
from nncompile_runtime.race import Entrant, race

_BATCH, _COUNT = 64, 8
_SECONDS = 1.0
_NOISE = 1.02  # as many times as long as the calls one after the other are none
_WAYS = _STREAM, _CALLS, _COPIES, _COMPUTING = ("stream", "calls", "copies", "computing")


def overlap(context: Context) -> Iterator[Finding]:
    """Eight batches of 64 for a network whose arrays are large and for one whose calls are short."""
    names = tuple(name for name in ("resnet18", *context.small[:1]) if name in context.networks)
    for name in names:
        predictor, x = context.load(name, "float32"), context.inputs(name, _BATCH)
        entrants = _entrants(context, predictor, x)
        rounds = race(entrants, list(entrants), min(_SECONDS, context.seconds)).rounds
        yield judged(f"{name}, {_COUNT} batches of {_BATCH}", rounds)


def judged(what: str, rounds: Mapping[str, Sequence[float]]) -> Finding:
    """What overlapped, from the seconds of each way in each round.

    Args:
        what: What was timed.
        rounds: By way: `stream`, `calls`, `copies` and `computing`.
    """
    stream, calls, copies, computing = (float(np.median(rounds[way])) for way in _WAYS)
    hidden = (copies + computing - stream) / min(copies, computing)
    slower = median_estimate(np.array(rounds[_STREAM]) / np.array(rounds[_CALLS]))
    said = (
        f"{hidden:.0%} of the shorter part overlapped: the stream took {stream * 1e3:.2f} ms, copies alone "
        f"{copies * 1e3:.2f}, computing alone {computing * 1e3:.2f}, one call after the other "
        f"{calls * 1e3:.2f}; {slower.value:.2f} [{slower.low:.2f}, {slower.high:.2f}] times as long as those"
    )
    return Finding(what, "failed" if slower.low > _NOISE else "told", said)


def _entrants(context: Context, predictor: Predictor, x: np.ndarray) -> dict[str, Entrant]:
    there = context.tensor(x)
    answer = predictor.flatten_result(predictor(there))
    here = [torch.empty(y.shape, dtype=y.dtype, pin_memory=context.on_gpu) for y in (there, *answer)]
    given, many = torch.from_numpy(x), [x] * _COUNT
    ways = {
        _STREAM: lambda: deque(predictor.predict_batches(iter(many), batch_size=None), maxlen=0),
        _CALLS: lambda: deque(map(predictor, many), maxlen=0),
        _COPIES: partial(_copy, given, there, answer, here),
        _COMPUTING: partial(_compute, predictor, there),
    }
    return {way: Entrant(call) for way, call in ways.items()}


def _copy(
    given: torch.Tensor, there: torch.Tensor, answer: Sequence[torch.Tensor], here: Sequence[torch.Tensor]
) -> None:
    for _ in range(_COUNT):
        here[0].copy_(given)
        there.copy_(here[0], non_blocking=True)
        for y, host in zip(answer, here[1:], strict=True):
            host.copy_(y, non_blocking=True)
        wait(there.device)


def _compute(predictor: Predictor, there: torch.Tensor) -> None:
    for _ in range(_COUNT):
        predictor(there)
    wait(there.device)
