"""The dimensions that the user wants free besides dimension 0, by the graph's inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from nncompile.capture.example import Example
from nncompile_runtime.errors import CaptureError

BATCH = "batch"


@dataclass(frozen=True)
class FreeInput:
    """An input of the graph, and which of its dimensions are free.

    Attributes:
        name: Of the graph's input.
        example: The tensor that is given for it.
        axes: Axis -> name of the size.
        batch: Axes other than 0 that are the batch: 1 of a recurrent layer's state, say.
    """

    name: str
    example: torch.Tensor
    axes: Mapping[int, str]
    batch: frozenset[int]


def free_inputs(
    wanted: Mapping[str, Mapping[int, str]], names: Sequence[str], example: Example
) -> tuple[FreeInput, ...]:
    """All inputs in the graph's order, with what the user wants free in them.

    Args:
        wanted: What the user gave: input -> axis -> name of the size.
        names: Of the graph's inputs.
        example: How the module is called.

    Raises:
        CaptureError: There is no such input or axis, or the example has a size that cannot stand for others.
    """
    unknown = next((name for name in wanted if name not in names), None)
    if unknown is not None:
        raise CaptureError(
            f"dynamic_axes names {unknown!r}, which is no input.",
            remedy=f"The inputs are {', '.join(map(repr, names))}.",
        )
    pairs = zip(names, example.tensors, strict=True)
    inputs = tuple(_named(name, x, wanted.get(name, {}), example.batch) for name, x in pairs)
    owners: dict[str, tuple[int, str]] = {}
    for given in inputs:
        for axis, size in given.axes.items():
            number, where = int(given.example.shape[axis]), f"axis {axis} of input {given.name!r}"
            if number < 2:
                raise CaptureError(
                    f"The example has size {number} in {where}, which torch.export takes for fixed.",
                    remedy=f"Give an example whose {size} is typical, and 2 or more.",
                )
            known, owner = owners.setdefault(size, (number, where))
            if known != number:
                raise CaptureError(
                    f"{size!r} is {known} in {owner} and {number} in {where}.",
                    remedy="Give an example in which they are equal, or two names.",
                )
    return inputs


def _named(name: str, x: torch.Tensor, axes: Mapping[int, str], batch: int | None) -> FreeInput:
    rank = x.dim()
    wrong = next((axis for axis in axes if not -rank <= axis < rank), None)
    if wrong is not None:
        raise CaptureError(
            f"dynamic_axes names axis {wrong} of input {name!r}, which has {rank} axes in the example.",
            remedy=f"Give an axis from 0 to {rank - 1}." if rank else "Leave that input out.",
        )
    named = {axis % rank: size for axis, size in axes.items()}
    for axis, size in named.items():
        where, number = f"axis {axis} of input {name!r}", x.shape[axis]
        if batch is not None and axis == 0 and number == batch and size != BATCH:
            raise CaptureError(
                f"dynamic_axes calls {where} {size!r}, and it is the batch.",
                remedy="Leave it out, or compile with dynamic_batch=False.",
            )
        if size == BATCH and number != batch:
            raise CaptureError(
                f"dynamic_axes calls {where} the batch: it is {number} in the example, and the batch is "
                f"{'fixed' if batch is None else batch}.",
                remedy="Give another name." if batch is None else "Give an example of 2 or more rows.",
            )
    own = {axis: size for axis, size in named.items() if size != BATCH}
    return FreeInput(name, x, own, frozenset(named.keys() - own.keys() - {0}))


def batch_elsewhere(inputs: Sequence[FreeInput], example: Example) -> str:
    """A remedy for a batch that is fixed: what an axis that has its size, not the first one, may mean."""
    for given in inputs:
        first, *others = given.example.shape
        if example.batch not in others:
            continue
        axis = others.index(example.batch) + 1
        if first == example.batch:
            return (
                f"give an example of another number of rows, because axes 0 and {axis} of {given.name!r} "
                "both have this one"
            )
        if not given.batch:
            wanted = {given.name: {axis: BATCH}}
            return f"say where the batch is, if it is there, dynamic_axes={wanted}"
    return ""
