"""What `**kwargs` of `forward` collects, as keyword parameters of their own.

torch.export 2.13 takes the shapes of collected inputs nested in one place and flat in another, so it
cannot give them a dynamic batch. With a signature that names them there is nothing left to collect.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def collected_keywords_named(module: torch.nn.Module, kwargs: Mapping[str, Any]) -> Iterator[None]:
    """Let `module.forward` have a signature that names its collected inputs, and put it back."""
    signature = inspect.signature(module.forward)
    fixed = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    collected = [name for name in kwargs if name not in {p.name for p in fixed}]
    if not collected or len(fixed) == len(signature.parameters):
        yield
        return
    forward = module.forward

    def named(*args: Any, **inputs: Any) -> Any:
        return forward(*args, **inputs)

    parameters = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in collected]
    named.__signature__ = signature.replace(parameters=[*fixed, *parameters])  # type: ignore[attr-defined]
    own = vars(module).get("forward")
    vars(module)["forward"] = named
    try:
        yield
    finally:
        del vars(module)["forward"]
        if own is not None:
            vars(module)["forward"] = own
