"""Measures where the time of a call goes (`distance.py`): with all threads, with one, and cut off earlier."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import pairwise
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx import parser

from nncompile.bench.ceilings import Ceilings
from nncompile.bench.distance import Distance, Stage
from nncompile.bench.engines import Feed, Subject
from nncompile.bench.least_work import fewest_flops, plain_graph
from nncompile.bench.roofline import Limit, least_seconds
from nncompile.bench.stages import Span, spans
from nncompile.bench.timing import Schedule, measure
from nncompile.calling import Calling
from nncompile_runtime import container
from nncompile_runtime.predictor import Predictor

# Short blocks: what is told apart here differs by much more than 10 %.
_SCHEDULE = Schedule(rounds=5, seconds=0.15, warmup=0.02, minimum_calls=1, sessions=1)
_ALL, _ALONE = "all threads", "one thread"


@dataclass(frozen=True)
class Network:
    """A network ready to be told apart.

    Attributes:
        subject: What is benchmarked, on the CPU.
        graph: Its graph without functions.
        alone: It on one thread.
        spans: Its layers, and sessions of the networks that end with them.
    """

    subject: Subject
    graph: ir.Model
    alone: Predictor
    spans: tuple[Span, ...]

    @classmethod
    def of(cls, subject: Subject) -> Network:
        """Cut a subject's network.

        Raises:
            ModelLoadError: ONNX Runtime refuses a part of it.
        """
        model, plan = container.read(subject.path), subject.predictor.plan
        graph = plain_graph(model.data)
        parts = spans(graph, fewest_flops(graph, 1, subject.signature.batch, ()), plan)
        alone = Predictor(model, device="cpu", plan=plan.model_copy(update={"threads": 1}))
        return cls(subject, graph, alone, parts)


def measure_distance(
    network: Network, feed: Feed, limit: Limit, ceilings: Ceilings, *, layers: bool = False
) -> Distance:
    """Measure where the time of `predict` goes, with the default plan.

    Args:
        network: What is called.
        feed: Inputs by graph input name.
        limit: What the network takes at least, at the feed's batch.
        ceilings: What the machine allows.
        layers: Tell its layers apart too.

    Raises:
        InputError: ONNX Runtime cannot run the input.
    """
    subject, parts = network.subject, network.spans if layers else ()
    calling = Calling(subject.signature)
    args, named = calling.arguments([feed[name] for name in calling.names])
    whole, plan = subject.predictor, subject.predictor.plan
    calls: dict[str, Callable[[], Any]] = {_ALL: partial(whole.predict, *args, **named)}
    calls[_ALONE] = partial(network.alone.predict, *args, **named)
    calls |= {str(part.nodes): partial(part.until.run, feed) for part in parts if part.until}
    taken = {name: _undisturbed(rounds) for name, rounds in measure(calls, _SCHEDULE).items()}
    chosen = whole.session.kernels.layers
    flops = fewest_flops(network.graph, limit.batch, subject.signature.batch, chosen)
    seconds, bound = least_seconds(sum(flops), limit.bytes, ceilings)
    ends = [call_microseconds(), *(taken.get(str(part.nodes), taken[_ALL]) for part in parts)]
    return Distance(
        batch=limit.batch,
        time=taken[_ALL],
        limit=seconds * 1e6,
        bound=bound,
        call=call_microseconds(),
        threads=plan.threads,
        alone=taken[_ALONE],
        stages=tuple(
            Stage(part.name, after - before, 1e6 * _least_seconds(part, flops, ceilings))
            for part, (before, after) in zip(parts, pairwise(ends), strict=True)
        ),
    )


def _least_seconds(part: Span, flops: Sequence[int], ceilings: Ceilings) -> float:
    return least_seconds(sum(flops[node] for node in part.nodes), part.weights, ceilings)[0]


@lru_cache(maxsize=1)
def call_microseconds() -> float:
    """`predict` of a network of one node on one number: what every call costs; measured once a process."""
    text = '<ir_version: 10, opset_import: ["": 20]> g (float[n, 1] x) => (float[n, 1] y) { y = Neg(x) }'
    model = container.parse(parser.parse_model(text).SerializeToString(), "nothing.onnx")
    call = partial(Predictor(model, device="cpu").predict, np.ones((1, 1), np.float32))
    return _undisturbed(measure({"nothing": call}, _SCHEDULE)["nothing"])


def _undisturbed(rounds: Sequence[Any]) -> float:
    """Microseconds of the median call in the fastest round: whatever else runs only makes calls longer."""
    return min(float(np.median(calls)) for calls in rounds) / 1e3
