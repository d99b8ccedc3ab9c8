"""CUDA graphs and memory, on a GPU that is not there: what goes where it is short, what is tried again."""

from __future__ import annotations

import logging
import threading
from typing import Any

import numpy as np
import pytest

from nncompile import OutOfMemoryError
from nncompile_runtime import captured, driver, graphs
from nncompile_runtime.cuda_session import CudaSession
from nncompile_runtime.plan import MOST_GRAPHS
from nncompile_runtime.predictor import Predictor

from .fake_gpu import FakeGpu, gpu
from .gpu_nets import captures, reference, replays
from .gpu_nets import replaying as net
from .graphs import floats

__all__ = ["gpu"]


def test_a_session_that_ran_out_of_memory_has_room_for_new_threads(gpu: FakeGpu) -> None:
    session = net().session
    assert isinstance(session, CudaSession)
    graph = captured.Captured(session._model, session.plan, net().signature, 2)
    said = list[bool]()

    def asked() -> bool:
        thread = threading.Thread(target=lambda: said.append(graph.admits()))
        thread.start()
        thread.join()
        return said[-1]

    assert [asked() for _ in range(captured.MOST_THREADS + 1)] == [True] * captured.MOST_THREADS + [False]
    assert isinstance(graph.session.failure(full()), OutOfMemoryError)
    assert asked()


def sized(model: Predictor, rows: int) -> None:
    x = floats(rows, 1, 8, 8, seed=rows)
    np.testing.assert_allclose(model.predict(x), reference(x), rtol=1e-6, atol=1e-6)


def full() -> RuntimeError:
    return RuntimeError("Failed to allocate memory for requested buffer of size 4194304")


def test_graphs_give_way_to_a_call_that_finds_no_memory(gpu: FakeGpu) -> None:
    model, small, large = net(), floats(3, 1, 8, 8), floats(300, 1, 8, 8)
    for rows in (1, 2, 3):
        model.predict(small[:rows])
    assert gpu.alive == 4
    gpu.failures = [full()]
    np.testing.assert_array_equal(model.predict(large), reference(large))
    assert gpu.alive == 1
    gpu.failures = [full()]
    with pytest.raises(OutOfMemoryError):  # now there is nothing left to give
        model.predict(large)
    np.testing.assert_allclose(model.predict(small), reference(small), rtol=1e-6, atol=1e-6)
    assert gpu.alive == 2


def test_a_session_that_began_anew_captures_alone_again(
    gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = net()
    session = model.session
    assert isinstance(session, CudaSession)
    graph = captured.Captured(session._model, session.plan, model.signature, 2)
    alone, entered = driver.alone, []
    monkeypatch.setattr(driver, "alone", lambda **how: (entered.append(how), alone(**how))[1])

    def entries() -> int:
        before = len(entered)
        with graph.session.current():
            graph.session.run_at(graph._inputs, graph._outputs)
        return len(entered) - before

    assert [entries(), entries()] == [1, 0]
    assert isinstance(graph.session.failure(full()), OutOfMemoryError)
    assert [entries(), entries()] == [1, 0]


@pytest.mark.parametrize("limit", [None, 100 << 20])
def test_a_graph_that_found_no_memory_is_tried_again_after_a_while(
    gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch, log: pytest.LogCaptureFixture, limit: int | None
) -> None:
    monkeypatch.setattr(graphs, "_PATIENCE", 3)
    model, x = net(gpu_memory_limit=limit), floats(3, 1, 8, 8)
    other = floats(7, 1, 8, 8)
    model.predict(other)
    for _ in range(2):  # short at both times; told once
        gpu.failures = [full()]
        for _ in range(4):
            np.testing.assert_array_equal(model.predict(x), reference(x))
            assert gpu.alive == 2  # the bucket's session is gone, and the other bucket's is not
    for _ in range(2):
        np.testing.assert_allclose(model.predict(x), reference(x), rtol=1e-6, atol=1e-6)
    model.predict(other)
    assert (replays(gpu), gpu.alive, len(gpu.captures)) == (2, 3, 2)  # replays of the other's
    (warning,) = [record for record in log.records if record.levelno == logging.WARNING]
    assert (
        "Batches of 4 run without a CUDA graph until one is tried again, every 3 calls: cuda:0 has too "
        "little memory" in warning.getMessage()
    )


def test_a_plain_run_finds_the_memory_of_the_graph_that_found_none(
    gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, x, alive = net(), floats(3, 1, 8, 8), list[int]()
    start = graphs.Graphs._start_plainly
    monkeypatch.setattr(
        graphs.Graphs, "_start_plainly", lambda self, feed: (alive.append(gpu.alive), start(self, feed))[1]
    )
    gpu.failures = [full()]
    model.predict(x)
    assert alive == [1]


def test_memory_that_the_driver_does_not_have_is_asked_for_again(
    gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graphs, "_PATIENCE", 1)
    model, x, block = net(), floats(3, 1, 8, 8), captured.Block

    def none_left(*_: Any) -> Any:
        raise driver.CudaError("CUDA failure 2: out of memory")

    monkeypatch.setattr(captured, "Block", none_left)
    np.testing.assert_array_equal(model.predict(x), reference(x))
    monkeypatch.setattr(captured, "Block", block)
    model.predict(x)
    assert len(gpu.captures) == 0
    np.testing.assert_allclose(model.predict(x), reference(x), rtol=1e-6, atol=1e-6)
    assert len(gpu.captures) == 1


def test_a_graph_that_failed_otherwise_stays_refused(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "_PATIENCE", 1)
    model, x = net(), floats(3, 1, 8, 8)
    gpu.failures = [RuntimeError("CUDA failure 901: operation failed due to a previous error during capture")]
    for _ in range(5):
        np.testing.assert_array_equal(model.predict(x), reference(x))
    assert (captures(gpu), len(gpu.captures)) == (1, 0)


def test_a_memory_limit_is_shared_and_keeps_the_graphs_few(gpu: FakeGpu) -> None:
    model = net(gpu_memory_limit=100 << 20, workers=2)
    for rows in (1, 2, 4, 8, 16, 32, 3):
        sized(model, rows)
    assert {int(options["gpu_mem_limit"]) for options in gpu.created} == {
        (100 << 20) // (2 * (1 + MOST_GRAPHS))
    }
    assert captures(gpu) == MOST_GRAPHS  # the others ran plainly
    assert gpu.alive == 1 + MOST_GRAPHS


def test_a_graph_that_nobody_asks_for_gives_way(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "_PATIENCE", 5)
    model = net(gpu_memory_limit=100 << 20)
    for rows in (1, 2, 4, 8, 1, 16):
        sized(model, rows)
    assert captures(gpu) == 4
    for rows in (1, 4, 8, 1):
        sized(model, rows)
    sized(model, 16)  # in the place of that for 2
    assert captures(gpu) == 5
    assert gpu.alive == 5
    sized(model, 2)
    sized(model, 1)
    assert captures(gpu) == 5


def test_without_a_limit_every_bucket_keeps_its_graph(gpu: FakeGpu) -> None:
    model = net()
    for rows in (1, 2, 4, 8, 16, 32, 3):
        sized(model, rows)
    assert captures(gpu) == 6
    assert "gpu_mem_limit" not in gpu.created[0]
