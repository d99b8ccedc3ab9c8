"""Where the time of a call goes: ONNX Runtime's own profile, node by node.

The nodes are those that ONNX Runtime executes, after its own fusions and changes of layout; a fused region is
one node. Their operations and bytes follow from the graph that it ran and the shapes that it met, the zeros
included with which it pads channels. Its clock counts whole microseconds and drops the rest, so that a node's
time is too small by half a microsecond on average; and recording costs time between the nodes.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from nncompile.bench.engines import Feed
from nncompile.bench.inputs import fixed_batch, make_feed
from nncompile.costs import GraphCost, NodeCost, graph_cost
from nncompile_runtime.container import ModelFile
from nncompile_runtime.manifest import Signature
from nncompile_runtime.plan import Plan
from nncompile_runtime.session import Session

_MOST_EVENTS = 20_000  # about a kilobyte each
_FEWEST_RUNS = 5
_SUFFIX = "_kernel_time"

Event = Mapping[str, Any]


@dataclass(frozen=True)
class NodeTime:
    """A node that was executed.

    Attributes:
        cost: Its name, operator, operations and bytes.
        microseconds: Of one run: the mean of the middle half of the runs.
    """

    cost: NodeCost
    microseconds: float


@dataclass(frozen=True)
class Profile:
    """The time of a call, node by node.

    Attributes:
        batch: Samples in the call.
        threads: Threads that computed.
        kernels: Whether native kernels ran, or why not.
        runs: Runs that were counted.
        microseconds: Of one run with recording on: the mean of the middle half of the runs.
        nodes: In the order of execution.
    """

    batch: int
    threads: int
    kernels: str
    runs: int
    microseconds: float
    nodes: tuple[NodeTime, ...]

    @property
    def between(self) -> float:
        """Microseconds of a run outside the nodes: ONNX Runtime's executor and the recording itself."""
        return max(0.0, self.microseconds - sum(node.microseconds for node in self.nodes))


def profile(
    model: ModelFile,
    plan: Plan,
    signature: Signature,
    batch: int,
    *,
    seconds: float = 1.0,
    warmup: float = 0.2,
) -> Profile:
    """Run a model on one input again and again, recorded.

    Args:
        model: The model.
        plan: How it runs.
        signature: How it is called.
        batch: Samples in the call, where the model's batch is free.
        seconds: Time of the runs that count; there are at least 5, and fewer where the record would grow
            beyond 20,000 entries.
        warmup: Seconds of runs before, which do not count.

    Raises:
        NncompileError: A free dimension other than the batch has no size.
        ModelLoadError: ONNX Runtime refuses the graph.
        InputError: It cannot run the input.
    """
    feed = make_feed(signature, batch)
    model = _named(model)
    most = max(_FEWEST_RUNS, _MOST_EVENTS // sum(model.facts.operators.values()))
    with tempfile.TemporaryDirectory(prefix="nncompile-profile-") as folder:
        session = Session(model, plan, trace=Path(folder))
        _repeat(session, feed, warmup, most)
        counted = _repeat(session, feed, seconds, most)
        events = json.loads(Path(session.native.end_profiling()).read_bytes())
        runs = list(_runs(events))[-counted:]
        executed = ir.from_proto(onnx.load(Path(folder) / "executed.onnx"))
    # ONNX Runtime writes no function of a node that a custom operator computes.
    executed.functions.update(ir.from_proto(onnx.load_from_string(model.data)).functions)
    _set_types(executed, runs[-1], feed)
    nodes = _node_times(runs, graph_cost(executed, batch, signature.batch))
    total = _middle_mean([run[-1]["dur"] for run in runs])
    return Profile(fixed_batch(signature) or batch, plan.threads, session.kernels.note, counted, total, nodes)


def _named(model: ModelFile) -> ModelFile:
    """The model with a name for every node: by it the record and the graph are matched."""
    proto = onnx.load_from_string(model.data)
    graphs = (proto.graph, *proto.functions)
    if all(node.name for graph in graphs for node in graph.node):
        return model
    for graph in graphs:
        for number, node in enumerate(graph.node):
            node.name = node.name or f"{node.op_type} {number}"
    return replace(model, data=proto.SerializeToString())


def _repeat(session: Session, feed: Feed, seconds: float, most: int) -> int:
    """Run for some time; how often."""
    end, count = time.perf_counter() + seconds, 0
    while count < _FEWEST_RUNS or (count < most and time.perf_counter() < end):
        session.run(feed)
        count += 1
    return count


def _runs(events: Sequence[Event]) -> Iterator[list[Event]]:
    """The events of each run, `model_run` last; what comes before the first run is left out."""
    run: list[Event] = []
    for event in sorted(events, key=lambda event: (event["ts"] + event["dur"], event["name"] == "model_run")):
        if event["cat"] == "Node" and event["name"].endswith(_SUFFIX):
            run.append(event)
        elif event["name"] == "model_run":
            yield [*run, event]
            run = []


def _node_times(runs: Sequence[Sequence[Event]], executed: GraphCost) -> tuple[NodeTime, ...]:
    times: dict[str, list[int]] = {cost.name: [] for cost in executed.nodes}
    for event in (event for run in runs for event in run[:-1]):
        name = _node_name(event)
        if name in times:  # otherwise a node of the body of an If or a Loop, whose time is that node's
            times[name].append(event["dur"])
    return tuple(
        NodeTime(cost, _middle_mean(times[cost.name])) for cost in executed.nodes if times[cost.name]
    )


def _set_types(model: ir.Model, run: Sequence[Event], feed: Feed) -> None:
    """Give every value the dtype and the shape that it had in a run."""
    for value in model.graph.inputs:
        value.shape = ir.Shape(feed[value.name or ""].shape)
    met = {_node_name(event): event["args"]["output_type_shape"] for event in run[:-1]}
    for node in model.graph:
        present = (value for value in node.outputs if value.name)
        for value, typed in zip(present, met.get(node.name or "", ()), strict=False):
            for dtype, shape in typed.items():
                if dtype.upper() in ir.DataType.__members__:
                    value.dtype = ir.DataType[dtype.upper()]
                value.shape = ir.Shape(shape)


def _node_name(event: Event) -> str:
    name: str = event["name"]
    return name.removesuffix(_SUFFIX)


def _middle_mean(values: Sequence[int]) -> float:
    """The mean of the middle half: finer than the clock's step, and deaf to interruptions."""
    ordered = np.sort(values)
    quarter = len(ordered) // 4
    return float(ordered[quarter : len(ordered) - quarter].mean())
