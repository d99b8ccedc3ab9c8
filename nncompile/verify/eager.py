"""Eager PyTorch, called with flat inputs: the reference."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from nncompile.calling import Calling
from nncompile_runtime.manifest import Signature

Array = npt.NDArray[Any]


class Eager:
    """A module in evaluation mode behind the graph's flat signature."""

    def __init__(self, module: torch.nn.Module, signature: Signature) -> None:
        """Prepare to call `module` as its `signature` says."""
        self._call = Calling(signature).adapt(module)

    def __call__(self, inputs: Sequence[torch.Tensor]) -> list[Array]:
        """The outputs as numpy arrays; floats as they are, bfloat16 as float32."""
        own = [x.clone() for x in inputs]  # forward may write into its inputs
        with torch.no_grad():
            return [_as_array(value) for value in self._call(own)]


def in_float64(
    module: torch.nn.Module, signature: Signature, inputs: Sequence[torch.Tensor]
) -> tuple[Eager, list[Array]] | None:
    """The same module in float64 and its answer; None where it cannot run (it casts to float32, say)."""
    try:
        double = Eager(copy.deepcopy(module).double(), signature)
        return double, double(widened(inputs))
    except Exception:
        return None


def widened(inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Floating-point inputs in float64; the values stay."""
    return [x.double() if x.is_floating_point() else x for x in inputs]


def _as_array(value: Any) -> Array:
    if not isinstance(value, torch.Tensor):
        return np.asarray(value)
    plain: Array = (value.float() if value.dtype is torch.bfloat16 else value).detach().numpy()
    return plain
