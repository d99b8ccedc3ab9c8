"""Memory: as much after a thousand calls as after a hundred, and a call that is too large breaks nothing."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from models.gpu_check.context import Context, arrays
from models.gpu_check.table import Finding, NotRunError
from models.gpu_check.ways import Way, large, small
from nncompile import NncompileError, OutOfMemoryError
from nncompile.bench.gpu_memory import GpuMemory
from nncompile_runtime import Predictor
from nncompile_runtime.answers import difference
from nncompile_runtime.plan import MOST_GRAPHS

_BEFORE = 100  # calls until everything has its memory
_BATCHES = (64, 37, 5, 1)
# A leak of one input of batch 64 a call would be a hundred times as much for the smallest network.
_HOST_MAY_GROW = 16 << 20
_GPU_MAY_GROW = 2 << 20  # the step in which the driver hands out memory
_STATM = Path("/proc/self/statm")
_LIMIT = 512 << 20  # of each session
_TOO_MANY = 1024
# The search would time convolutions anew in each session, and take whichever workspace won.
_PLAN = {"cudnn_search": "heuristic"}
# A session is closed and opened again after each failure. One that was kept would hold its weights, three
# times as much; what the driver and cuDNN take on the way may differ by a few steps.
_REOPENED_MAY_GROW = 16 << 20


def flat(context: Context) -> Iterator[Finding]:
    """Calls with batches of several sizes, on arrays and on tensors, plainly and by other plans."""
    taken: dict[str, tuple[Callable[[], int], int]] = {}
    if _STATM.exists():
        taken["host"] = (_resident, _HOST_MAY_GROW)
    if context.on_gpu:
        taken["GPU"] = (GpuMemory(int(context.device.partition(":")[2] or 0)).used, _GPU_MAY_GROW)
    plainly = (small(context, {}, name) for name in context.some[:2])
    for way in (*plainly, small(context), *large(context)):
        try:
            yield from _stays(context, way, taken)
        except NotRunError as error:
            yield Finding(f"{way.name}, {way.plan}", "not run", str(error))


def _stays(
    context: Context, way: Way, taken: Mapping[str, tuple[Callable[[], int], int]]
) -> Iterator[Finding]:
    predictor = way.load(way.plan)
    feeds = [way.inputs(batch, 0) for batch in _BATCHES if batch <= max(way.batches)]
    for kind, given in (("arrays", feeds), ("tensors", [context.tensor(x) for x in feeds])):
        for x in in_turn(given, _BEFORE):
            predictor(x)
        before = {place: used() for place, (used, _) in taken.items()}
        for x in in_turn(given, context.calls - _BEFORE):
            predictor(x)
        for place, (used, limit) in taken.items():
            grown = used() - before[place]
            calls = f"from call {_BEFORE} to {context.calls}"
            said = f"{grown / 2**20:+.1f} MiB {calls}; {limit >> 20} MiB are allowed"
            yield Finding.of(f"{way.name}, {way.plan}, {kind}: {place}", grown <= limit, said)


def in_turn(given: Sequence[Any], calls: int) -> Iterator[Any]:
    """What each of so many calls gets: long runs of one batch, each of which has had one by call 100.

    A plain Conv asks cuDNN for a new plan whenever the shape changes, which takes far longer than a call.
    """
    for number in range(calls):
        yield given[number // (_BEFORE // len(given)) % len(given)]


def out_of_memory(context: Context) -> Iterator[Finding]:
    """Under a memory limit a large batch fails by name, again and again; a small one is answered after it.

    From arrays, too large to be staged, and from tensors on the GPU; without CUDA graphs and with them, where
    sessions share the plan's limit. The first activation of the large batch would not fit in all shares.
    """
    name = next((name for name in ("resnet18", "mobilenetv2") if name in context.networks), None)
    if name is None:
        raise NotRunError("it needs resnet18 or mobilenetv2")
    large = np.zeros((_TOO_MANY, 3, 224, 224), np.float32)
    small = context.inputs(name, 1)
    for graphs in (False, True):
        limit = _LIMIT * (1 + MOST_GRAPHS if graphs else 1)
        plan = _PLAN | {"gpu_memory_limit": limit, "cuda_graph": graphs}
        predictor = context.load(name, "float32", plan)
        for kind, place in (("arrays", np.asarray), ("tensors", context.tensor)):
            what = f"{name}, {kind}" + ", CUDA graphs" * graphs
            yield from _fails_and_recovers(context, what, predictor, place(small), place(large))


def _fails_and_recovers(
    context: Context, name: str, predictor: Predictor, small: Any, large: Any
) -> Iterator[Finding]:
    try:
        expected = arrays(predictor, predictor(small))
    except OutOfMemoryError as error:
        said = f"a session's {_LIMIT >> 20} MiB do not suffice for it, so nothing is shown: {error}"
        yield Finding.of(f"{name}, batch 1 before any failure", False, said)
        return
    memory = GpuMemory(int(context.device.partition(":")[2] or 0))
    used: list[int] = []
    for attempt in range(1, 4):
        what = f"{name}, batch {_TOO_MANY} in {_LIMIT >> 20} MiB a session, attempt {attempt}"
        try:
            predictor(large)
            yield Finding.of(what, False, "it was answered, so the limit does not hold")
            continue
        except OutOfMemoryError as error:
            yield Finding.of(what, bool(error.remedy), f"{type(error).__name__}: {error}")
        except Exception as error:
            yield Finding.of(what, False, f"{type(error).__name__}, which is not the error for it: {error}")
        what = f"{name}, batch 1 after it"
        try:
            wrong = difference(expected, arrays(predictor, predictor(small)))
            yield Finding.of(what, wrong is None, wrong or "answered as before")
        except NncompileError as error:
            yield Finding.of(what, False, str(error))
        used.append(memory.used())
    if used:
        grown = used[-1] - used[0]
        said = f"{grown / 2**20:+.1f} MiB from the first failure to the last"
        yield Finding.of(f"{name}, memory of the GPU", grown <= _REOPENED_MAY_GROW, said)


def _resident() -> int:
    """Bytes of this process that are in memory."""
    return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
