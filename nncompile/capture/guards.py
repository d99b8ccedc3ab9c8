"""What torch.export took for granted about the sizes of a program's inputs.

It traces `forward` at one size. What it met on the way (a table of 512 positions, a sum with a plane that was
halved and doubled again, an `if` on a shape) it keeps as guards: Python expressions such as
`L['x'].size()[1] <= 512`, for which ONNX has no place.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.utils import _pytree as pytree

from nncompile.capture.errors import SizeWitness
from nncompile.capture.example import Example


class _Shape:
    """Stands for a tensor in a guard."""

    def __init__(self, sizes: Sequence[int]) -> None:
        self.sizes = list(sizes)

    def size(self) -> list[int]:
        return self.sizes


class _Parts:
    """Stands for an object of a class that torch takes apart; its parts are found as items or attributes."""

    def __init__(self, parts: Mapping[Any, Any]) -> None:
        self.parts = parts

    def __getitem__(self, key: Any) -> Any:
        return self.parts[key]

    def __getattr__(self, name: str) -> Any:
        return self.parts[name]


def _place(key: Any) -> Any:
    if isinstance(key, pytree.GetAttrKey):
        return key.name
    return key.key if isinstance(key, pytree.MappingKey) else key.idx


def _nested(value: Any, shapes: Iterator[_Shape]) -> Any:
    """A nest of inputs with shapes in place of tensors."""

    def is_other(part: Any) -> bool:
        return pytree._get_node_type(part) not in pytree.BUILTIN_TYPES

    def stand_in(part: Any) -> Any:
        if isinstance(part, torch.Tensor):
            return next(shapes)
        kind = pytree.SUPPORTED_NODES.get(type(part))
        if kind is None or kind.flatten_with_keys_fn is None or not is_other(part):
            return part
        keyed, _ = kind.flatten_with_keys_fn(part)
        return _Parts({_place(key): _nested(inner, shapes) for key, inner in keyed})

    return pytree.tree_map(stand_in, value, is_leaf=is_other)


class Guards:
    """The guards of a program, as a question about sizes."""

    def __init__(self, texts: Sequence[str], example: Example) -> None:
        """Prepare to ask.

        Args:
            texts: The expressions.
            example: How the module was called; its nesting is that of the names in the expressions.
        """
        self._codes = [(text, compile(text, "<guard>", "eval")) for text in texts]
        self._shapes = [_Shape(x.shape) for x in example.tensors]
        nested = _nested(example.arguments, iter(self._shapes))
        self._names: dict[str, Any] = {"L": nested, "math": math, "torch": torch}

    def broken(self, axes: Sequence[Mapping[int, str]], sizes: Mapping[str, int]) -> str | None:
        """The first guard that does not hold; None where all do.

        Args:
            axes: For each input, axis -> name of the size. All others keep the example's.
            sizes: By name.
        """
        if min(sizes.values(), default=2) < 2:
            return "sizes 0 and 1 are constants to torch.export"
        for shape, free in zip(self._shapes, axes, strict=True):
            for axis, name in free.items():
                shape.sizes[axis] = sizes[name]
        return next((text for text, code in self._codes if not self._value(code)), None)

    def line(self, witness: SizeWitness, number: int, axis: int) -> str:
        """Where an axis of input `number` became a constant; empty where that was not seen."""
        for source, where in witness.fixed.items():
            tensor, _, place = source.removesuffix("]").rpartition(".size()[")
            if place == str(axis) and self._value(tensor) is self._shapes[number]:
                return where
        return ""

    def _value(self, expression: Any) -> Any:
        return eval(expression, self._names)  # noqa: S307 - torch wrote it
