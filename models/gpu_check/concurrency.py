"""Answers do not depend on who else asks, and nobody waits for the GPU who need not."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, nullcontext
from threading import Barrier
from typing import Any

import numpy as np
import torch

from models.gpu_check.context import Context, arrays, warnings
from models.gpu_check.table import Finding, NotRunError
from models.gpu_check.ways import Way, large, small
from nncompile.bench.engines.on_gpu import wait
from nncompile_runtime import Predictor
from nncompile_runtime.answers import difference

_THREADS, _CALLS = 8, 50
_LATEST = 60  # seconds until which all threads must have begun
_CYCLES = 100_000_000  # for which the caller's stream is kept busy: some 50 ms


def concurrent(context: Context) -> Iterator[Finding]:
    """Eight threads on one predictor, each with its own inputs and, on a GPU, its own stream.

    With tensors, what a thread computes before and after the call is on its stream too, unsynchronised. With
    CUDA graphs all threads begin at once, so that some capture while others open sessions, wait and replay;
    torch's own calls could fail then, so the inputs are arrays. When all is captured, tensors follow, in the
    same threads and of as many rows: whatever else would have to be captured anew.
    """
    graphs: dict[str, Any] = {"cuda_graph": True} if context.on_gpu else {"micro_batch": 2}
    workers = {"workers": 2, **graphs}
    for name in context.small:
        plain = context.load(name, "float32")
        feeds = [context.inputs(name, 1 + seed % 3, seed) for seed in range(_THREADS)]
        expected = [arrays(plain, plain(x)) for x in feeds]
        captured = context.load(name, "float32", graphs)
        several = context.load(name, "float32", workers)
        with ExitStack() as stack:
            threads = [stack.enter_context(ThreadPoolExecutor(1)) for _ in range(_THREADS)]
            for what, predictor, caller in (
                ("arrays", plain, _calls_with_arrays),
                ("tensors", plain, _calls_with_tensors),
                (f"arrays, {graphs}", captured, _calls_with_arrays),
                (f"tensors, {graphs}", captured, _calls_with_tensors),
                (f"streams, {workers}", several, _streams),
            ):
                begin = Barrier(_THREADS)
                with warnings() as told:
                    asked = [
                        thread.submit(_at_once, begin, caller, context, predictor, x, wanted)
                        for thread, x, wanted in zip(threads, feeds, expected, strict=True)
                    ]
                    wrong = sorted({problem for future in asked for problem in future.result()} | set(told))
                said = (
                    "; ".join(wrong[:3]) or f"{_THREADS} threads, {_CALLS} calls each, as one after another"
                )
                yield Finding.of(f"{name}, {what}", not wrong, said)


def queued(context: Context) -> Iterator[Finding]:
    """Called while the caller's stream is busy, `predict` returns long before that is done.

    The input is made on that stream after it was busy, and overwritten after the call.
    """
    plans: tuple[dict[str, Any], ...] = ({}, {"cuda_graph": True})
    for way in (*(small(context, plan, name) for name in context.small for plan in plans), *large(context)):
        try:
            yield from _returns_early(context, way)
        except NotRunError as error:
            yield Finding(f"{way.name}, {way.plan}", "not run", str(error))


def _returns_early(context: Context, way: Way) -> Iterator[Finding]:
    what, predictor = f"{way.name}, {way.plan}", way.load(way.plan)
    there = context.tensor(way.inputs(1, 0))
    expected = arrays(predictor, predictor(there))
    late = torch.zeros_like(there)
    predictor(late)
    wait(there.device)
    with torch.cuda.device(there.device):  # `_sleep` is for the current one
        torch.cuda._sleep(_CYCLES)
    late.copy_(there)
    start = time.perf_counter()
    answer = predictor(late)
    returned = time.perf_counter() - start
    late.zero_()
    wait(there.device)
    done = time.perf_counter() - start
    said = f"predict returned after {returned * 1e3:.1f} ms, and the GPU was done after {done * 1e3:.1f}"
    yield _judged(what, returned, done, said)
    wrong = difference(expected, arrays(predictor, answer), way.precision)
    yield Finding.of(f"{what}, a late input", wrong is None, wrong or "answered as a ready one")


def _judged(what: str, returned: float, done: float, said: str) -> Finding:
    waited = returned > done / 2
    why = "; ONNX Runtime waits after a replay where it does not heed disable_synchronize_execution_providers"
    return Finding.of(what, not waited, said + why * (waited and "graph" in what))


def _at_once(begin: Barrier, caller: Callable[..., list[str]], *arguments: Any) -> list[str]:
    begin.wait(_LATEST)
    return caller(*arguments)


def _streams(_: Context, predictor: Predictor, x: np.ndarray, expected: list[np.ndarray]) -> list[str]:
    """As many rows as calls of the others have, in batches that are no multiples of those of the stream."""
    count = max(1, _CALLS // len(x))
    got = [predictor.flatten_result(y) for y in predictor.predict_batches([x] * count, batch_size=4)]
    joined = [np.concatenate(column) for column in zip(*got, strict=True)]
    problem = difference([np.concatenate([y] * count) for y in expected], joined)
    return [problem] if problem else []


def _calls_with_arrays(
    _: Context, predictor: Predictor, x: np.ndarray, expected: list[np.ndarray]
) -> list[str]:
    found = (difference(expected, arrays(predictor, predictor(x))) for _ in range(_CALLS))
    return [problem for problem in found if problem]


def _calls_with_tensors(
    context: Context, predictor: Predictor, x: np.ndarray, expected: list[np.ndarray]
) -> list[str]:
    half = context.tensor(x) / 2  # exact, and so is twice it
    wait(half.device)
    doubled = [2 * y for y in expected]
    problems = []
    stream = torch.cuda.stream(torch.cuda.Stream(half.device)) if context.on_gpu else nullcontext()
    with stream:
        for _ in range(_CALLS):
            given = half + half
            answer = predictor.flatten_result(predictor(given))
            given.zero_()  # after the call's work in the order of the stream
            after = [y + y for y in answer]
            problem = difference(doubled, [y.cpu().numpy() for y in after])
            problems += [problem] if problem else []
    return problems
