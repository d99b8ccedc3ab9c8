"""`torch.compile(options=...)`, checked: parameters of `compile`, and what a call has to know."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nncompile.compiler import compile as compile_module
from nncompile_runtime.errors import NncompileError

_ELSEWHERE = {"dynamic_batch", "dynamic_axes", "preprocess", "labels"}  # dynamo's, or an artifact's


@dataclass(frozen=True)
class PieceOptions:
    """The options of the backend.

    Attributes:
        compiling: Keyword arguments of `nncompile.compile`.
        frozen: Whether weights are written only in ways that torch counts.
        fallback: Whether a graph that cannot be compiled runs in eager PyTorch.
    """

    compiling: Mapping[str, Any]
    frozen: bool = False
    fallback: bool = False


def checked(options: Mapping[str, Any]) -> PieceOptions:
    """The options that a user gave.

    Raises:
        NncompileError: One is unknown, or is no boolean where it should be.
    """
    parameters = inspect.signature(compile_module).parameters.values()
    known = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in _ELSEWHERE}
    own = {"frozen": False, "fallback": False}
    for name, value in options.items():
        if name == "dynamic_batch":
            raise NncompileError(
                "The option 'dynamic_batch' is not the backend's.",
                remedy="Call torch.compile(model, dynamic=...): True, False, or None for as needed.",
            )
        if name not in known and name not in own:
            raise NncompileError(
                f"The backend nncompile has no option {name!r}.",
                remedy=f"Choose from {', '.join([*known, *own])}.",
            )
        if isinstance((known | own)[name], bool) and not isinstance(value, bool):
            raise NncompileError(f"The option {name}={value!r} is no boolean.", remedy="Give True or False.")
    return PieceOptions({name: options[name] for name in known if name in options}, **_given(options, own))


def _given(options: Mapping[str, Any], own: Mapping[str, bool]) -> dict[str, bool]:
    return {name: options.get(name, default) for name, default in own.items()}
