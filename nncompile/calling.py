"""Calling a module as its graph is called: flat inputs and outputs, evaluation mode. Needs no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from nncompile_runtime.manifest import Signature
from nncompile_runtime.nesting import Nesting
from nncompile_runtime.structure import TensorLeaf, flatten, flattener


class Calling:
    """Between the flat inputs and outputs of a graph and the arguments and result of `forward`.

    Attributes:
        names: Of the graph's inputs, in order.
        arguments: Positional and keyword arguments from one value for each graph input.
    """

    def __init__(self, signature: Signature) -> None:
        """Prepare for `signature`."""
        self.names = tuple(spec.name for spec in signature.inputs)
        self.arguments = Nesting(signature.arguments)
        self._result = signature.result
        self._outputs = len(signature.outputs)
        structures = [a.structure for a in signature.arguments]
        in_order = [TensorLeaf(index=i) for i in range(len(structures))]
        self._plain = structures == in_order and not any(a.keyword_only for a in signature.arguments)

    def adapt(
        self, call: Callable[..., Any], *, checked: bool = True
    ) -> Callable[[Sequence[Any]], list[Any]]:
        """A function from one value for each graph input to one for each output, by way of `call`.

        Args:
            call: Takes and returns what `forward` does.
            checked: Whether results are held against the signature's nesting; a predictor's fit.
        """
        if self._plain and isinstance(self._result, TensorLeaf):
            return lambda flat: [call(*flat)]
        take = self._flattened if checked else flattener(self._result)
        if self._plain:
            return lambda flat: take(call(*flat))

        def nested(flat: Sequence[Any]) -> list[Any]:
            args, kwargs = self.arguments(flat)
            return take(call(*args, **kwargs))

        return nested

    def _flattened(self, result: Any) -> list[Any]:
        returned: list[Any] = [None] * self._outputs
        flatten(self._result, result, returned, "output")
        return returned


@contextmanager
def evaluation_mode(module: Any) -> Iterator[None]:
    """Evaluation mode; every submodule's own mode comes back at the end. What is no module is left alone."""
    is_module = hasattr(module, "modules") and not isinstance(module, type)
    modes = [(part, part.training) for part in module.modules()] if is_module else []
    if modes:
        with suppress(NotImplementedError):  # a module from torch.export has one mode, that of its export
            module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training
