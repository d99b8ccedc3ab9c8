"""Several threads at once on a GPU that is not there."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from nncompile_runtime.errors import OutOfMemoryError
from nncompile_runtime.predictor import Predictor

from .fake_gpu import FakeGpu, gpu, on_gpu, values
from .gpu_nets import net, reference
from .graphs import floats

__all__ = ["gpu"]


@pytest.mark.parametrize("plan", [{}, {"cuda_graph": True}, {"cuda_graph": True, "workers": 2}])
def test_threads_at_once(gpu: FakeGpu, plan: dict[str, Any]) -> None:
    model, wrong = net(**plan), list[str]()
    given = [floats(n, 1, 8, 8, seed=n) for n in (1, 3, 2, 5)]
    expected = [reference(x) for x in given]

    def call(seed: int) -> None:
        for number in np.random.default_rng(seed).integers(len(given), size=20):
            x = given[number]
            how = ("arrays", "tensors", "stream")[(seed + number) % 3]
            if how == "arrays":
                y = model.predict(x)
            elif how == "tensors":
                y = values(model.predict(on_gpu(x)))
            else:
                y = np.concatenate(list(model.predict_batches(x, batch_size=2)))
            if not np.allclose(y, expected[number], rtol=1e-5, atol=1e-5):
                wrong.append(f"{how} of {len(x)}")

    with ThreadPoolExecutor(10) as pool:
        list(pool.map(call, range(10)))
    assert wrong == []


@pytest.mark.parametrize(("workers", "sessions"), [(1, 1), (3, 3), (8, 5)])
def test_calling_threads_are_spread_over_sessions(gpu: FakeGpu, workers: int, sessions: int) -> None:
    model, x = net(workers=workers), floats(2, 1, 8, 8)
    answers: list[np.ndarray] = []

    def call() -> None:
        answers.extend(model.predict(x) for _ in range(2))

    for _ in range(5):
        thread = threading.Thread(target=call)
        thread.start()
        thread.join()
    for y in answers:
        np.testing.assert_array_equal(y, reference(x))
    assert len(answers) == 10
    assert len({options["user_compute_stream"] for options in gpu.created}) == sessions


def elsewhere(model: Predictor, x: np.ndarray, wrong: list[str]) -> Callable[[], None]:
    """A call in another thread, which says what is wrong with it."""

    def call() -> None:
        try:
            if not np.allclose(values(model.predict(x)), reference(x), rtol=1e-6, atol=1e-6):
                wrong.append("the answer")
        except Exception as error:
            wrong.append(repr(error))

    return call


def test_what_other_threads_do_neither_fails_in_a_capture_nor_breaks_it(gpu: FakeGpu) -> None:
    """To open a session, to allocate and to wait: CUDA refuses that while any thread captures."""
    wrong: list[str] = []
    model, other = net(cuda_graph=True), net()
    old = [net()]
    x = floats(4, 1, 8, 8)
    other.predict(floats(1, 1, 8, 8))
    gpu.during_capture = [
        elsewhere(other, x, wrong),
        lambda: elsewhere(net(), x, wrong)(),
        old.clear,
    ]
    np.testing.assert_allclose(model.predict(x), reference(x), rtol=1e-6, atol=1e-6)
    for thread in gpu.others:
        thread.join()
    assert wrong == []
    assert gpu.captures == [False]
    assert gpu.cuda.broken == []


def test_a_session_that_runs_out_of_memory_breaks_no_capture(gpu: FakeGpu) -> None:
    """It ends, for which cuBLAS waits for the whole GPU."""
    x, said = floats(4, 1, 8, 8), list[Exception]()
    other = net()

    def fails() -> None:
        said.append(other.session.failure(RuntimeError("CUDA failure 2: out of memory")))

    gpu.during_capture = [fails]
    np.testing.assert_allclose(net(cuda_graph=True).predict(x), reference(x), rtol=1e-6, atol=1e-6)
    for thread in gpu.others:
        thread.join()
    assert [type(error) for error in said] == [OutOfMemoryError]
    assert gpu.captures == [False]


def test_the_fake_would_show_it(gpu: FakeGpu) -> None:
    """The test above can fail: torch, which says nothing to CUDA, breaks a capture; the call runs plainly."""
    x = floats(4, 1, 8, 8)
    gpu.during_capture = [lambda: gpu.cuda.unsafe("cudaMalloc") and None]
    np.testing.assert_allclose(net(cuda_graph=True).predict(x), reference(x), rtol=1e-6, atol=1e-6)
    assert gpu.captures == [True]


def test_the_callers_mode_comes_back(gpu: FakeGpu) -> None:
    for plan in ({}, {"cuda_graph": True}):
        net(**plan).predict(on_gpu(floats(2, 1, 8, 8)))
        assert gpu.cuda.mode == 0
