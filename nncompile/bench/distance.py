"""How far a call is from what the machine allows, and where the rest of its time goes: measured, by batch.

The time T of a call on n threads is cut into four:

    limit     what the operations take at the machine's peak, or weights, inputs and outputs at its bandwidth
    call      what no call escapes, Python and ONNX Runtime: that of a network of one node on one number
    kernels   (T1 - call) / n - limit: the work of one thread alone (T1), shared evenly, beyond the limit
    sharing   what is left: threads that wait for one another, or have nothing to do

The limit counts a convolution that runs by Winograd's algorithm with the products of F(4 x 4, r x r):
(r + 3)^2 for 16 results, its transforms not counted (A. Lavin, S. Gray, "Fast Algorithms for Convolutional
Neural Networks", 2016). `roofline.py` counts operations as defined, of which that algorithm does a part.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from nncompile.bench.ceilings import Ceilings
from nncompile.bench.engines import Feed, Subject
from nncompile.bench.roofline import Limit, least_seconds
from nncompile.bench.timing import Schedule, measure
from nncompile.calling import Calling
from nncompile_runtime import container
from nncompile_runtime.predictor import Predictor

if TYPE_CHECKING:
    import onnx_ir as ir

    from nncompile_runtime.kernels import Layer

# Short blocks: what is told apart here differs by much more than 10 %.
_SCHEDULE = Schedule(rounds=5, seconds=0.15, warmup=0.02, minimum_calls=1, sessions=1)
_TILE = 4  # results of a tile along an axis


@dataclass(frozen=True)
class Distance:
    """Where the time of one call goes. Times are microseconds.

    Attributes:
        batch: Samples in the call.
        time: The median call.
        limit: The least that it can take, with the products of Winograd's algorithm where that runs.
        bound: What takes that: `compute` or `bandwidth`.
        call: The median call of a network that does nothing.
        threads: Threads that compute.
        alone: The median call on one of them.
    """

    batch: int
    time: float
    limit: float
    bound: str
    call: float
    threads: int
    alone: float

    @property
    def kernels(self) -> float:
        """One thread's work, shared evenly, beyond the limit."""
        return (self.alone - self.call) / self.threads - self.limit

    @property
    def sharing(self) -> float:
        """What threads lose by waiting, or by having nothing to do."""
        return self.time - self.call - (self.alone - self.call) / self.threads


def measure_distance(subject: Subject, feed: Feed, limit: Limit, ceilings: Ceilings) -> Distance:
    """Measure where the time of `predict` goes, with the default plan.

    Args:
        subject: What is benchmarked, on the CPU.
        feed: Inputs by graph input name.
        limit: What the network takes at least, at the feed's batch.
        ceilings: What the machine allows.

    Raises:
        ModelLoadError: ONNX Runtime refuses the graph.
        InputError: It cannot run the input.
    """
    model, ours = container.read(subject.path), subject.predictor
    plan = ours.plan
    single = Predictor(model, device="cpu", plan=plan.model_copy(update={"threads": 1}))
    calling = Calling(subject.signature)
    args, named = calling.arguments([feed[name] for name in calling.names])
    calls = {name: partial(p.predict, *args, **named) for name, p in (("all", ours), ("one", single))}
    taken = {name: _median(rounds) for name, rounds in measure(calls, _SCHEDULE).items()}
    layers = ours.session.kernels.layers
    flops = fewest_flops(_inlined(model.data), limit.batch, subject.signature.batch, layers)
    seconds, bound = least_seconds(flops, limit.bytes, ceilings)
    return Distance(
        batch=limit.batch,
        time=taken["all"],
        limit=seconds * 1e6,
        bound=bound,
        call=call_microseconds(),
        threads=plan.threads,
        alone=taken["one"],
    )


@lru_cache(maxsize=1)
def call_microseconds() -> float:
    """The median `predict` of a network of one node on one number: what every call costs, once a process."""
    from onnx import parser

    text = '<ir_version: 10, opset_import: ["": 20]> g (float[n, 1] x) => (float[n, 1] y) { y = Neg(x) }'
    model = container.parse(parser.parse_model(text).SerializeToString(), "nothing.onnx")
    call = partial(Predictor(model, device="cpu").predict, np.ones((1, 1), np.float32))
    return _median(measure({"nothing": call}, _SCHEDULE)["nothing"])


def fewest_flops(model: ir.Model, batch: int, symbol: str | None, layers: Sequence[Layer]) -> int:
    """Operations of a graph without functions, by Winograd's products where that algorithm runs.

    Args:
        model: The graph.
        batch: What the batch counts as.
        symbol: Name of the batch.
        layers: What the native kernels chose.
    """
    from nncompile.costs import graph_cost

    chosen = {layer.name for layer in layers if layer.winograd}
    count = 0
    for node, cost in zip(model.graph, graph_cost(model, batch, symbol).nodes, strict=True):
        count += cost.flops or 0
        weight = _weight_shape(node)
        if cost.shape is None or len(cost.shape) != 4 or len(weight) != 4 or None in cost.shape:
            continue
        samples, *_, height, width = (size or 0 for size in cost.shape)
        if f"{'x'.join(map(str, weight))}@{height}x{width}" in chosen:
            channels, kernel = weight[0] * weight[1], weight[2]
            tiles = math.ceil(height / _TILE) * math.ceil(width / _TILE)
            spared = height * width * kernel**2 - tiles * (kernel + _TILE - 1) ** 2
            count -= 2 * samples * channels * max(0, spared)
    return count


def _weight_shape(node: ir.Node) -> tuple[Any, ...]:
    if node.op_type != "Conv" or node.inputs[1] is None or node.inputs[1].shape is None:
        return ()
    return tuple(node.inputs[1].shape)


def _inlined(data: bytes) -> ir.Model:
    """The graph with every region as the nodes of its function."""
    import onnx
    import onnx_ir as ir
    from onnx import inliner

    return ir.from_proto(inliner.inline_local_functions(onnx.load_from_string(data)))


def _median(rounds: Sequence[Any]) -> float:
    return float(np.median(np.concatenate(rounds))) / 1e3
