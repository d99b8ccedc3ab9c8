"""A graph of dynamo's, compiled when it is called, and anew where what became constant is not the same."""

from __future__ import annotations

import dataclasses
import logging
import threading
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any

import torch
from torch.fx import GraphModule

from nncompile.compiler import compile as compile_module
from nncompile.dynamo.computing import computing
from nncompile.dynamo.cut import Cut, cut, without_computing
from nncompile.dynamo.inputs import inputs_of
from nncompile.dynamo.observed import Observed
from nncompile.dynamo.options import PieceOptions
from nncompile.dynamo.weights import Frozen
from nncompile_runtime import container
from nncompile_runtime.errors import CaptureError, DeviceError, VerificationError
from nncompile_runtime.predictor import Predictor

_log = logging.getLogger("nncompile")
_MOST = 64  # variants that are kept of one graph: by module of a class, by size, by number

_Call = Callable[..., Any]


@dataclasses.dataclass(frozen=True)
class _Variant:
    run: _Call
    frozen: Frozen | None  # None where weights are read at each call


class Piece:
    """A graph between two graph breaks, called as dynamo calls it."""

    def __init__(self, graph: GraphModule, options: PieceOptions) -> None:
        """Prepare for `graph`; nothing is compiled yet."""
        self._graph = graph
        self._options = options
        self._inputs = inputs_of(graph)
        fetches = [attrgetter(node.target)(graph) for node in graph.graph.find_nodes(op="get_attr")]
        self._own = [value for value in fetches if isinstance(value, torch.Tensor)]
        self._variants: dict[tuple[Any, ...], _Variant] = {}
        self._lock = threading.Lock()

    def __call__(self, *args: Any) -> Any:
        """The outputs of the graph.

        Raises:
            CaptureError: The graph cannot be compiled as it is called.
            VerificationError: Compiled, it does not answer as eager PyTorch does.
        """
        return (self._found(args) or self._made(args)).run(*args)

    def compile(self, args: Sequence[Any]) -> None:
        """Compile for such arguments as these, where that has not been done.

        Raises:
            CaptureError: As in a call.
            VerificationError: As in a call.
        """
        if self._found(args) is None:
            self._made(args)

    def _made(self, args: Sequence[Any]) -> _Variant:
        with self._lock:
            return self._found(args) or self._added(args)

    def _found(self, args: Sequence[Any]) -> _Variant | None:
        weights = self._weights(args)
        variant = self._variants.get(self._key(weights, args))
        same = variant is None or variant.frozen is None or variant.frozen.still(weights)
        return variant if same else None

    def _weights(self, args: Sequence[Any]) -> list[torch.Tensor]:
        return [args[place] for place in self._inputs.weights] + self._own

    def _key(self, weights: Sequence[torch.Tensor], args: Sequence[Any]) -> tuple[Any, ...]:
        """Which weights, and what else a graph is compiled for."""
        numbers = [args[place] for place in self._inputs.numbers if place not in self._inputs.batches]
        # repr tells -0.0 from 0.0
        return (*map(id, weights), *(repr(x.item() if isinstance(x, torch.Tensor) else x) for x in numbers))

    def _added(self, args: Sequence[Any]) -> _Variant:
        weights = self._weights(args)
        key = self._key(weights, args)
        if key in self._variants:
            _log.warning("Weights of a model under torch.compile have changed: a graph is compiled anew.")
        frozen: Frozen | None = Frozen(weights, self._forget, trusting=self._options.frozen)
        try:
            run = self._compiled(args)
        except (CaptureError, VerificationError) as error:
            if not self._options.fallback:
                raise
            _log.warning("A graph of torch.compile runs in eager PyTorch. %s", error)
            run, frozen = self._graph, None
        key = self._key(weights, args)  # compiled for any batch or not, which is known now
        self._variants[key] = variant = _Variant(run, frozen)
        for oldest in [*self._variants][:-_MOST]:
            del self._variants[oldest]
        return variant

    def _forget(self, _weight: object) -> None:
        """Drop the variants of a module that is no more, with their sessions."""
        for key, variant in list(self._variants.items()):
            if variant.frozen is not None and variant.frozen.gone:
                self._variants.pop(key, None)

    def _compiled(self, args: Sequence[Any]) -> _Call:
        """The outputs of the graph from its arguments."""
        grad = torch.is_grad_enabled()
        with torch.inference_mode(False):  # copies of inference tensors made here are plain tensors
            with torch.set_grad_enabled(grad):
                observed = Observed(self._graph, args)
            found = cut(self._graph, observed)
            rest = without_computing(self._graph, found)
            with torch.no_grad():
                compute = self._computed(args, observed, found)
        if rest is None:
            return compute
        return lambda *args: rest(*args, *compute(*args))

    def _computed(self, args: Sequence[Any], observed: Observed, found: Cut) -> _Call:
        """What the outputs of the graph are made of, from its arguments."""
        inputs = self._inputs
        tensors = [place for place in inputs.tensors if inputs.nodes[place] in found.needed]
        batched = [place for place in tensors if place in inputs.batched]
        refusal = None
        if batched:
            try:
                return self._predicting(args, found, batched, [x for x in tensors if x not in batched])
            except (CaptureError, VerificationError) as error:
                refusal = error
        self._inputs = dataclasses.replace(inputs, batched=(), batches=())  # from now on for this batch alone
        if not tensors:
            constants = [observed.values[node].detach() for node in found.computed]
            return lambda *_: [x.clone() for x in constants]
        call = self._predicting(args, found, [], tensors)
        if refusal is not None:
            _log.warning("A graph of torch.compile is compiled for each batch size apart. %s", refusal)
        return call

    def _predicting(self, args: Sequence[Any], found: Cut, batched: list[int], others: list[int]) -> _Call:
        inputs, places = self._inputs, [*batched, *others]
        constants = {
            inputs.nodes[p]: args[p] for p in (*inputs.weights, *inputs.numbers) if p not in inputs.batches
        }
        part = computing(
            self._graph,
            found,
            [inputs.nodes[p] for p in places],
            constants,
            [inputs.nodes[p] for p in inputs.batches],
        )
        example = _example([args[p] for p in batched], [args[p] for p in others])
        asked = dict(self._options.compiling)
        tune = asked.pop("tune", False)
        compiled = compile_module(part, example, dynamic_batch=bool(batched), **asked)
        model = _placed(compiled, {str(args[place].device) for place in places})
        if tune:
            model.tune()
        predict = model.predict
        return lambda *args: predict(*[args[place] for place in places])


def _example(batched: list[torch.Tensor], others: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """Copies of tensors; rows repeated, so that no tensor without a batch looks as if it had one."""
    times = 1
    while batched and any(x.dim() and len(x) == times * len(batched[0]) for x in others):
        times += 1
    return (*(torch.cat([x.detach()] * times) for x in batched), *(x.detach().clone() for x in others))


def _placed(model: Predictor, devices: set[str]) -> Predictor:
    """The model on the device of its inputs."""
    if len(devices) > 1:
        raise DeviceError(
            f"The inputs of a graph are on {' and '.join(sorted(devices))}.",
            remedy="Move them to one device.",
        )
    (device,) = devices
    if model.device == device:
        return model
    return Predictor(container.parse(model.artifact, "the compiled graph", made_here=True), device=device)
