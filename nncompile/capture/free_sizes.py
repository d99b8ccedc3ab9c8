"""Which sizes of the free dimensions a traced graph is right for.

torch.export traces `forward` at one size. What it met on the way (a table of 512 positions, a sum with a
plane that was halved and doubled again, an `if` on a shape) it keeps as guards, for which ONNX has no place.
Here they become a row of sizes for each name, which the runtime holds every input against.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import Any

import torch
from torch.export.graph_signature import InputKind, TensorArgument
from torch.utils import _pytree as pytree

from nncompile.capture.errors import SizeWitness
from nncompile.capture.example import Example
from nncompile.capture.free_axes import FreeInput
from nncompile_runtime.errors import CaptureError
from nncompile_runtime.manifest import FreeSize

_REACH = 64  # sizes above the example's after which a row counts as without end
_LARGEST_STEP = 256
_FARTHEST = 2**20
_TRIES = 16  # of small sizes that eager refuses, before none below the example's is taken
_MOST_ELEMENTS = 2**21  # of all inputs that the module is tried on
_LONG_S = 0.2  # a call after which no larger one is tried

Sizes = Mapping[str, int]


def free_sizes(
    program: torch.export.ExportedProgram,
    example: Example,
    inputs: Sequence[FreeInput],
    module: torch.nn.Module,
    witness: SizeWitness,
) -> dict[str, FreeSize]:
    """A row of sizes for each name, within which they may be chosen freely of one another.

    Args:
        program: As torch.export made it.
        example: How the module is called.
        inputs: What is free.
        module: In evaluation mode; called to see which sizes it refuses that no guard speaks of.
        witness: Saw which line fixed a size.

    Raises:
        CaptureError: A size is fixed, tied to another, or the sizes are no row.
    """
    typical = {name: int(i.example.shape[axis]) for i in inputs for axis, name in i.axes.items()}
    if not typical:
        return {}
    guards = _Guards(program, example, inputs)
    _check_symbols(program, example, inputs, lambda number, axis: guards.line(witness, number, axis))
    found = {}
    for name, size in typical.items():

        def traced(n: int, name: str = name) -> bool:
            return guards.broken({**typical, name: n}) is None

        def answers(n: int, name: str = name) -> float | None:
            return _seconds(module, example, inputs, {**typical, name: n})

        least, step, most = _row(size, traced)
        found[name] = _where_eager_answers(FreeSize(least=least, step=step, most=most, typical=size), answers)
    _refuse_ties(found, guards)
    return found


def _check_symbols(
    program: torch.export.ExportedProgram,
    example: Example,
    inputs: Sequence[FreeInput],
    line: Callable[[int, int], str],
) -> None:
    """Each name must stand for a symbol of torch.export's that no other name stands for."""
    values = {node.name: node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder"}
    arguments = [s.arg for s in program.graph_signature.input_specs if s.kind is InputKind.USER_INPUT]
    traced = [values[arg.name] for arg in arguments if isinstance(arg, TensorArgument)]
    owners = {
        str(x.shape[0]): "the batch"
        for x, given in zip(traced, inputs, strict=True)
        if example.batch is not None and x.dim() and given.example.shape[0] == example.batch
    }
    for number, (x, given) in enumerate(zip(traced, inputs, strict=True)):
        for axis, name in given.axes.items():
            symbol, where = str(x.shape[axis]), f"axis {axis} of input {given.name!r}"
            if symbol.isdigit():
                raise CaptureError(
                    f"The network fixes {name!r} ({where}) at {symbol}{line(number, axis)}.",
                    remedy="Write that line for any size, or leave the axis out of dynamic_axes and pad.",
                )
            if not symbol.isidentifier():
                raise CaptureError(
                    f"{name!r} ({where}) follows from other sizes in this network ({symbol}).",
                    remedy="Leave that axis out of dynamic_axes.",
                )
            other = owners.setdefault(symbol, repr(name))
            if other != repr(name):
                raise CaptureError(
                    f"{name!r} ({where}) always equals {other} in this network.",
                    remedy="Leave it out of dynamic_axes." if other == "the batch" else "Give both one name.",
                )


class _Shape:
    """Stands for a tensor in a guard."""

    def __init__(self, sizes: Sequence[int]) -> None:
        self.sizes = list(sizes)

    def size(self) -> list[int]:
        return self.sizes


class _Guards:
    """What torch.export took for granted about the sizes of the inputs, as Python expressions."""

    def __init__(
        self, program: torch.export.ExportedProgram, example: Example, inputs: Sequence[FreeInput]
    ) -> None:
        texts = getattr(program, "_guards_code", None)
        if texts is None:
            raise CaptureError(
                f"torch {torch.__version__} does not tell which sizes a graph is right for.",
                remedy="Install torch 2.13 or later, or compile without dynamic_axes.",
            )
        self._codes = [(text, compile(text, "<guard>", "eval")) for text in texts]
        self._inputs = inputs
        self._shapes = [_Shape(i.example.shape) for i in inputs]
        shapes = iter(self._shapes)
        nested = pytree.tree_map_only(torch.Tensor, lambda _: next(shapes), example.arguments)
        self._names = {"L": nested, "math": math, "torch": torch}

    def broken(self, sizes: Sizes) -> str | None:
        """The first guard that does not hold for the named sizes, None where all do."""
        if min(sizes.values()) < 2:
            return "sizes 0 and 1, which torch.export takes for fixed"
        for shape, given in zip(self._shapes, self._inputs, strict=True):
            for axis, name in given.axes.items():
                shape.sizes[axis] = sizes[name]
        return next((text for text, code in self._codes if not eval(code, self._names)), None)  # noqa: S307

    def line(self, witness: SizeWitness, number: int, axis: int) -> str:
        """Where an axis of input `number` became a constant; empty where that was not seen."""
        for source, where in witness.fixed.items():
            tensor, _, place = source.removesuffix("]").rpartition(".size()[")
            if place == str(axis) and eval(tensor, self._names) is self._shapes[number]:  # noqa: S307
                return where
        return ""


def _row(typical: int, allowed: Callable[[int], bool]) -> tuple[int, int, int | None]:
    """The longest row of allowed sizes around the typical one: smallest, distance, largest."""
    best = (typical, 1, typical)
    for step in range(1, _LARGEST_STEP + 1):
        least = most = typical
        while least > step and allowed(least - step):
            least -= step
        while most < typical + _REACH * step and allowed(most + step):
            most += step
        if most == typical + _REACH * step:
            return least, step, _end(most, step, allowed)
        if (most - least) // step > (best[2] - best[0]) // best[1]:
            best = (least, step, most)
    return best


def _end(most: int, step: int, allowed: Callable[[int], bool]) -> int | None:
    """The last allowed size of a row that goes on beyond `most`; None where it does not end."""
    low = most
    while low < _FARTHEST:
        high = low + step * (low // step)
        if not allowed(high):
            return _last(low, high, step, allowed)
        low = high
    return None


def _last(low: int, high: int, step: int, allowed: Callable[[int], bool]) -> int:
    """The last allowed size from `low`, which is, to `high`, which is not."""
    while high - low > step:
        middle = low + (high - low) // step // 2 * step
        low, high = (middle, high) if allowed(middle) else (low, middle)
    return low


def _where_eager_answers(row: FreeSize, seconds: Callable[[int], float | None]) -> FreeSize:
    """The part of a row that the module itself takes: a table without a guard ends it, say.

    Larger sizes are tried, twice as large each time, until a call takes long.
    """
    least, step, most = row.least, row.step, row.most
    for _ in range(_TRIES):
        if least == row.typical or seconds(least) is not None:
            break
        least += step
    else:
        least = row.typical
    low = row.typical
    while True:
        high = low + step * max(1, low // step)
        if high > _FARTHEST or (most is not None and high > most):
            break
        took = seconds(high)
        if took is None:
            most = _last(low, high, step, lambda n: seconds(n) is not None)
            break
        if took > _LONG_S:
            break
        low = high
    return FreeSize(least=least, step=step, most=most, typical=row.typical)


def _seconds(
    module: torch.nn.Module, example: Example, inputs: Sequence[FreeInput], sizes: Sizes
) -> float | None:
    """How long eager takes for other sizes; None where it refuses them, infinity where they are too large."""
    resized = [_resized(given, sizes) for given in inputs]
    if sum(x.numel() for x in resized) > _MOST_ELEMENTS:
        return math.inf
    others = iter(resized)
    args, kwargs = pytree.tree_map_only(torch.Tensor, lambda _: next(others), (example.args, example.kwargs))
    started = time.perf_counter()
    try:
        with torch.no_grad():
            module(*args, **kwargs)
    except Exception:
        return None
    return time.perf_counter() - started


def _resized(given: FreeInput, sizes: Sizes) -> torch.Tensor:
    """The example with its entries repeated or cut along the free axes."""
    x = given.example
    for axis, name in given.axes.items():
        x = x.index_select(axis, torch.arange(sizes[name]) % x.shape[axis])
    return x


def _refuse_ties(found: Mapping[str, FreeSize], guards: _Guards) -> None:
    """Each name was looked at with the others at their typical sizes; here several move."""
    choices = [sorted({row.least, row.typical, row.typical + row.step} & _within(row)) for row in found.values()]
    for corner in product(*choices):
        sizes = dict(zip(found, corner, strict=True))
        broken = guards.broken(sizes)
        if broken:
            raise CaptureError(
                f"The sizes {', '.join(map(repr, found))} depend on one another: at {sizes} the captured graph "
                f"does not stand for the module ({broken}).",
                remedy="Leave one of them out of dynamic_axes, or give those that are always equal one name.",
            )


def _within(row: FreeSize) -> set[int]:
    return {n for n in (row.least, row.typical, row.typical + row.step) if n in row}
