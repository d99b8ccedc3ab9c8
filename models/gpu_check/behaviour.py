"""Answers do not depend on who else asks, on the batches before, or on how a batch is run."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch

from models.gpu_check.context import Context, arrays
from models.gpu_check.table import Finding, NotRunError
from nncompile.bench.engines.on_gpu import wait
from nncompile_runtime import Predictor
from nncompile_runtime.answers import difference

_BATCHES = (1, 2, 3, 5, 8, 13, 16, 17, 31, 64, 3, 1)
_THREADS, _CALLS = 8, 50
_NETWORKS = ("lenet5", "net", "mlp")


def ragged(context: Context) -> Iterator[Finding]:
    """Batches around those that graphs are captured for, against a plan without graphs.

    On the CPU, where there are no CUDA graphs, against batches cut into pieces.
    """
    special: dict[str, Any] = {"cuda_graph": True} if context.on_gpu else {"micro_batch": 4}
    for name in _small(context):
        plain = context.load(name, "float32", {"cuda_graph": False} if context.on_gpu else {})
        predictor = context.load(name, "float32", special)
        feeds = [context.inputs(name, batch, seed) for seed, batch in enumerate(_BATCHES)]
        expected = [arrays(plain, plain(x)) for x in feeds]
        for kind, given in (("arrays", feeds), ("tensors", [context.tensor(x) for x in feeds])):
            results = [
                predictor(x) for x in given
            ]  # read when all calls are done: a later one must not write there
            wrong = [
                f"batch {batch}: {problem}"
                for batch, wanted, result in zip(_BATCHES, expected, results, strict=True)
                if (problem := difference(wanted, arrays(predictor, result)))
            ]
            said = "; ".join(wrong) or f"batches {', '.join(map(str, _BATCHES))} as without"
            yield Finding.of(f"{name}, {special}, {kind}", not wrong, said)
        yield _streamed(context, name, predictor, plain)


def concurrent(context: Context) -> Iterator[Finding]:
    """Eight threads on one predictor, each with its own inputs and, on a GPU, its own stream.

    With tensors, what a thread computes before and after the call is on its stream too, unsynchronised.
    """
    for name in _small(context):
        predictor = context.load(name, "float32")
        feeds = [context.inputs(name, 1 + seed % 3, seed) for seed in range(_THREADS)]
        expected = [arrays(predictor, predictor(x)) for x in feeds]
        for kind, caller in (("arrays", _calls_with_arrays), ("tensors", _calls_with_tensors)):
            with ThreadPoolExecutor(_THREADS) as pool:
                asked = [
                    pool.submit(caller, context, predictor, x, wanted)
                    for x, wanted in zip(feeds, expected, strict=True)
                ]
                wrong = sorted({problem for future in asked for problem in future.result()})
            said = "; ".join(wrong[:3]) or f"{_THREADS} threads, {_CALLS} calls each, as one after the other"
            yield Finding.of(f"{name}, {kind}", not wrong, said)


def _small(context: Context) -> list[str]:
    names = [name for name in _NETWORKS if name in context.networks]
    if not names:
        raise NotRunError(f"it needs one of {', '.join(_NETWORKS)}")
    return names


def _streamed(context: Context, name: str, predictor: Predictor, plain: Predictor) -> Finding:
    """A stream of batches of all sizes, cut anew."""
    feeds = [context.inputs(name, batch, seed) for seed, batch in enumerate(_BATCHES)]
    got = [arrays(predictor, y) for y in predictor.predict_batches(iter(feeds), batch_size=16)]
    joined = [np.concatenate(column) for column in zip(*got, strict=True)]
    wrong = difference(arrays(plain, plain(np.concatenate(feeds))), joined)
    said = wrong or f"{len(got)} batches of 16 rows at most, as in one call"
    return Finding.of(f"{name}, predict_batches", wrong is None, said)


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
