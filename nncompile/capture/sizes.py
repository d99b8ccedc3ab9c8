"""Free dimensions besides the batch: what the user names, and which sizes the graph is then right for.

torch.export traces `forward` at one size. What it met on the way (a table of 512 positions, a sum of two
planes of which one was halved and doubled, an `if` on a shape) it keeps as guards, which ONNX has no place
for. Here they become a row of sizes, which the runtime holds every input against.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import Any

import torch
from torch.export.graph_signature import InputKind, TensorArgument
from torch.utils import _pytree as pytree

from nncompile.capture.example import Example
from nncompile_runtime.errors import CaptureError
from nncompile_runtime.manifest import FreeSize

Axes = Mapping[int, str]
"""The names of a tensor's free dimensions, by axis."""

_REACH = 64  # sizes in a row that are asked for before the row counts as without end
_STEPS = 256  # largest distance of two sizes that is looked for
_FARTHEST = 2**20
_TRIES = 32  # sizes from the smallest on that eager may refuse
_MOST_ELEMENTS = 2**21  # of an input that eager is tried on
_LONG_S = 0.3  # a call of eager after which no larger one is tried


def axes_of_inputs(
    wanted: Mapping[str, Axes], names: Sequence[str], example: Example, reserved: str
) -> tuple[Axes, ...]:
    """The free axes of each input, in the graph's order, checked against the example.

    Args:
        wanted: What the user gave: input -> axis -> name of the size.
        names: Of the graph's inputs.
        example: How the module is called.
        reserved: The name of the batch.

    Raises:
        CaptureError: There is no such input or axis, or the example has a size that cannot stand for others.
    """
    tensors = [x for x in pytree.tree_leaves(example.arguments) if isinstance(x, torch.Tensor)]
    unknown = next((name for name in wanted if name not in names), None)
    if unknown is not None:
        raise CaptureError(
            f"dynamic_axes names {unknown!r}, which is no input.",
            remedy=f"The inputs are {', '.join(map(repr, names))}.",
        )
    sizes: dict[str, tuple[int, str]] = {}
    found: list[Axes] = []
    for name, x in zip(names, tensors, strict=True):
        axes = {axis + x.dim() if axis < 0 else axis: symbol for axis, symbol in wanted.get(name, {}).items()}
        for axis, symbol in axes.items():
            where = f"axis {axis} of input {name!r}"
            if not 0 <= axis < x.dim():
                raise CaptureError(
                    f"dynamic_axes names {where}, which has {x.dim()} in the example.",
                    remedy=f"Give an axis from 0 to {x.dim() - 1}." if x.dim() else "Leave that input out.",
                )
            if symbol == reserved or (axis == 0 and x.shape[0] == example.batch):
                raise CaptureError(
                    f"dynamic_axes names {where} {symbol!r}, and the batch is free without it.",
                    remedy="Name the other free axes only; dynamic_batch=False keeps the batch fixed.",
                )
            if x.shape[axis] < 2:
                raise CaptureError(
                    f"The example has size {x.shape[axis]} in {where}, which torch.export takes for fixed.",
                    remedy=f"Give an example whose {symbol} is 2 or more, and typical.",
                )
            size, owner = sizes.setdefault(symbol, (int(x.shape[axis]), where))
            if size != x.shape[axis]:
                raise CaptureError(
                    f"{symbol!r} is {size} in {owner} and {x.shape[axis]} in {where}.",
                    remedy="Give an example in which they are equal, or two names.",
                )
        found.append(axes)
    return tuple(found)


class Domain:
    """The sizes for which the traced graph stands for the module."""

    def __init__(
        self, program: torch.export.ExportedProgram, example: Example, names: Sequence[str], axes: Sequence[Axes]
    ) -> None:
        """Read what torch.export found.

        Raises:
            CaptureError: A dimension that is to be free is fixed in the traced graph, or tied to another.
        """
        self._example, self._axes = example, axes
        tensors = [x for x in pytree.tree_leaves(example.arguments) if isinstance(x, torch.Tensor)]
        pairs = list(zip(tensors, axes, strict=True))
        self._typical = {name: int(x.shape[axis]) for x, free in pairs for axis, name in free.items()}
        self._bounds = self._check(program, names)
        code = getattr(program, "_guards_code", None)
        if code is None:
            raise CaptureError(
                f"torch {torch.__version__} does not tell which sizes a graph is right for.",
                remedy="Install torch 2.13 or later, or compile without dynamic_axes.",
            )
        self._guards = [(text, compile(text, "<guard>", "eval")) for text in code]
        self._sized = [_Sized(list(x.shape)) for x in tensors]
        marks = iter(self._sized)
        self._inputs = pytree.tree_map(
            lambda x: next(marks) if isinstance(x, torch.Tensor) else x, example.arguments
        )

    def sizes(self, module: torch.nn.Module) -> dict[str, FreeSize]:
        """A row of sizes for each name, in which all may be chosen freely of one another.

        Args:
            module: In evaluation mode; called to see where it refuses sizes that no guard speaks of.

        Raises:
            CaptureError: There is no such row, or the sizes depend on one another.
        """
        found = {name: self._row(name) for name in self._typical}
        self._refuse_ties(found)
        for name, row in found.items():
            found[name] = self._where_eager_answers(module, name, row)
        return found

    def _check(self, program: torch.export.ExportedProgram, names: Sequence[str]) -> dict[str, tuple[int, int]]:
        """Every free dimension must be a symbol of its own; the bounds of each name."""
        values = {node.name: node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder"}
        specs = [s.arg for s in program.graph_signature.input_specs if s.kind is InputKind.USER_INPUT]
        traced = [values[spec.name] for spec in specs if isinstance(spec, TensorArgument)]
        owners: dict[str, str] = {}
        bounds: dict[str, tuple[int, int]] = {}
        for x, name, free in zip(traced, names, self._axes, strict=True):
            if self._example.batch is not None and x.dim() and isinstance(x.shape[0], torch.SymInt) and not (
                0 in free
            ):
                owners.setdefault(str(x.shape[0].node.expr), "the batch")
        for x, name, free in zip(traced, names, self._axes, strict=True):
            for axis, symbol in free.items():
                size = x.shape[axis]
                if not isinstance(size, torch.SymInt):
                    raise FixedSizeError(symbol, axis, name, int(size))
                expression = str(size.node.expr)
                other = owners.setdefault(expression, repr(symbol))
                if not expression.isidentifier() or other != repr(symbol):
                    raise CaptureError(
                        f"{symbol!r} (axis {axis} of input {name!r}) always is "
                        f"{other if expression.isidentifier() else 'a function of another size'} in this network.",
                        remedy="Give both axes one name."
                        if expression.isidentifier() and other != "the batch"
                        else "Leave that axis out of dynamic_axes.",
                    )
                low, high = _bounds(program, size)
                known = bounds.get(symbol, (low, high))
                bounds[symbol] = max(low, known[0]), min(high, known[1])
        return bounds

    def _allowed(self, sizes: Mapping[str, int]) -> str | None:
        """The first guard that does not hold; None where all do."""
        for name, size in sizes.items():
            low, high = self._bounds[name]
            if not low <= size <= high:
                return f"{low} <= {name} <= {high}"
        for sized, axes in zip(self._sized, self._axes, strict=True):
            for axis, name in axes.items():
                sized.shape[axis] = sizes[name]
        for text, code in self._guards:
            if not eval(code, {"L": self._inputs, "torch": torch, "math": __import__("math")}):  # noqa: S307
                return text
        return None
