"""Eager PyTorch, called with flat inputs: the reference."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from nncompile_runtime.manifest import Signature
from nncompile_runtime.structure import flatten, unflattener

Array = npt.NDArray[Any]


class Eager:
    """A module in evaluation mode behind the graph's flat signature."""

    def __init__(self, module: torch.nn.Module, signature: Signature) -> None:
        """Prepare to call `module` as its `signature` says."""
        self._module = module
        self._signature = signature
        self._arguments = [(a, unflattener(a.structure)) for a in signature.arguments]

    def __call__(self, inputs: Sequence[torch.Tensor]) -> list[Array]:
        """The outputs as numpy arrays; floats as they are, bfloat16 as float32."""
        own = [x.clone() for x in inputs]  # forward may write into its inputs
        args = [nest(own) for argument, nest in self._arguments if not argument.keyword_only]
        kwargs = {argument.name: nest(own) for argument, nest in self._arguments if argument.keyword_only}
        with torch.no_grad():
            returned = self._module(*args, **kwargs)
        flat: list[Any] = [None] * len(self._signature.outputs)
        flatten(self._signature.result, returned, flat, "output")
        return [_as_array(value) for value in flat]


def in_float64(module: torch.nn.Module, signature: Signature, inputs: Sequence[torch.Tensor]) -> Eager | None:
    """The same module in float64, or None where it cannot run in it (it casts to float32, say)."""
    try:
        double = Eager(copy.deepcopy(module).double(), signature)
        double(widened(inputs))
    except Exception:
        return None
    return double


def widened(inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Floating-point inputs in float64; the values stay."""
    return [x.double() if x.is_floating_point() else x for x in inputs]


def _as_array(value: Any) -> Array:
    if not isinstance(value, torch.Tensor):
        return np.asarray(value)
    plain: Array = (value.float() if value.dtype is torch.bfloat16 else value).detach().numpy()
    return plain
