"""A copy of a module that computes in a narrower dtype and is called as before.

Weights and buffers are cast as `module.half()` casts them: floating-point ones only, tied ones stay tied, and
the user's module is not touched. Two hooks cast at the copy's border: floating-point inputs to the dtype,
outputs to the dtypes that the module itself returns. So a model compiled for float16 takes the arrays that
it takes for float32, and its signature says so. For float16 arrays in and out, compile `module.half()`.

float16 ends at 65504. A weight beyond it, and an example on which the copy answers with infinity or NaN and
the module does not, are refused by name, whether or not the model is verified later.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from nncompile.capture.containers import known_containers
from nncompile.capture.errors import user_location
from nncompile.copies import copied
from nncompile_runtime.errors import CaptureError
from nncompile_runtime.manifest import Precision

_DTYPES: dict[Precision, torch.dtype] = {"float16": torch.float16, "bfloat16": torch.bfloat16}
_WIDER: dict[Precision, str] = {
    "float16": "Compile with precision='bfloat16', which has the range of float32, or with 'float32'.",
    "bfloat16": "Compile with precision='float32'.",
}


def narrowed(
    module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], precision: Precision
) -> nn.Module:
    """A copy of the module in `precision`; the module itself for float32 and tf32, whose weights are float32.

    Args:
        module: In evaluation mode, on the CPU; stays as it is.
        args: Positional inputs on which it is tried.
        kwargs: Keyword inputs.
        precision: What was asked for.

    Raises:
        CaptureError: The module does not run in that dtype, or overflows in it.
    """
    dtype = _DTYPES.get(precision)
    if dtype is None:
        return module
    try:
        expected = _called(module, args, kwargs)
        own = copied(module)
        narrow = own.half() if dtype is torch.float16 else own.bfloat16()
        _cast_at_the_border(narrow, dtype, [getattr(leaf, "dtype", None) for leaf in expected])
        got = _called(narrow, args, kwargs)
    except Exception as error:
        reason = (str(error).strip().splitlines() or [""])[0][:300]
        raise CaptureError(
            f"The module does not run in {precision}{user_location(error)}: {type(error).__name__}: {reason}",
            remedy="Register its constant tensors as buffers, so that they are cast too, or compile with "
            "precision='float32'.",
        ) from error
    lost = [name for name, weight in narrow.named_parameters() if not _finite(weight)]
    lost = [name for name in lost if _finite(module.get_parameter(name))]
    if lost:
        raise CaptureError(
            f"The weight {lost[0]!r} holds values beyond the range of {precision}.", remedy=_WIDER[precision]
        )
    if any(_finite(before) and not _finite(after) for before, after in zip(expected, got, strict=True)):
        raise CaptureError(
            f"The module overflows in {precision} on the example input: infinity or NaN comes first out of "
            f"{_first_not_finite(narrow, args, kwargs)}.",
            remedy=_WIDER[precision],
        )
    return narrow


def _cast_at_the_border(narrow: nn.Module, dtype: torch.dtype, returned: list[torch.dtype | None]) -> None:
    """Let the copy take what the module takes, and return the dtypes that the module returns."""

    def enter(_: nn.Module, args: Any, kwargs: Any) -> Any:
        leaves, structure = _taken_apart((args, kwargs))
        cast = [x.to(dtype) if isinstance(x, torch.Tensor) and x.is_floating_point() else x for x in leaves]
        return _put_together(cast, structure, like=(args, kwargs))

    def leave(_: nn.Module, args: Any, result: Any) -> Any:
        del args
        leaves, structure = _taken_apart(result)
        cast = [x.to(own) if own else x for x, own in zip(leaves, returned, strict=True)]
        return _put_together(cast, structure, like=result)

    narrow.register_forward_pre_hook(enter, prepend=True, with_kwargs=True)
    narrow.register_forward_hook(leave)


def _taken_apart(value: Any) -> tuple[list[Any], Any]:
    with known_containers() as make_known:
        make_known(value)
        return pytree.tree_flatten(value)


def _put_together(leaves: list[Any], structure: Any, like: Any) -> Any:
    with known_containers() as make_known:
        make_known(like)
        return pytree.tree_unflatten(leaves, structure)


def _called(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Any]:
    """The flat result; `forward` may write into its inputs, so they are copies."""
    args, kwargs = pytree.tree_map(lambda x: x.clone() if isinstance(x, torch.Tensor) else x, (args, kwargs))
    with torch.no_grad():
        return _taken_apart(module(*args, **kwargs))[0]


def _finite(value: Any) -> bool:
    is_float = isinstance(value, torch.Tensor) and value.is_floating_point()
    return not is_float or bool(torch.isfinite(value).all())


def _first_not_finite(narrow: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    """The innermost layer whose result is the first that is not finite."""
    found: list[str] = []

    def watch(name: str) -> Any:
        def look(part: nn.Module, _: Any, result: Any) -> None:
            if not found and not all(map(_finite, _taken_apart(result)[0])):
                found.append(f"layer {name!r} ({type(part).__name__})" if name else "forward itself")

        return look

    handles = [part.register_forward_hook(watch(name)) for name, part in narrow.named_modules()]
    try:
        _called(narrow, args, kwargs)
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else "forward itself"
