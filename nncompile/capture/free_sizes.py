"""Which sizes of the free dimensions a traced graph is right for: a row for each name."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count, product

import torch
from torch.export.graph_signature import InputKind, TensorArgument
from torch.utils import _pytree as pytree

from nncompile.capture.errors import SizeWitness, fixed_batch
from nncompile.capture.example import Example
from nncompile.capture.free_axes import BATCH, FreeInput, batch_elsewhere
from nncompile.capture.guards import Guards
from nncompile.capture.size_rows import longest_row, where_eager_answers
from nncompile.resizing import resized
from nncompile_runtime.errors import CaptureError
from nncompile_runtime.manifest import FreeSize

_MOST_ELEMENTS = 2**21  # of all inputs that the module is tried on

Axes = tuple[Mapping[int, str], ...]
"""For each input, axis -> name of the size."""


@dataclass(frozen=True)
class Free:
    """What is free in a traced graph besides the batch.

    Attributes:
        axes: For each input, axis -> name of the size, or the one size that it must have.
        sizes: Which sizes each name may stand for.
    """

    axes: tuple[Mapping[int, str | int], ...]
    sizes: Mapping[str, FreeSize]


def free_sizes(
    program: torch.export.ExportedProgram,
    example: Example,
    inputs: Sequence[FreeInput],
    module: torch.nn.Module,
    witness: SizeWitness,
) -> Free:
    """A row of sizes for each name, within which they may be chosen freely of one another.

    Besides what the user wants free, dimension 0 of an input that has another size than the batch is free
    where the network allows it, as `dim_1`, `dim_2` and so on.

    Args:
        program: What became the graph, after all that could still fix a size.
        example: How the module is called.
        inputs: What the user wants free.
        module: In evaluation mode; called to see which sizes it refuses that no guard speaks of.
        witness: Saw which line fixed a size.

    Raises:
        CaptureError: A size that is to be free, the batch included, is fixed or depends on another.
    """
    wanted = {name for given in inputs for name in given.axes.values()}
    symbols = _symbols(program)
    if any(symbols[i][0].isdigit() for i in example.batched):
        raise fixed_batch(witness, batch_elsewhere(inputs, example))
    axes = _with_first_dimensions(symbols, example, inputs)
    texts = getattr(program, "_guards_code", None)  # not public, and not in every torch
    if texts is None:
        if wanted:
            raise CaptureError(
                f"torch {torch.__version__} does not tell which sizes a graph is right for.",
                remedy="Install torch 2.13 or later, or compile without dynamic_axes.",
            )
        return Free(_or_numbers(axes, symbols, {}), {})
    guards = Guards(texts, example)
    _check(symbols, example, inputs, guards, witness)
    typical = {
        name: int(x.shape[axis])
        for x, free in zip(example.tensors, axes, strict=True)
        for axis, name in free.items()
    }
    rows = {name: _row(name, typical, axes, guards, module, example) for name in typical}
    fixed = {name: row.typical for name, row in rows.items() if row.least == row.most}
    for name in wanted & fixed.keys():
        raise CaptureError(
            f"The network takes {name!r} at {fixed[name]} only, the example's size.",
            remedy="Give an example of another size, or leave it out of dynamic_axes and pad.",
        )
    sizes = {name: row for name, row in rows.items() if name not in fixed}
    _refuse_ties(sizes, typical, axes, guards)
    return Free(_or_numbers(axes, symbols, fixed), sizes)


def _symbols(program: torch.export.ExportedProgram) -> list[list[str]]:
    """Torch's name or number for each size of each input."""
    values = {node.name: node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder"}
    arguments = [s.arg for s in program.graph_signature.input_specs if s.kind is InputKind.USER_INPUT]
    tensors = [values[arg.name] for arg in arguments if isinstance(arg, TensorArgument)]
    return [[str(size) for size in x.shape] for x in tensors]


def _check(
    symbols: Sequence[Sequence[str]],
    example: Example,
    inputs: Sequence[FreeInput],
    guards: Guards,
    witness: SizeWitness,
) -> None:
    """Each of the user's names must stand for a symbol that no other name stands for."""
    owners = {symbols[i][0]: "the batch" for i in example.batched}
    for number, (shape, given) in enumerate(zip(symbols, inputs, strict=True)):
        for axis, name in given.axes.items():
            symbol, what = shape[axis], f"{name!r} (axis {axis} of input {given.name!r})"
            if symbol.isdigit():
                raise CaptureError(
                    f"The network fixes {what} at {symbol}{guards.line(witness, number, axis)}.",
                    remedy="Write that line for any size, or leave the axis out of dynamic_axes and pad.",
                )
            if not symbol.isidentifier():
                raise CaptureError(
                    f"In this network {what} follows from other sizes: {symbol}.",
                    remedy="Leave that axis out of dynamic_axes.",
                )
            other = owners.setdefault(symbol, repr(name))
            if other != repr(name):
                raise CaptureError(
                    f"In this network {what} always equals {other}.",
                    remedy=f"Call it {BATCH!r}." if other == "the batch" else "Give both one name.",
                )


def _with_first_dimensions(
    symbols: Sequence[Sequence[str]], example: Example, inputs: Sequence[FreeInput]
) -> Axes:
    """What the user named, and dimension 0 of other inputs where torch.export left it free."""
    names = {
        shape[axis]: name
        for shape, given in zip(symbols, inputs, strict=True)
        for axis, name in given.axes.items()
    }
    found = []
    for shape, x, given in zip(symbols, example.tensors, inputs, strict=True):
        free = dict(given.axes)
        if shape and shape[0].isidentifier() and x.shape[0] != example.batch and 0 not in free:
            unlike = (name for number in count(1) if (name := f"dim_{number}") not in names.values())
            free[0] = names.get(shape[0]) or names.setdefault(shape[0], next(unlike))
        found.append(free)
    return tuple(found)


def _or_numbers(
    axes: Axes, symbols: Sequence[Sequence[str]], fixed: Mapping[str, int]
) -> tuple[Mapping[int, str | int], ...]:
    """The axes with a number for each size that torch.export or the guards fixed."""
    found = []
    for shape, free in zip(symbols, axes, strict=True):
        sizes: dict[int, str | int] = {i: int(size) for i, size in enumerate(shape) if size.isdigit()}
        sizes |= {axis: fixed.get(name, name) for axis, name in free.items()}
        found.append(sizes)
    return tuple(found)


def _row(
    name: str,
    typical: Mapping[str, int],
    axes: Axes,
    guards: Guards,
    module: torch.nn.Module,
    example: Example,
) -> FreeSize:
    """The sizes of one name, with the others at their typical ones."""
    row = longest_row(typical[name], lambda n: guards.broken(axes, {**typical, name: n}) is None)
    return where_eager_answers(row, lambda n: _seconds(module, example, axes, {**typical, name: n}))


def _seconds(module: torch.nn.Module, example: Example, axes: Axes, sizes: Mapping[str, int]) -> float | None:
    """How long eager takes; None where it refuses, infinity for more than it is to be asked for."""
    pairs = list(zip(example.tensors, axes, strict=True))
    shapes = [[sizes[free[i]] if i in free else n for i, n in enumerate(x.shape)] for x, free in pairs]
    if sum(map(math.prod, shapes)) > _MOST_ELEMENTS:
        return math.inf
    tensors = iter([resized(x, {axis: sizes[name] for axis, name in free.items()}) for x, free in pairs])
    args, kwargs = pytree.tree_map_only(torch.Tensor, lambda _: next(tensors), (example.args, example.kwargs))
    started = time.perf_counter()
    try:
        with torch.no_grad():
            module(*args, **kwargs)
    except Exception:
        return None
    return time.perf_counter() - started


def _refuse_ties(
    rows: Mapping[str, FreeSize], typical: Mapping[str, int], axes: Axes, guards: Guards
) -> None:
    """Each name was looked at with the others at their typical sizes; here several move."""
    choices = [
        [n for n in (row.least, row.typical, row.typical + row.step) if n in row] for row in rows.values()
    ]
    for corner in product(*choices):
        sizes = dict(zip(rows, corner, strict=True))
        broken = guards.broken(axes, {**typical, **sizes})
        if broken:
            raise CaptureError(
                f"The sizes {', '.join(map(repr, rows))} depend on one another: at {sizes} the captured "
                f"graph does not stand for the module ({broken}).",
                remedy="Leave one of them out of dynamic_axes, or give those that are always equal one name.",
            )
