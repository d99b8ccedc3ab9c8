"""Eager PyTorch, called with flat inputs: the reference."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, redirect_stderr
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from nncompile.calling import Calling
from nncompile.copies import copied
from nncompile.verify.closed_bags import ClosedBags
from nncompile_runtime.manifest import Signature

Array = npt.NDArray[Any]


class Eager:
    """A module in evaluation mode behind the graph's flat signature."""

    def __init__(
        self,
        module: torch.nn.Module,
        signature: Signature,
        mode: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        """Prepare to call `module` as its `signature` says, always inside a new `mode()`."""
        self._call = Calling(signature).adapt(module)
        self._mode = mode
        parts = module.modules() if isinstance(module, torch.nn.Module) else ()
        with_ends = any(getattr(part, "include_last_offset", False) for part in parts)
        self._bags: Callable[[], AbstractContextManager[Any]] = ClosedBags if with_ends else nullcontext

    def __call__(self, inputs: Sequence[torch.Tensor]) -> list[Array]:
        """The outputs as numpy arrays; floats as they are, bfloat16 as float32."""
        own = [x.clone() for x in inputs]  # forward may write into its inputs
        with torch.no_grad(), self._bags(), self._mode():
            return [as_array(value) for value in self._call(own)]


def in_float64(
    module: torch.nn.Module, signature: Signature, inputs: Sequence[torch.Tensor]
) -> tuple[Eager, list[Array]] | None:
    """The same module in float64 and its answer; None where it cannot run in it (it is quantised, say)."""
    try:
        double = copied(module, _doubles(module)).double()
    except Exception:
        return None
    for mode in (nullcontext, CastsWidened):
        reference = Eager(double, signature, mode)
        try:
            with redirect_stderr(io.StringIO()):  # a graph of torch.fx prints where it failed
                answer = reference(widened(inputs))
        except Exception:  # noqa: S112 - the module decides what it raises; the next mode, or none, then
            continue
        return reference, answer
    return None


def _doubles(module: torch.nn.Module) -> dict[int, Any]:
    """For `deepcopy`: the weights in float64 already, which saves a copy of each in its own dtype."""
    return {
        id(weight): torch.nn.Parameter(weight.detach().double(), weight.requires_grad)
        for weight in module.parameters()
        if type(weight) is torch.nn.Parameter and weight.dtype in _SHORTER
    }


class CastsWidened(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves it untyped
    """Lets a module that casts to a shorter floating-point dtype in `forward` run in float64 throughout."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operator with float64 for each shorter dtype, in its options and in its result."""
        del types
        args, kwargs = pytree.tree_map(_double_dtype, (args, kwargs or {}))
        return pytree.tree_map(_double_result, func(*args, **kwargs))


class ChannelsLast(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves it untyped
    """Lets float16 convolutions compute with their channels last, where a CPU is several times as fast.

    A module sees nothing of it but other roundings: what goes in and comes out lies in memory as before.
    Grouped convolutions, which gain nothing, stay as they are.
    """

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operator; a dense convolution of float16 images on a copy in another order."""
        del types
        if func is torch.ops.aten.convolution.default and _dense_in_float16(args):
            images = args[0].contiguous(memory_format=torch.channels_last)
            return func(images, *args[1:], **(kwargs or {})).contiguous()
        return func(*args, **(kwargs or {}))


def _dense_in_float16(args: tuple[Any, ...]) -> bool:
    """Whether arguments of `aten::convolution` are float16 images, channels first, and there is one group."""
    images, *_, groups = args
    first = images.dim() == 4 and images.is_contiguous()
    return images.dtype is torch.float16 and first and groups == 1


_SHORTER = (torch.float32, torch.float16, torch.bfloat16)


def _double_dtype(option: Any) -> Any:
    return torch.float64 if isinstance(option, torch.dtype) and option in _SHORTER else option


def _double_result(value: Any) -> Any:
    return value.double() if isinstance(value, torch.Tensor) and value.dtype in _SHORTER else value


def widened(inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Floating-point inputs in float64; the values stay."""
    return [x.double() if x.is_floating_point() else x for x in inputs]


def as_array(value: Any) -> Array:
    """A tensor or number as a numpy array; bfloat16, which numpy lacks, as float32."""
    if not isinstance(value, torch.Tensor):
        return np.asarray(value)
    plain: Array = (value.float() if value.dtype is torch.bfloat16 else value).detach().numpy()
    return plain
