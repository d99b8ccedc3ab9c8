"""Calls on a GPU that is not there (fake_gpu.py): what is run, copied, handed back and refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from onnx import helper

from nncompile import InputError
from nncompile_runtime import cuda_session
from nncompile_runtime.cuda_session import CudaSession

from .fake_gpu import FakeGpu, GpuTensor, gpu, on_gpu, values
from .gpu_nets import CUDA, adding, net, nonzero, on_cuda, reference
from .graphs import build, doubling, floats, manifest, predictor, spec

__all__ = ["gpu"]


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


def test_tensors_are_run_where_they_lie(gpu: FakeGpu) -> None:
    x = on_gpu(floats(3, 1, 8, 8))
    y = net().predict(x)
    assert gpu.runs == [{"x": x.data_ptr(), "y": y.data_ptr()}]


def test_bindings_are_kept_for_places_that_come_back(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_session, "_MOST_BOUND", 4)
    model, given = net(), [on_gpu(floats(n, 1, 8, 8, seed=n)) for n in (1, 2, 3, 4, 5, 6)]
    given += [given[5][:2], given[5][:3]]  # which begin at one address
    for number in [0, 6, 7, 1, 6, 2, 3, 4, 0, 5, 6, 7, 0]:
        x = given[number]
        np.testing.assert_array_equal(values(model.predict(x)), reference(values(x)))
        assert isinstance(model.session, CudaSession)
        assert len(model.session._bound) <= 4


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


def test_a_negated_view_is_not_taken_for_what_lies_in_its_memory(gpu: FakeGpu) -> None:
    model, x = net(), floats(2, 1, 8, 8)
    for _ in range(2):
        given = torch._neg_view(torch.from_numpy(x)).as_subclass(GpuTensor)
        assert given.is_neg()
        assert given.is_contiguous()
        np.testing.assert_array_equal(values(model.predict(given)), reference(-x))


@pytest.mark.parametrize("plan", [{}, {"cuda_graph": True}, {"micro_batch": 2}])
@pytest.mark.parametrize("on_host", [{}, {"x": "Cpu"}])
def test_a_tensor_that_requires_grad_gives_one_that_does_not(
    gpu: FakeGpu, plan: dict[str, Any], on_host: dict[str, str]
) -> None:
    gpu.on_host = on_host
    model, x = net(**plan), floats(3, 1, 8, 8)
    for _ in range(2):
        y = model.predict(on_gpu(x).requires_grad_())
        assert not y.requires_grad
        np.testing.assert_allclose(values(y), reference(x), rtol=1e-6, atol=1e-6)
    assert model.predict(on_gpu(x[:0]).requires_grad_()).shape == (0, 5)


def test_bfloat16_comes_and_goes_as_such(gpu: FakeGpu) -> None:
    node = helper.make_node("Add", ["x", "x"], ["y"])
    about = manifest([spec("x", "batch", 4, dtype="bfloat16")], [spec("y", "batch", 4, dtype="bfloat16")])
    graph = build([node], [spec("x", "batch", 4)], [spec("y", "batch", 4)])  # of float32
    model = predictor(graph, about, device="cuda", plan=CUDA)
    x = torch.arange(8.0).reshape(2, 4).to(torch.bfloat16)
    y = model.predict(x.as_subclass(GpuTensor))
    assert y.dtype is torch.bfloat16
    assert torch.equal(y.cpu(), 2 * x)


def test_several_inputs(gpu: FakeGpu) -> None:
    a, b = floats(5, 3), floats(5, 3, seed=1)
    model = adding()
    np.testing.assert_array_equal(model.predict(a, b), a + b)
    np.testing.assert_array_equal(values(model.predict(on_gpu(a), b=on_gpu(b))), a + b)


@pytest.mark.parametrize("plan", [{}, {"cuda_graph": True}])
def test_no_inputs(gpu: FakeGpu, plan: dict[str, Any]) -> None:
    node = helper.make_node("Constant", [], ["y"], value_floats=[1.0, 2.0])
    model = on_cuda([node], [], [spec("y", 2)], plan=plan, batch=None)
    for _ in range(2):
        np.testing.assert_array_equal(model.predict(), [1, 2])


def test_inputs_in_two_places_are_refused(gpu: FakeGpu) -> None:
    a = floats(2, 3)
    with pytest.raises(InputError, match="'b' is on the host, and 'a' on the GPU") as caught:
        adding().predict(on_gpu(a), a)
    assert "all on the host" in caught.value.remedy


def test_inputs_in_two_places_are_refused_after_others_were_accepted(gpu: FakeGpu) -> None:
    a, model = floats(2, 3), adding()
    for there in (on_gpu(a), torch.from_numpy(a)):
        np.testing.assert_array_equal(values(model.predict(there, there)), 2 * a)
    with pytest.raises(InputError, match="'b' is on the host, and 'a' on the GPU"):
        model.predict(on_gpu(a), torch.from_numpy(a))
    with pytest.raises(InputError, match="'a' is on the host, and 'b' on the GPU"):
        model.predict(torch.from_numpy(a), on_gpu(a))


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
    """An array of a library that is neither torch nor CuPy, on a device of DLPack's number `kind`."""

    def __init__(self, kind: int) -> None:
        self.kind = kind

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.kind, 0

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return floats(2, 4)


def test_an_array_of_another_library_is_not_copied_from_its_gpu_unasked() -> None:
    with pytest.raises(InputError, match=r"a .*ElsewhereArray that is not on the host") as caught:
        doubling().predict(ElsewhereArray(2))
    assert "torch.from_dlpack(value) or cupy.from_dlpack(value)" in caught.value.remedy
    np.testing.assert_array_equal(doubling().predict(ElsewhereArray(1)), 2 * floats(2, 4))
    with pytest.raises(InputError, match="Element 0 of the stream is not on the host") as caught:
        list(doubling().predict_batches([ElsewhereArray(2)], batch_size=2))
    assert "torch.from_dlpack(value) or cupy.from_dlpack(value)" in caught.value.remedy


def test_an_array_without_dlpack_is_not_copied_from_its_gpu_unasked() -> None:
    """As numba's are."""

    class Array:
        @property
        def __cuda_array_interface__(self) -> dict[str, Any]:
            return {}

        def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
            return floats(2, 4)

    with pytest.raises(InputError, match="Array that is not on the host") as caught:
        doubling().predict(Array())
    assert "cupy.asarray(value)" in caught.value.remedy


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
    model, x = nonzero(), np.array([0, 3, 0, 2], np.float32)
    np.testing.assert_array_equal(model.predict(x), [[1, 3]])
    y = model.predict(on_gpu(x))
    assert type(y) is GpuTensor
    np.testing.assert_array_equal(values(y), [[1, 3]])
    assert values(model.predict(on_gpu(np.zeros(4, np.float32)))).shape == (1, 0)


@pytest.mark.parametrize("memory", ["Cpu", "CudaPinned"])
@pytest.mark.parametrize("port", ["x", "y"])
@pytest.mark.parametrize("plan", [{}, {"cuda_graph": True}])
def test_what_onnx_runtime_wants_on_the_host_is_not_bound(
    gpu: FakeGpu, plan: dict[str, Any], port: str, memory: str
) -> None:
    """Bound, an input would be read before the caller's stream has made it, and in the first call alone."""
    gpu.on_host = {port: memory}
    model, late = net(**plan), on_gpu(np.zeros((2, 1, 8, 8), np.float32))
    for seed in range(2):
        x = floats(2, 1, 8, 8, seed=seed)
        gpu.cuda.queue(0, lambda x=x: late.as_subclass(torch.Tensor).copy_(torch.from_numpy(x)))
        y = model.predict(late)
        assert type(y) is GpuTensor
        np.testing.assert_array_equal(values(y), reference(x))
        np.testing.assert_array_equal(model.predict(x), reference(x))
    assert gpu.runs == []


@pytest.mark.parametrize("plan", [{}, {"cuda_graph": True}])
def test_an_output_that_is_an_input_is_not_bound(gpu: FakeGpu, plan: dict[str, Any]) -> None:
    """Bound, ONNX Runtime leaves its memory as it was."""
    inputs, outputs = [spec("x", "batch", 4)], [spec("x", "batch", 4), spec("y", "batch", 4)]
    model = on_cuda([helper.make_node("Neg", ["x"], ["y"])], inputs, outputs, plan=plan)
    x = floats(3, 4)
    for given in (x, on_gpu(x)):
        same, negative = model.predict(given)
        np.testing.assert_array_equal(values(same), x)
        np.testing.assert_array_equal(values(negative), -x)


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
    np.testing.assert_array_equal(values(y), reference(x))


def test_rows_that_depend_on_one_another_are_not_cut(gpu: FakeGpu) -> None:
    node = helper.make_node("Softmax", ["x"], ["y"], axis=0)
    specs = [spec("x", "batch", 4)], [spec("y", "batch", 4)]
    model = on_cuda([node], *specs, plan={"micro_batch": 2}, rows_independent=False)
    x = floats(5, 4)
    e = np.exp(x - x.max(axis=0))
    np.testing.assert_allclose(model.predict(x), e / e.sum(axis=0), rtol=1e-6)
    assert len(gpu.runs) == 1
