"""What torch.export took for granted about the sizes of a program's inputs.

It traces `forward` at one size. What it met on the way (a table of 512 positions, a sum with a plane that was
halved and doubled again, an `if` on a shape) it keeps as guards: Python expressions such as
`L['x'].size()[1] <= 512`, for which ONNX has no place.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
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
        shapes = iter(self._shapes)
        nested = pytree.tree_map_only(torch.Tensor, lambda _: next(shapes), example.arguments)
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
