"""How often a call has a GPU begin something, counted by CUPTI for every library of the process.

A CUDA graph is one launch, whatever it holds. Copies and fills of memory are none.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from functools import cache
from typing import Any

# What torch.profiler sets for CUDA graphs of its own: with those, CUPTI may not be closed and started again.
_CUPTI_STAYS = {"TEARDOWN_CUPTI": "0", "DISABLE_CUPTI_LAZY_REINIT": "1"}
_LAUNCH = re.compile(r"cu(da)?(Launch(Cooperative)?Kernel|GraphLaunch)\w*")


def launches(call: Callable[[], Any], device: str) -> int | None:
    """The launches of one call; None where torch's profiler does not show any.

    Args:
        call: What is looked at, called before as often as it takes to be warm.
        device: As torch names it: `cuda`, `cuda:1`.
    """
    return sum(_LAUNCH.fullmatch(name) is not None for name in profiled(call, device)) or None


def profiled(call: Callable[[], Any], device: str) -> list[str]:
    """The names of all that a call does, on the host and on the GPU, until the GPU is done.

    Args:
        call: What is looked at.
        device: As torch names it: `cuda`, `cuda:1`.
    """
    _start(device)
    return _seen(call, device)


@cache
def _start(device: str) -> None:
    """CUPTI starts with the first profile of a process, which may miss what it was made for."""
    os.environ |= _CUPTI_STAYS
    _seen(lambda: None, device)


def _seen(call: Callable[[], Any], device: str) -> list[str]:
    import torch
    from torch.profiler import ProfilerActivity, profile

    from nncompile.bench.engines.on_gpu import wait

    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as profiler:
        call()
        wait(torch.device(device))
    return [event.name for event in profiler.events()]
