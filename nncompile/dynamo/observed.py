"""A graph of dynamo's run once in eager PyTorch, on copies: what a compiled graph could not do as it does."""

from __future__ import annotations

import re
from collections.abc import Sequence
from operator import attrgetter
from typing import Any

import torch
from torch.utils import _pytree as pytree

from nncompile.dynamo.weights import same_bits
from nncompile_runtime.errors import CaptureError

_AUTOCAST = {"_enter_autocast", "_exit_autocast"}


class Observed(torch.fx.Interpreter):
    """One run of a graph.

    Attributes:
        values: What each node computed.
        writing: The nodes that wrote into a tensor they were given.
        written: Inputs and weights that the graph writes into, by name.
        drawn: Whether it drew random numbers.
    """

    def __init__(self, graph: torch.fx.GraphModule, args: Sequence[Any]) -> None:
        """Run the graph on copies of `args`, in the caller's gradient mode; the random state stays.

        Raises:
            CaptureError: An input is no plain dense tensor, or the graph holds autocast or torch.func.
        """
        super().__init__(graph, garbage_collect_values=False)
        self.writing: set[torch.fx.Node] = set()
        places = graph.graph.find_nodes(op="placeholder")
        for node, value in zip(places, args, strict=True):
            _refuse_unusual(node.name, value)
        _refuse_autocast(graph, args)
        _refuse_transforms(graph)
        given = dict(zip(places, args, strict=True))
        given |= {node: attrgetter(node.target)(graph) for node in graph.graph.find_nodes(op="get_attr")}
        tensors = {node: value for node, value in given.items() if isinstance(value, torch.Tensor)}
        copies = {node: x.detach().clone().requires_grad_(x.requires_grad) for node, x in tensors.items()}
        versions = {node: copy._version for node, copy in copies.items()}
        devices = sorted({x.device.index for x in tensors.values() if x.is_cuda})
        self._given = given | copies
        with torch.random.fork_rng(devices):
            before = _random_states(devices)
            self.run(*args)
            self.drawn = not all(map(torch.equal, before, _random_states(devices)))
        self.values = self.env
        self.written = [
            _readable(node.name)
            for node, copy in copies.items()
            if copy._version != versions[node] or not same_bits(copy, tensors[node])
        ]

    def run_node(self, n: torch.fx.Node) -> Any:
        """Run a node, noting whether it wrote into what it was given."""
        if n in self._given:
            return self._given[n]
        given = [x for source in n.all_input_nodes for x in tensors_in(self.env[source])]
        versions = [x._version for x in given]
        value = super().run_node(n)
        if versions != [x._version for x in given]:
            self.writing.add(n)
        return value

    def check(self, computed: Sequence[torch.fx.Node]) -> None:
        """Refuse what a compiled graph that computes these nodes could not do.

        Raises:
            CaptureError: Gradients, random numbers, or writing into what was given.
        """
        if any(self.values[node].requires_grad for node in computed):
            raise CaptureError(
                "The outputs need gradients, which a compiled graph does not give.",
                remedy="Call the model under torch.inference_mode() or torch.no_grad(), or after "
                "model.requires_grad_(False); train the model that is not compiled.",
            )
        if self.drawn:
            raise CaptureError(
                "The graph draws random numbers, so its answers cannot be compared with eager PyTorch's.",
                remedy="Call model.eval() if that is dropout; else draw them outside of what is compiled.",
            )
        if self.written:
            raise CaptureError(
                f"The graph writes into {', '.join(self.written)}, and a compiled graph keeps no state.",
                remedy="Call model.eval() if that is a batch norm's statistics; else write into a copy, "
                "x = x.clone().",
            )


def tensors_in(value: Any) -> list[torch.Tensor]:
    """The tensors in a nest of values."""
    return [x for x in pytree.tree_leaves(value) if isinstance(x, torch.Tensor)]


def _random_states(devices: Sequence[int]) -> list[torch.Tensor]:
    return [torch.get_rng_state(), *map(torch.cuda.get_rng_state, devices)]


def _refuse_unusual(name: str, value: Any) -> None:
    plain = not isinstance(value, torch.Tensor) or (
        type(value) in (torch.Tensor, torch.nn.Parameter)
        and value.layout is torch.strided
        and not value.is_quantized
    )
    if not plain:
        raise CaptureError(
            f"The input {_readable(name)} is a {type(value).__name__} of {value.layout} and {value.dtype}.",
            remedy="Give plain tensors: x.as_subclass(torch.Tensor), x.to_dense() or x.dequantize().",
        )


def _refuse_autocast(graph: torch.fx.GraphModule, args: Sequence[Any]) -> None:
    kinds = {x.device.type for x in args if isinstance(x, torch.Tensor)} | {"cpu"}
    inside = any(getattr(node.target, "__name__", "") in _AUTOCAST for node in graph.graph.nodes)
    if inside or any(map(torch.is_autocast_enabled, kinds)):
        raise CaptureError(
            "The model runs under torch.autocast, which casts anew at each call; a compiled graph does not.",
            remedy="Leave autocast out, and give options={'precision': 'bfloat16'} or 'float16' to "
            "torch.compile.",
        )


def _refuse_transforms(graph: torch.fx.GraphModule) -> None:
    if any("_functorch" in (getattr(node.target, "__module__", "") or "") for node in graph.graph.nodes):
        raise CaptureError(
            "The graph holds a transformation of torch.func: vmap, grad, jvp or the like.",
            remedy="Write it out for a batch, or keep it out of what is compiled: torch.compiler.disable.",
        )


def _readable(name: str) -> str:
    """`l_self_modules_bn_buffers_running_mean_` as `self.bn.running_mean`."""
    return re.sub(r"_(modules|parameters|buffers)_", ".", name.removeprefix("l_").removesuffix("_"))
