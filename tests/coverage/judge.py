"""Compile one case and judge it."""

import copy
import time
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.utils import _pytree as pytree

import nncompile
from nncompile.verify.fast_path import switched_off

RTOL, ATOL = 1e-3, 1e-4


@dataclass(frozen=True)
class Verdict:
    """What came of a case: `dynamic` or `static` where it is right, else `error`, with the message.

    Where PyTorch has two answers, compiling must refuse, and be right with the fast path off: `slow_path`.
    """

    outcome: str
    message: str = ""
    seconds: float = 0.0
    slow_path: bool = False


def judge(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Verdict:
    """Compile with a dynamic batch, or a fixed one where dimension 0 is no batch; compare with eager."""
    started = time.perf_counter()
    message = ""
    if any(torch.nn.parameter.is_lazy(p) for p in (*module.parameters(), *module.buffers())):
        with torch.no_grad():
            module.eval()(*args, **kwargs)  # the copy below must have the same weights
    for dynamic in (True, False):
        try:
            model = nncompile.compile(copy.deepcopy(module), args, kwargs, dynamic_batch=dynamic)
            compare(model, module, args, kwargs)
            return Verdict("dynamic" if dynamic else "static", message, time.perf_counter() - started)
        except (nncompile.NncompileError, AssertionError) as error:
            message = message or f"{type(error).__name__}: {error}"
            if not dynamic:
                message = f"{type(error).__name__}: {error}"
    if "PyTorch has two answers" in message:
        with switched_off():
            return replace(judge(module, args, kwargs), slow_path=True)
    return Verdict("error", message, time.perf_counter() - started)


def compare(model: Any, module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """The compiled answer, through the public call, against eager PyTorch's."""
    module.eval()
    with torch.no_grad():
        expected = module(*args, **kwargs)
    positional = iter(args)
    signature = model.manifest.signature
    given = {a.name: kwargs[a.name] if a.name in kwargs else next(positional) for a in signature.arguments}
    got = model.predict(**given)
    expected_flat = [x for x in pytree.tree_leaves(expected) if isinstance(x, torch.Tensor)]
    got_flat = [torch.as_tensor(x) for x in model.flatten_result(got)]
    assert len(expected_flat) == len(got_flat)
    for want, have in zip(expected_flat, got_flat, strict=True):
        torch.testing.assert_close(have, want, rtol=RTOL, atol=ATOL, equal_nan=True, check_dtype=False)
