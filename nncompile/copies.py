"""Copies of a module whose hooks belong to the copy.

`copy.deepcopy` leaves functions as they are, with what they hold on to. A hook that keeps features in the
module's own dictionary, `layer.register_forward_hook(lambda m, i, o: net.features.update(x=o))`, would go on
filling the dictionary of the original, and the copy return for ever what its own held when it was copied.
"""

from __future__ import annotations

import copy
import types
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_ATOMS = (bool, int, float, str, type(None))  # one object may be anybody's


def copied(module: torch.nn.Module, memo: Mapping[int, Any] | None = None) -> torch.nn.Module:
    """A deep copy of a module, in which functions hold on to parts of the copy instead of the original's.

    Args:
        module: What to copy; it stays as it is.
        memo: What stands for objects of the module, by their `id`, as for `copy.deepcopy`.
    """
    memo = dict(memo or {})
    parts = (value for part in module.modules() for value in (part, *vars(part).values()))
    own = {id(value) for value in parts if type(value) not in _ATOMS}
    twins = {id(function): function for function in _functions(module) if _holds(function, own)}
    memo |= {number: _with_empty_cells(function) for number, function in twins.items()}
    computed = (x for x in _held(module) if getattr(x, "grad_fn", None) is not None)  # deepcopy refuses them
    memo |= {id(x): x.detach().clone() for x in computed}
    made = copy.deepcopy(module, memo)
    for number, function in twins.items():
        for cell, old in zip(memo[number].__closure__, function.__closure__ or (), strict=True):
            content = old.cell_contents
            bound = isinstance(content, types.MethodType)
            cell.cell_contents = copy.deepcopy(content, memo) if bound else memo.get(id(content), content)
    return made


def _held(module: torch.nn.Module) -> Iterator[Any]:
    """The attributes of each part of a module, and what stands in those that are dictionaries."""
    for part in module.modules():
        for value in vars(part).values():
            yield from value.values() if isinstance(value, dict) else (value,)


def _functions(module: torch.nn.Module) -> Iterator[types.FunctionType]:
    """Those that a module's parts hold, and those that these hold in turn."""
    pending = list(_held(module))
    seen: set[int] = set()
    while pending:
        held = pending.pop()
        if isinstance(held, types.FunctionType) and id(held) not in seen:
            seen.add(id(held))
            pending += _contents(held)
            yield held


def _contents(function: types.FunctionType) -> list[Any]:
    """What a function's cells hold; nothing where one is empty still."""
    try:
        return [cell.cell_contents for cell in function.__closure__ or ()]
    except ValueError:
        return []


def _holds(function: types.FunctionType, own: set[int]) -> bool:
    """Whether a function, or one that it calls, holds on to one of these objects."""
    pending, seen = [function], {id(function)}
    while pending:
        for value in _contents(pending.pop()):
            if id(getattr(value, "__self__", value)) in own:  # a method is bound to it
                return True
            if isinstance(value, types.FunctionType) and id(value) not in seen:
                seen.add(id(value))
                pending.append(value)
    return False


def _with_empty_cells(function: types.FunctionType) -> types.FunctionType:
    cells = tuple(types.CellType() for _ in function.__closure__ or ())
    code, name = function.__code__, function.__name__
    twin = types.FunctionType(code, function.__globals__, name, function.__defaults__, cells)
    twin.__kwdefaults__ = function.__kwdefaults__
    twin.__dict__.update(function.__dict__)
    return twin
