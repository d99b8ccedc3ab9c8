"""Calls of several plain inputs, fed without the checks that one of the same shapes went through."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nncompile_runtime import device_arrays
from nncompile_runtime.manifest import Signature
from nncompile_runtime.structure import TensorLeaf

Shapes = tuple[tuple[int, ...], ...]
Fed = tuple[Shapes, dict[str, Any], device_arrays.Library | None]


class Several:
    """Two inputs or more, each a tensor of its own and in the order of the graph's."""

    def __init__(self, signature: Signature, device: str) -> None:
        """Prepare for a model on `device`; `of` says whether there is such a thing for the signature."""
        self._device = device
        self._names = [argument.name for argument in signature.arguments]
        self._positional = sum(not argument.keyword_only for argument in signature.arguments)
        self._ports = [(spec.name, spec.array_dtype) for spec in signature.inputs]

    @classmethod
    def of(cls, signature: Signature, device: str) -> Several | None:
        """For the signature, or None where an input is nested, a constant, or the only one."""
        leaves = [TensorLeaf(index=i) for i in range(len(signature.inputs))]
        plain = [argument.structure for argument in signature.arguments] == leaves
        return cls(signature, device) if plain and len(leaves) > 1 else None

    def fed(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Fed | None:
        """The shapes and the feed of a call, and whose its values are: None for numpy's.

        Returns:
            None for a call that needs a closer look: other names, another dtype, arrays of two libraries.
            Shapes are not checked.
        """
        if len(args) + len(kwargs) != len(self._names) or len(args) > self._positional:
            return None
        values = (*args, *map(kwargs.get, self._names[len(args) :])) if kwargs else args
        feed = {}
        if type(values[0]) is np.ndarray:
            for (name, dtype), x in zip(self._ports, values, strict=True):
                if type(x) is not np.ndarray or x.dtype != dtype:
                    return None
                feed[name] = x
            return tuple([x.shape for x in values]), feed, None
        taker = device_arrays.taker_of(values[0])
        if taker is None:
            return None
        for (name, dtype), x in zip(self._ports, values, strict=True):
            memory = taker.memory_of(x, dtype, self._device) if device_arrays.taker_of(x) is taker else None
            if memory is None:
                return None
            feed[name] = memory
        in_one_place = len({isinstance(memory, np.ndarray) for memory in feed.values()}) == 1
        return (tuple([tuple(x.shape) for x in values]), feed, taker) if in_one_place else None
