"""The dimensions besides the batch that the user wants free, by the graph's inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from nncompile.capture.example import Example
from nncompile_runtime.errors import CaptureError


@dataclass(frozen=True)
class FreeInput:
    """An input of the graph, and which of its dimensions are free besides the batch.

    Attributes:
        name: Of the graph's input.
        example: The tensor that is given for it.
        axes: Axis -> name of the size.
    """

    name: str
    example: torch.Tensor
    axes: Mapping[int, str]


def free_inputs(
    wanted: Mapping[str, Mapping[int, str]], names: Sequence[str], example: Example, batch: str
) -> tuple[FreeInput, ...]:
    """All inputs in the graph's order, with what the user wants free in them.

    Args:
        wanted: What the user gave: input -> axis -> name of the size.
        names: Of the graph's inputs.
        example: How the module is called.
        batch: The name of the batch.

    Raises:
        CaptureError: There is no such input or axis, or the example has a size that cannot stand for others.
    """
    unknown = next((name for name in wanted if name not in names), None)
    if unknown is not None:
        raise CaptureError(
            f"dynamic_axes names {unknown!r}, which is no input.",
            remedy=f"The inputs are {', '.join(map(repr, names))}.",
        )
    inputs = tuple(_named(name, x, wanted.get(name, {})) for name, x in zip(names, example.tensors, strict=True))
    owners: dict[str, tuple[int, str]] = {}
    for given in inputs:
        for axis, size in given.axes.items():
            where = f"axis {axis} of input {given.name!r}"
            if size == batch or (axis == 0 and given.example.shape[0] == example.batch):
                raise CaptureError(
                    f"dynamic_axes names {where} {size!r}, and the batch is free without it.",
                    remedy="Name the other free axes only; dynamic_batch=False keeps the batch fixed.",
                )
            number = int(given.example.shape[axis])
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


def _named(name: str, x: torch.Tensor, axes: Mapping[int, str]) -> FreeInput:
    rank = x.dim()
    wrong = next((axis for axis in axes if not -rank <= axis < rank), None)
    if wrong is not None:
        raise CaptureError(
            f"dynamic_axes names axis {wrong} of input {name!r}, which has {rank} axes in the example.",
            remedy=f"Give an axis from 0 to {rank - 1}." if rank else "Leave that input out.",
        )
    return FreeInput(name, x, {axis % rank: size for axis, size in axes.items()})
