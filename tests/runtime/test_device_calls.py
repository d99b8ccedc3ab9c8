"""Calls on a GPU that is not there (fake_gpu.py): what is copied, what waits for what, what is refused."""

from __future__ import annotations

import gc
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from onnx import helper

from nncompile import DeviceError, InputError, OutOfMemoryError
from nncompile_runtime.predictor import Predictor

from .fake_gpu import FakeGpu, GpuTensor, Queue, gpu, on_gpu, values
from .graphs import build, conv_net, doubling, floats, manifest, predictor, spec

__all__ = ["gpu"]
CUDA = {"provider": "cuda"}


def net(**plan: Any) -> Predictor:
    """The convolutional network on the GPU."""
    model, inputs, outputs = conv_net()
    return predictor(model, manifest(inputs, outputs), device="cuda", plan={**CUDA, **plan})


def reference(x: np.ndarray) -> np.ndarray:
    """Its answer on the CPU."""
    answer: np.ndarray = predictor(conv_net()[0]).predict(x)
    return answer


@pytest.mark.parametrize("rows", [1, 2, 3, 7])
def test_arrays(gpu: FakeGpu, rows: int) -> None:
    x = floats(rows, 1, 8, 8)
    y = net().predict(x)
    assert type(y) is np.ndarray
    np.testing.assert_array_equal(y, reference(x))
    assert gpu.cuda.depth == 0


def test_arrays_of_growing_and_shrinking_batches(gpu: FakeGpu) -> None:
    model = net()
    kept = [(x, model.predict(x)) for x in (floats(n, 1, 8, 8, seed=n) for n in (2, 5, 1, 9, 3))]
    for x, y in kept:  # no answer lies in memory that a later call wrote to
        np.testing.assert_array_equal(y, reference(x))


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


def test_tensors_are_run_where_they_lie(gpu: FakeGpu) -> None:
    x = on_gpu(floats(3, 1, 8, 8))
    y = net().predict(x)
    assert gpu.runs == [{"x": x.data_ptr(), "y": y.data_ptr()}]


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


def test_the_stream_is_the_callers_current_one(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    side = 5
    gpu.cuda.queues[side] = Queue()
    monkeypatch.setattr(GpuTensor, "stream", side)
    x, late = floats(2, 1, 8, 8), on_gpu(np.zeros((2, 1, 8, 8), np.float32))
    gpu.cuda.queue(side, lambda: late.as_subclass(torch.Tensor).copy_(torch.from_numpy(x)))
    np.testing.assert_array_equal(values(net().predict(late)), reference(x))


def test_tensors_call_after_call_the_short_way(gpu: FakeGpu) -> None:
    model = net()
    for seed in range(4):
        x = floats(2, 1, 8, 8, seed=seed)
        np.testing.assert_array_equal(values(model.predict(on_gpu(x))), reference(x))
        np.testing.assert_array_equal(model.predict(x), reference(x))


def test_a_tensor_with_gaps_or_of_another_dtype_is_made_fit_on_the_gpu(gpu: FakeGpu) -> None:
    x = floats(6, 1, 8, 8)
    model = net()
    model.predict(on_gpu(x[:3]))
    np.testing.assert_array_equal(values(model.predict(on_gpu(x)[::2])), reference(x[::2]))
    half = x[:3].astype(np.float16)
    np.testing.assert_array_equal(values(model.predict(on_gpu(half))), reference(half.astype(np.float32)))
    with pytest.raises(InputError, match="float64"):
        model.predict(on_gpu(x[:3].astype(np.float64)))


def test_bfloat16_comes_and_goes_as_such(gpu: FakeGpu) -> None:
    node = helper.make_node("Add", ["x", "x"], ["y"])
    specs = [spec("x", "batch", 4)], [spec("y", "batch", 4)]
    about = manifest([spec("x", "batch", 4, dtype="bfloat16")], [spec("y", "batch", 4, dtype="bfloat16")])
    model = predictor(build([node], *specs), about, device="cuda", plan=CUDA)
    x = torch.arange(8.0).reshape(2, 4).to(torch.bfloat16)
    y = model.predict(x.as_subclass(GpuTensor))
    assert y.dtype is torch.bfloat16
    assert torch.equal(y.cpu(), 2 * x)


def test_several_inputs(gpu: FakeGpu) -> None:
    a, b = floats(5, 3), floats(5, 3, seed=1)
    model = _adding()
    np.testing.assert_array_equal(model.predict(a, b), a + b)
    np.testing.assert_array_equal(values(model.predict(on_gpu(a), b=on_gpu(b))), a + b)


def _adding() -> Predictor:
    inputs = [spec("a", "batch", 3), spec("b", "batch", 3)]
    outputs = [spec("y", "batch", 3)]
    model = build([helper.make_node("Add", ["a", "b"], ["y"])], inputs, outputs)
    return predictor(model, manifest(inputs, outputs), device="cuda", plan=CUDA)


def test_inputs_in_two_places_are_refused(gpu: FakeGpu) -> None:
    a = floats(2, 3)
    with pytest.raises(InputError, match="'b' is on the host, and 'a' on the GPU") as caught:
        _adding().predict(on_gpu(a), a)
    assert "all on the host" in caught.value.remedy


def test_a_tensor_on_another_gpu_is_refused(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    model = net()
    x = on_gpu(floats(2, 1, 8, 8))
    model.predict(x)
    monkeypatch.setattr(GpuTensor, "number", 1)
    with pytest.raises(InputError, match="'x' is on cuda:1, and the model runs on cuda:0") as caught:
        model.predict(x)
    assert "x.to('cuda:0')" in caught.value.remedy


def test_a_tensor_on_a_gpu_for_a_model_on_the_cpu_is_refused(gpu: FakeGpu) -> None:
    model = doubling()
    model.predict(torch.zeros(2, 4))
    with pytest.raises(InputError, match="'x' is on cuda:0, and the model runs on cpu") as caught:
        model.predict(on_gpu(floats(2, 4)))
    assert "x.cpu()" in caught.value.remedy
    assert "device='cuda:0'" in caught.value.remedy


class ElsewhereArray:
    """An array of a library that is not torch, on a device of DLPack's number `kind`."""

    def __init__(self, kind: int) -> None:
        self.kind = kind

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.kind, 0

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return floats(2, 4)


def test_an_array_of_another_library_is_not_copied_from_its_gpu_unasked() -> None:
    with pytest.raises(InputError, match=r"a .*ElsewhereArray that is not on the host") as caught:
        doubling().predict(ElsewhereArray(2))
    assert "torch.from_dlpack" in caught.value.remedy
    np.testing.assert_array_equal(doubling().predict(ElsewhereArray(1)), 2 * floats(2, 4))


def test_tensors_of_the_host_come_back_on_the_host(gpu: FakeGpu) -> None:
    x = floats(3, 1, 8, 8)
    y = net().predict(torch.from_numpy(x))
    assert type(y) is torch.Tensor
    np.testing.assert_array_equal(y.numpy(), reference(x))


@pytest.mark.parametrize("plan", [{}, {"cuda_graph": True}, {"micro_batch": 2}])
def test_empty_batches(gpu: FakeGpu, plan: dict[str, Any]) -> None:
    model, x = net(**plan), floats(0, 1, 8, 8)
    assert model.predict(x).shape == (0, 5)
    y = model.predict(on_gpu(x))
    assert type(y) is GpuTensor
    assert y.shape == (0, 5)


def test_outputs_of_shapes_that_only_the_run_tells(gpu: FakeGpu) -> None:
    inputs = [spec("x", "n", dtype="float32")]
    outputs = [spec("y", "rank", "hits", dtype="int64")]
    graph = build([helper.make_node("NonZero", ["x"], ["y"])], inputs, outputs)
    model = predictor(graph, manifest(inputs, outputs, batch=None), device="cuda", plan=CUDA)
    x = np.array([0, 3, 0, 2], np.float32)
    np.testing.assert_array_equal(model.predict(x), [[1, 3]])
    y = model.predict(on_gpu(x))
    assert type(y) is GpuTensor
    np.testing.assert_array_equal(values(y), [[1, 3]])
    assert values(model.predict(on_gpu(np.zeros(4, np.float32)))).shape == (1, 0)


@pytest.mark.parametrize("plan", [{}, {"cuda_graph": True}, {"micro_batch": 2}])
def test_a_result_is_written_only_when_its_memory_is_free(gpu: FakeGpu, plan: dict[str, Any]) -> None:
    gpu.cuda.eager = True
    x, late = floats(3, 1, 8, 8), on_gpu(np.full((3, 1, 8, 8), np.nan, np.float32))
    model = net(**plan)
    gpu.cuda.queue(0, lambda: late.as_subclass(torch.Tensor).copy_(torch.from_numpy(x)))
    np.testing.assert_allclose(values(model.predict(late)), reference(x), rtol=1e-6, atol=1e-6)


def test_a_result_of_unknown_shape_too(gpu: FakeGpu) -> None:
    gpu.cuda.eager = True
    inputs, outputs = [spec("x", "n")], [spec("y", "rank", "hits", dtype="int64")]
    graph = build([helper.make_node("NonZero", ["x"], ["y"])], inputs, outputs)
    model = predictor(graph, manifest(inputs, outputs, batch=None), device="cuda", plan=CUDA)
    np.testing.assert_array_equal(
        values(model.predict(on_gpu(np.array([0, 3.0, 0, 2], np.float32)))), [[1, 3]]
    )


def test_a_late_input_of_a_graph_with_unknown_shapes(gpu: FakeGpu) -> None:
    inputs, outputs = [spec("x", "n")], [spec("y", "rank", "hits", dtype="int64")]
    graph = build([helper.make_node("NonZero", ["x"], ["y"])], inputs, outputs)
    model = predictor(graph, manifest(inputs, outputs, batch=None), device="cuda", plan=CUDA)
    late = on_gpu(np.ones(4, np.float32))
    ready = torch.tensor([0.0, 3, 0, 2])
    gpu.cuda.queue(0, lambda: late.as_subclass(torch.Tensor).copy_(ready))
    np.testing.assert_array_equal(values(model.predict(late)), [[1, 3]])


def test_a_call_that_is_too_large_for_pinned_memory(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nncompile_runtime.device_runner._MOST_STAGED", 1000)
    x = floats(9, 1, 8, 8)
    np.testing.assert_array_equal(net().predict(x), reference(x))
    assert gpu.runs == []


@pytest.mark.parametrize("place", [lambda x: x, on_gpu])
def test_pieces(gpu: FakeGpu, place: Any) -> None:
    x = floats(7, 1, 8, 8)
    y = net(micro_batch=3).predict(place(x))
    assert len(gpu.runs) == 3
    np.testing.assert_array_equal(y if isinstance(y, np.ndarray) else values(y), reference(x))


def test_rows_that_depend_on_one_another_are_not_cut(gpu: FakeGpu) -> None:
    node = helper.make_node("Softmax", ["x"], ["y"], axis=0)
    specs = [spec("x", "batch", 4)], [spec("y", "batch", 4)]
    about = manifest(*specs, rows_independent=False)
    model = predictor(build([node], *specs), about, device="cuda", plan={**CUDA, "micro_batch": 2})
    x = floats(5, 4)
    e = np.exp(x - x.max(axis=0))
    np.testing.assert_allclose(model.predict(x), e / e.sum(axis=0), rtol=1e-6)
    assert len(gpu.runs) == 1


def test_inside_a_capture_of_the_callers(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    with pytest.raises(InputError, match="captures a CUDA graph"):
        net().predict(on_gpu(floats(1, 1, 8, 8)))


def test_streams_of_batches_are_one_ahead(gpu: FakeGpu) -> None:
    x = floats(10, 1, 8, 8)
    taken: list[int] = []

    def source() -> Any:
        for n in range(0, 10, 2):
            taken.append(n)
            yield x[n : n + 2]

    stream = net().predict_batches(source(), batch_size=2)
    first = next(stream)
    assert taken == [0, 2]
    assert len(gpu.runs) == 2
    np.testing.assert_array_equal(np.concatenate([first, *stream]), reference(x))


def test_two_streams_at_once_do_not_wait_for_one_another(gpu: FakeGpu) -> None:
    x = floats(12, 1, 8, 8)
    model = net()
    streams = [model.predict_batches(x, batch_size=3) for _ in range(4)]
    found = [[next(stream) for stream in streams] for _ in range(4)]
    for column in zip(*found, strict=True):
        np.testing.assert_array_equal(np.concatenate(column), reference(x))
    assert len(gpu.cuda.blocks) == 4  # of two calls, on the host and on the GPU; the others' were given back


def test_an_error_in_a_stream_names_the_element(gpu: FakeGpu) -> None:
    with pytest.raises(InputError, match="element 1 of the stream"):
        list(net().predict_batches([floats(2, 1, 8, 8), floats(2, 1, 8, 9)], batch_size=2))


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


ARENA = (
    "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Non-zero status code returned while running Conv node. "
    "Name:'c' Status Message: bfc_arena.cc:376 void* onnxruntime::BFCArena::AllocateRawInternal(size_t, "
)
FULL = [
    (
        f"{ARENA}onnxruntime::Stream*) Failed to allocate memory for requested buffer of size 4194304",
        "4.0 MiB",
    ),
    (f"{ARENA}...) Available memory of 512 is smaller than requested bytes of 2097152", "2.0 MiB"),
    ("CUDA failure 2: out of memory ; GPU=0 ; expr=cudaMalloc((void**)&p, size);", "to run"),
    ("CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED ; GPU=0", "to run"),
    ("CUDNN_STATUS_ALLOC_FAILED", "to run"),
]


@pytest.mark.parametrize("place", [lambda x: x, on_gpu])
@pytest.mark.parametrize(("text", "says"), FULL)
def test_out_of_memory_is_an_error_of_its_own_and_the_next_call_succeeds(
    gpu: FakeGpu, text: str, says: str, place: Any
) -> None:
    model, x = net(), floats(2, 1, 8, 8)
    gpu.failures = [RuntimeError(text)]
    with pytest.raises(OutOfMemoryError, match=rf"cuda:0 has too little memory.*{says}") as caught:
        model.predict(place(floats(64, 1, 8, 8)))
    assert isinstance(caught.value, DeviceError)
    assert "micro_batch" in caught.value.remedy
    assert len(gpu.created) == 2  # a session with an empty arena
    assert gpu.alive == 1  # and the other one gone before
    assert gpu.created[0] == gpu.created[1]
    y = model.predict(place(x))
    np.testing.assert_array_equal(y if isinstance(y, np.ndarray) else values(y), reference(x))
    assert gpu.cuda.depth == 0


@pytest.mark.parametrize("staged", [2**28, 0])
def test_a_session_that_cannot_begin_anew_at_once_does_so_in_the_next_call(
    gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch, staged: int
) -> None:
    model, x = net(), floats(2, 1, 8, 8)
    gpu.failures = [RuntimeError(FULL[0][0])]
    with monkeypatch.context() as full:
        full.setattr(type(model.session), "_created", _raise)
        with pytest.raises(OutOfMemoryError):
            model.predict(x)
        monkeypatch.setattr("nncompile_runtime.device_runner._MOST_STAGED", staged)
        with pytest.raises(OutOfMemoryError, match="could not be started"):
            model.predict(x)
    np.testing.assert_array_equal(model.predict(x), reference(x))


def _raise(*_: Any) -> None:
    raise RuntimeError(FULL[0][0])


def test_no_memory_for_the_copies(gpu: FakeGpu) -> None:
    model, x = net(), floats(2, 1, 8, 8)
    gpu.cuda.limit = 2000
    with pytest.raises(OutOfMemoryError):
        model.predict(floats(64, 1, 8, 8))
    np.testing.assert_array_equal(model.predict(x), reference(x))


def test_no_memory_for_torchs_results(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = net(), on_gpu(floats(2, 1, 8, 8))
    with monkeypatch.context() as full:
        full.setattr(torch, "empty", _torch_is_full)
        with pytest.raises(OutOfMemoryError):
            model.predict(x)
    assert model.predict(x).shape == (2, 5)


def _torch_is_full(*_: Any, **__: Any) -> None:
    raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")


IN_GATHER = "Non-zero status code returned while running Gather node. core/providers/cuda"


@pytest.mark.parametrize(
    "text",
    [
        "CUDA failure 700: an illegal memory access was encountered ; GPU=0 ; expr=cudaStreamSynchronize",
        "CUDNN failure 5000: CUDNN_STATUS_EXECUTION_FAILED ; GPU=0",
        "CUBLAS failure 13: CUBLAS_STATUS_EXECUTION_FAILED ; GPU=0",
        "CUDNN error executing cudnnConvolutionForward",
    ],
)
def test_an_error_of_cuda_is_the_gpus(gpu: FakeGpu, text: str) -> None:
    gpu.failures = [RuntimeError(f"{IN_GATHER}/cuda_call.cc:129 {text}")]
    with pytest.raises(DeviceError, match=r"cuda:0 failed: .*\. Start the process again"):
        net().predict(floats(2, 1, 8, 8))


def test_an_error_of_the_graph_is_the_inputs(gpu: FakeGpu) -> None:
    gpu.failures = [RuntimeError(f"{IN_GATHER}/tensor/gather.cc:9 : index out of range")]
    with pytest.raises(InputError, match="index out of range"):
        net().predict(floats(2, 1, 8, 8))
    assert len(gpu.created) == 1


def test_all_is_given_back(gpu: FakeGpu) -> None:
    model = net(cuda_graph=True)
    model.predict(floats(3, 1, 8, 8))
    model.predict(floats(300, 1, 8, 8))
    del model
    gc.collect()
    assert gpu.cuda.blocks == {}
    assert set(gpu.cuda.queues) == {0}
    assert gpu.alive == 0
