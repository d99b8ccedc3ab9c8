"""What waits for what in calls on a GPU that is not there: streams of CUDA, and streams of batches."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from nncompile import InputError
from nncompile_runtime import device_runner
from nncompile_runtime.streams import AT_ONCE

from .fake_driver import CAPTURE_IMPLICIT, Queue
from .fake_gpu import FakeGpu, GpuTensor, gpu, on_gpu, values
from .gpu_nets import net, nonzero, reference
from .graphs import floats

__all__ = ["gpu"]


@pytest.mark.parametrize("rows", [1, 2, 3, 7])
def test_tensors_stay_on_the_gpu_and_nothing_waits(gpu: FakeGpu, rows: int) -> None:
    x = floats(rows, 1, 8, 8)
    model = net()
    gpu.cuda.calls.clear()
    y = model.predict(on_gpu(x))
    assert type(y) is GpuTensor
    copies = {name for name in gpu.cuda.calls if "Memcpy" in name or "Synchronize" in name}
    assert copies == set()
    np.testing.assert_array_equal(values(y), reference(x))


def test_a_tensor_that_the_callers_stream_has_not_made_yet(gpu: FakeGpu) -> None:
    x, late = floats(3, 1, 8, 8), on_gpu(np.full((3, 1, 8, 8), np.nan, np.float32))
    gpu.cuda.queue(0, lambda: late.as_subclass(torch.Tensor).copy_(torch.from_numpy(x)))
    np.testing.assert_array_equal(values(net().predict(late)), reference(x))


def test_memory_is_used_again_only_after_the_run(gpu: FakeGpu) -> None:
    """The caller frees the input right after the call, and something later on its stream overwrites it."""
    x = floats(3, 1, 8, 8)
    given = on_gpu(x)
    y = net().predict(given)
    gpu.cuda.queue(0, lambda: given.as_subclass(torch.Tensor).fill_(np.nan))
    np.testing.assert_array_equal(values(y), reference(x))


@pytest.mark.parametrize("asked", ["as compiled code asks", "as users ask"])
def test_the_stream_is_the_callers_current_one(
    gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch, asked: str
) -> None:
    if asked == "as users ask":  # where a torch does not have the other
        monkeypatch.delattr(torch._C, "_cuda_getCurrentRawStream")
    side = 5
    gpu.cuda.queues[side] = Queue()
    monkeypatch.setattr(GpuTensor, "stream", side)
    x, late = floats(2, 1, 8, 8), on_gpu(np.zeros((2, 1, 8, 8), np.float32))
    gpu.cuda.queue(side, lambda: late.as_subclass(torch.Tensor).copy_(torch.from_numpy(x)))
    np.testing.assert_array_equal(values(net().predict(late)), reference(x))


@pytest.mark.parametrize("plan", [{}, {"cuda_graph": True}, {"micro_batch": 2}])
def test_a_result_is_written_only_when_its_memory_is_free(gpu: FakeGpu, plan: dict[str, Any]) -> None:
    gpu.cuda.eager = True
    x, late = floats(3, 1, 8, 8), on_gpu(np.full((3, 1, 8, 8), np.nan, np.float32))
    model = net(**plan)
    gpu.cuda.queue(0, lambda: late.as_subclass(torch.Tensor).copy_(torch.from_numpy(x)))
    np.testing.assert_allclose(values(model.predict(late)), reference(x), rtol=1e-6, atol=1e-6)


def test_a_result_of_unknown_shape_too(gpu: FakeGpu) -> None:
    gpu.cuda.eager = True
    y = nonzero().predict(on_gpu(np.array([0, 3, 0, 2], np.float32)))
    np.testing.assert_array_equal(values(y), [[1, 3]])


def test_a_late_input_of_a_graph_with_unknown_shapes(gpu: FakeGpu) -> None:
    late = on_gpu(np.ones(4, np.float32))
    ready = torch.tensor([0.0, 3, 0, 2])
    gpu.cuda.queue(0, lambda: late.as_subclass(torch.Tensor).copy_(ready))
    np.testing.assert_array_equal(values(nonzero().predict(late)), [[1, 3]])


@pytest.mark.parametrize("plan", [{}, {"cuda_graph": True}])
@pytest.mark.parametrize("said", [1, CAPTURE_IMPLICIT])
def test_inside_a_capture_of_the_callers(gpu: FakeGpu, plan: dict[str, Any], said: int) -> None:
    """Ordered behind it, our stream would be captured too, and nothing would be computed."""
    model, x = net(**plan), floats(1, 1, 8, 8)
    gpu.cuda.callers_captures[0] = said
    with pytest.raises(InputError, match="captures a CUDA graph"):
        model.predict(on_gpu(x))
    assert gpu.runs == []
    gpu.cuda.callers_captures.clear()
    np.testing.assert_array_equal(values(model.predict(on_gpu(x))), reference(x))


PLANS = [{}, {"cuda_graph": True}]


@pytest.fixture
def apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """All calls cross on streams of their own, as large ones do."""
    monkeypatch.setattr(device_runner, "_MOST_DIRECT", 0)


@pytest.mark.usefixtures("apart")
@pytest.mark.parametrize("plan", PLANS)
def test_kernels_do_not_wait_for_the_copies_back_of_calls_before(gpu: FakeGpu, plan: dict[str, Any]) -> None:
    """Nor do the copies of the two directions wait for one another."""
    model, x = net(**plan), floats(3, 1, 8, 8)
    model.predict(x)
    first, second = model._begin(x), model._begin(-x)
    for stream, queue in gpu.cuda.queues.items():
        if stream not in gpu.cuda.streams["gpu to host"]:
            queue.run(len(queue.work))
    computing = {int(options["user_compute_stream"]) for options in gpu.created}
    assert not computing & gpu.cuda.streams["gpu to host"]
    assert gpu.cuda.waiting["gpu to host"] == 2
    assert gpu.cuda.waiting["host to gpu"] == gpu.cuda.waiting["gpu to gpu"] == 0
    assert len(gpu.runs) == 3
    for end, sent in ((first, x), (second, -x)):
        np.testing.assert_allclose(end(), reference(sent), rtol=1e-6, atol=1e-6)


@pytest.mark.usefixtures("apart")
@pytest.mark.parametrize("plan", PLANS)
def test_a_copy_back_waits_for_what_it_copies(gpu: FakeGpu, plan: dict[str, Any]) -> None:
    """And not for the calls after it, whose inputs may not even have crossed."""
    model, x = net(**plan), floats(3, 1, 8, 8)
    model.predict(x)
    first, second = model._begin(x), model._begin(-x)
    np.testing.assert_allclose(first(), reference(x), rtol=1e-6, atol=1e-6)
    assert gpu.cuda.waiting["host to gpu"] == gpu.cuda.waiting["gpu to host"] == 1
    np.testing.assert_allclose(second(), reference(-x), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("direct", [0, 2**16])
@pytest.mark.parametrize("plan", [*PLANS, {"micro_batch": 2}])
def test_answers_in_memory_that_is_used_again(
    gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch, plan: dict[str, Any], direct: int
) -> None:
    """More calls under way than memory is kept for, ended out of order, and new ones begun between."""
    monkeypatch.setattr(device_runner, "_MOST_DIRECT", direct)
    model, begun, answers = net(**plan), [], []
    for seed in range(12):
        x = floats(3, 1, 8, 8, seed=seed)
        begun.append((x, model._begin(x)))
        if len(begun) > AT_ONCE + 1:
            x, end = begun.pop(1)
            answers.append((x, end()))
    answers += [(x, end()) for x, end in begun]
    for x, answer in answers:
        np.testing.assert_allclose(answer, reference(x), rtol=1e-6, atol=1e-6)


CALL = 2 * 4 * (64 + 5)  # bytes of two rows of the network's


@pytest.mark.parametrize(("plan", "direct"), [({"cuda_graph": True}, CALL), ({}, 2**16)])
@pytest.mark.parametrize("rows", [1, 2, 3])
def test_small_calls_of_a_graph_cross_on_its_stream_into_its_memory(
    gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch, plan: dict[str, Any], direct: int, rows: int
) -> None:
    monkeypatch.setattr(device_runner, "_MOST_DIRECT", direct)
    model, x = net(**plan), floats(rows, 1, 8, 8)
    for call in range(3):
        gpu.cuda.streams.clear()
        np.testing.assert_allclose(model.predict(x + call), reference(x + call), rtol=1e-6, atol=1e-6)
    computing = {int(options["user_compute_stream"]) for options in gpu.created}
    kinds = {kind for kind, streams in gpu.cuda.streams.items() if streams & computing}
    if not plan:
        assert kinds == set()
    else:
        assert kinds == ({"host to gpu", "gpu to host"} if rows <= 2 else {"gpu to gpu"})


def test_streams_of_batches_are_two_ahead(gpu: FakeGpu) -> None:
    x = floats(10, 1, 8, 8)
    taken: list[int] = []

    def source() -> Any:
        for n in range(0, 10, 2):
            taken.append(n)
            yield x[n : n + 2]

    stream = net().predict_batches(source(), batch_size=2)
    first = next(stream)
    assert taken == [0, 2, 4]  # one copies in, one is computed, one copies back
    assert len(gpu.runs) == 3
    np.testing.assert_array_equal(np.concatenate([first, *stream]), reference(x))


def test_two_streams_at_once_do_not_wait_for_one_another(gpu: FakeGpu) -> None:
    x = floats(12, 1, 8, 8)
    model = net()
    streams = [model.predict_batches(x, batch_size=3) for _ in range(4)]
    found = [[next(stream) for stream in streams] for _ in range(4)]
    for column in zip(*found, strict=True):
        np.testing.assert_array_equal(np.concatenate(column), reference(x))
    assert len(gpu.cuda.blocks) == 6  # of three calls, here and on the GPU; the others' were given back


def test_an_error_in_a_stream_names_the_element_and_comes_behind_the_answers_before_it(gpu: FakeGpu) -> None:
    x, answers = floats(4, 1, 8, 8), []
    with pytest.raises(InputError, match="element 2 of the stream"):
        answers.extend(net().predict_batches([x[:2], x[2:], floats(2, 1, 8, 9)], batch_size=2))
    np.testing.assert_array_equal(np.concatenate(answers), reference(x))


def test_a_source_that_fails_does_so_behind_the_answers_before_it(gpu: FakeGpu) -> None:
    x = floats(2, 1, 8, 8)

    def source() -> Any:
        yield x
        raise OSError("the disk is gone")

    stream = net().predict_batches(source(), batch_size=2)
    np.testing.assert_array_equal(next(stream), reference(x))
    with pytest.raises(OSError, match="the disk is gone"):
        next(stream)
