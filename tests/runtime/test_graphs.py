"""CUDA graphs by bucket, on a GPU that is not there: fixed memory, harmless padding, plain runs beside."""

from __future__ import annotations

import logging
import threading
from typing import Any

import numpy as np
import pytest
import torch
from onnx import helper

from nncompile import InputError
from nncompile_runtime import buckets, captured
from nncompile_runtime.predictor import Predictor

from .fake_gpu import FakeGpu, gpu, on_gpu, values
from .gpu_nets import CUDA, captures, reference, replays
from .gpu_nets import replaying as net
from .graphs import build, conv_net, floats, manifest, predictor, spec

__all__ = ["gpu"]
PLAN = CUDA | {"cuda_graph": True}


@pytest.mark.parametrize("place", [lambda x: x, on_gpu])
def test_every_batch_gets_its_rows_answers(gpu: FakeGpu, place: Any) -> None:
    model = net()
    kept = []
    for rows in (1, 3, 4, 2, 3, 7, 1, 5):
        x = floats(rows, 1, 8, 8, seed=rows)
        kept.append((x, model.predict(place(x))))
    for x, y in kept:
        np.testing.assert_allclose(values(y), reference(x), rtol=1e-6, atol=1e-6)
    assert captures(gpu) == 4  # 1, 2, 4 and 8 rows
    assert len(gpu.created) == 5


def test_a_graph_runs_on_the_same_memory_in_every_call(gpu: FakeGpu) -> None:
    model = net()
    given = [on_gpu(floats(3, 1, 8, 8, seed=seed)) for seed in range(3)]
    for x in given:
        model.predict(x)
    assert len({tuple(run.items()) for run in gpu.runs}) == 1
    assert gpu.runs[0]["x"] not in [x.data_ptr() for x in given]


def test_rows_that_no_call_has_filled_are_computed_with_zeros(gpu: FakeGpu) -> None:
    """Garbage could be denormal or NaN, which some kernels are slow on; it is no row of anybody."""
    model = net()
    model.predict(on_gpu(floats(3, 1, 8, 8)))
    gpu.cuda._cuCtxSynchronize()
    rows = np.frombuffer(gpu.cuda.blocks[gpu.runs[0]["x"]], np.float32, 4 * 64)
    assert np.any(rows[: 3 * 64])
    assert not np.any(rows[3 * 64 :])


def test_a_callers_late_input_is_waited_for(gpu: FakeGpu) -> None:
    x, late = floats(3, 1, 8, 8), on_gpu(np.full((3, 1, 8, 8), np.nan, np.float32))
    gpu.cuda.queue(0, lambda: late.as_subclass(torch.Tensor).copy_(torch.from_numpy(x)))
    y = net().predict(late)
    gpu.cuda.queue(0, lambda: late.as_subclass(torch.Tensor).fill_(np.nan))
    np.testing.assert_allclose(values(y), reference(x), rtol=1e-6, atol=1e-6)


def test_large_batches_run_plainly(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buckets, "LARGEST", 8)
    x = floats(9, 1, 8, 8)
    np.testing.assert_array_equal(net().predict(x), reference(x))
    assert captures(gpu) == 0


def mean_free(rows_independent: bool) -> Predictor:
    """Each row minus the mean of all rows: a row more changes every answer."""
    nodes = [
        helper.make_node("ReduceMean", ["x", "axes"], ["m"], keepdims=1),
        helper.make_node("Sub", ["x", "m"], ["y"]),
    ]
    inputs, outputs = [spec("x", "batch", 4)], [spec("y", "batch", 4)]
    model = build(nodes, inputs, outputs, {"axes": np.array([0])})
    about = manifest(inputs, outputs, rows_independent=rows_independent)
    return predictor(model, about, device="cuda", plan=PLAN)


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5])
def test_a_batch_whose_rows_depend_on_one_another_is_never_padded(gpu: FakeGpu, rows: int) -> None:
    x = floats(rows, 4)
    y = mean_free(rows_independent=False).predict(x)
    np.testing.assert_allclose(y, x - x.mean(axis=0), atol=1e-6)
    assert captures(gpu) == (rows in (1, 2, 4))


def test_padding_would_have_changed_it(gpu: FakeGpu) -> None:
    """The test above can fail."""
    x = floats(3, 4)
    y = mean_free(rows_independent=True).predict(x)
    assert not np.allclose(y, x - x.mean(axis=0), atol=1e-3)


def test_a_file_from_elsewhere_is_never_padded(gpu: FakeGpu) -> None:
    model = predictor(conv_net()[0], device="cuda", plan=PLAN)
    x = floats(3, 1, 8, 8)
    np.testing.assert_array_equal(model.predict(x), reference(x))
    assert captures(gpu) == 0


def test_an_output_without_rows_forbids_padding(gpu: FakeGpu) -> None:
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["total"], keepdims=0),
        helper.make_node("Relu", ["x"], ["y"]),
    ]
    inputs, outputs = [spec("x", "batch", 4)], [spec("total"), spec("y", "batch", 4)]
    about = manifest(inputs, outputs)
    model = predictor(build(nodes, inputs, outputs), about, device="cuda", plan=PLAN)
    for rows in (4, 3):  # the fourth row would still lie there
        x = floats(rows, 4)
        total, y = model.predict(x)
        np.testing.assert_allclose(total, x.sum(), rtol=1e-5)
        np.testing.assert_array_equal(y, np.maximum(x, 0))
    assert captures(gpu) == 1


def test_free_sizes_beside_the_batch_run_plainly(gpu: FakeGpu) -> None:
    inputs, outputs = [spec("x", "batch", "n")], [spec("y", "batch", "n")]
    model = build([helper.make_node("Relu", ["x"], ["y"])], inputs, outputs)
    loaded = predictor(model, manifest(inputs, outputs), device="cuda", plan=PLAN)
    x = floats(2, 5)
    np.testing.assert_array_equal(loaded.predict(x), np.maximum(x, 0))
    assert captures(gpu) == 0


def test_a_fixed_batch_has_one_graph(gpu: FakeGpu) -> None:
    inputs, outputs = [spec("x", 3, 4)], [spec("y", 3, 4)]
    model = build([helper.make_node("Relu", ["x"], ["y"])], inputs, outputs)
    loaded = predictor(model, manifest(inputs, outputs, batch=None), device="cuda", plan=PLAN)
    for seed in range(3):
        x = floats(3, 4, seed=seed)
        np.testing.assert_array_equal(loaded.predict(x), np.maximum(x, 0))
    assert captures(gpu) == 1


def test_a_second_input_without_rows(gpu: FakeGpu) -> None:
    inputs, outputs = [spec("x", "batch", 4), spec("s", 4)], [spec("y", "batch", 4)]
    model = build([helper.make_node("Mul", ["x", "s"], ["y"])], inputs, outputs)
    loaded = predictor(model, manifest(inputs, outputs), device="cuda", plan=PLAN)
    for rows in (1, 3, 3):
        x, s = floats(rows, 4, seed=rows), floats(4, seed=9 + rows)
        np.testing.assert_array_equal(loaded.predict(x, s), x * s)
    assert captures(gpu) == 2


def in_a_thread(model: Predictor, calls: int, wrong: list[np.ndarray], rows: int = 2) -> None:
    """Calls of a thread that is gone afterwards."""
    x = floats(rows, 1, 8, 8)
    expected = reference(x)

    def call() -> None:
        answers = [model.predict(x) for _ in range(calls)]
        wrong.extend(y for y in answers if not np.allclose(y, expected, rtol=1e-6, atol=1e-6))

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()


def test_of_threads_that_come_and_go_after_a_few_calls_late_ones_run_plainly(
    gpu: FakeGpu, log: pytest.LogCaptureFixture
) -> None:
    """ONNX Runtime keeps each thread's graph until the session goes, which is too dear to end each time."""
    model, wrong = net(), list[np.ndarray]()
    for _ in range(captured.MOST_THREADS + 3):
        in_a_thread(model, 2, wrong)
    assert wrong == []
    assert (replays(gpu), len(gpu.runs)) == (2 * captured.MOST_THREADS, 2 * (captured.MOST_THREADS + 3))
    assert (gpu.kept, captures(gpu)) == (captured.MOST_THREADS, 1)
    (warning,) = [record for record in log.records if record.levelno == logging.WARNING]
    assert "test.onnx replays CUDA graphs for 8 threads; calls of further ones run without" in (
        warning.getMessage()
    )


def test_a_thread_that_stays_gets_the_place_of_one_that_is_gone(
    gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The session begins anew, and all that it kept for threads that are gone goes with it."""
    monkeypatch.setattr(captured, "_PATIENCE", 3)
    model, wrong = net(), list[np.ndarray]()
    in_main = floats(2, 1, 8, 8, seed=5)
    model.predict(in_main)
    for _ in range(captured.MOST_THREADS - 1):
        in_a_thread(model, 1, wrong)
    assert (gpu.kept, len(gpu.captures), gpu.alive) == (8, 8, 2)
    in_a_thread(model, 5, wrong)  # plainly three times, and then not
    assert replays(gpu) == 8 + 2
    assert (gpu.kept, len(gpu.captures), gpu.alive) == (1, 9, 2)
    for _ in range(captured.MOST_THREADS - 2):  # the main thread has a place, too
        in_a_thread(model, 1, wrong)
    assert gpu.kept == 7
    np.testing.assert_allclose(model.predict(in_main), reference(in_main), rtol=1e-6, atol=1e-6)
    assert (gpu.kept, len(gpu.captures), captures(gpu)) == (8, 16, 2)
    in_a_thread(model, 3, wrong)
    assert gpu.kept == 8
    assert wrong == []
    assert gpu.cuda.broken == []


def test_of_nine_living_threads_the_ninth_runs_plainly_however_often_it_calls(
    gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch, log: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(captured, "_PATIENCE", 3)
    model, x = net(), floats(2, 1, 8, 8)
    turn = threading.Barrier(captured.MOST_THREADS + 1)
    leave = threading.Event()

    def stay() -> None:
        model.predict(x)
        turn.wait(30)
        leave.wait(30)

    threads = [threading.Thread(target=stay) for _ in range(captured.MOST_THREADS)]
    for thread in threads:
        thread.start()
    turn.wait(30)
    for _ in range(10):
        np.testing.assert_allclose(model.predict(x), reference(x), rtol=1e-6, atol=1e-6)
    assert (replays(gpu), gpu.kept, captures(gpu)) == (8, 8, 1)
    assert len([record for record in log.records if record.levelno == logging.WARNING]) == 1
    leave.set()
    for thread in threads:
        thread.join()
    model.predict(x)
    assert (replays(gpu), gpu.kept, captures(gpu)) == (9, 1, 2)


def test_where_no_graph_can_be_captured_plain_runs_answer_after_one_warning(
    gpu: FakeGpu, log: pytest.LogCaptureFixture
) -> None:
    gpu.refuse_capture = True
    model, x = net(), floats(3, 1, 8, 8)
    for _ in range(3):
        np.testing.assert_array_equal(model.predict(x), reference(x))
    (warning,) = [record for record in log.records if record.levelno == logging.WARNING]
    assert "Batches of 4 run without a CUDA graph" in warning.getMessage()
    assert captures(gpu) == 1


def test_a_graph_that_breaks_gives_way_to_plain_runs(gpu: FakeGpu, log: pytest.LogCaptureFixture) -> None:
    model, x = net(), floats(3, 1, 8, 8)
    gpu.failures = [RuntimeError("CUDA failure 901: operation failed due to a previous error during capture")]
    for _ in range(2):
        np.testing.assert_array_equal(model.predict(x), reference(x))
    (warning,) = [record for record in log.records if record.levelno == logging.WARNING]
    assert "901" in warning.getMessage()


def test_a_call_that_plain_runs_refuse_too_leaves_the_graph(gpu: FakeGpu) -> None:
    model, x = net(), floats(3, 1, 8, 8)
    gpu.failures = [RuntimeError("the input's fault"), RuntimeError("the input's fault")]
    with pytest.raises(InputError):
        model.predict(x)
    np.testing.assert_allclose(model.predict(x), reference(x), rtol=1e-6, atol=1e-6)
    assert captures(gpu) == 1
    assert gpu.runs[-1]["x"] == gpu.runs[0]["x"]


def test_what_cannot_be_bound_runs_plainly_and_says_so(gpu: FakeGpu, log: pytest.LogCaptureFixture) -> None:
    gpu.on_host = {"x": "Cpu"}
    x = floats(3, 1, 8, 8)
    np.testing.assert_allclose(net().predict(x), reference(x), rtol=1e-6, atol=1e-6)
    assert captures(gpu) == 0
    (warning,) = [record for record in log.records if record.levelno == logging.WARNING]
    assert "test.onnx runs without CUDA graphs: not all" in warning.getMessage()
