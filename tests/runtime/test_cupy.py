"""CuPy's arrays on a GPU that is not there (fake_cupy.py): run where they lie, on CuPy's current stream."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
import torch
from onnx import helper

from nncompile import InputError, OutOfMemoryError
from nncompile_runtime import cupy_arrays

from .fake_cupy import Device, FakeCupy, cupy, ndarray, values
from .fake_driver import Queue
from .fake_gpu import FakeGpu, gpu, on_gpu
from .gpu_nets import CUDA, adding, net, nonzero, reference
from .graphs import build, doubling, floats, manifest, predictor, spec

__all__ = ["cupy", "gpu"]

PLANS = [{}, {"cuda_graph": True}, {"micro_batch": 2}]


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("rows", [1, 2, 3, 7])
def test_arrays_stay_on_the_gpu_and_nothing_waits(cupy: FakeCupy, rows: int, plan: dict[str, Any]) -> None:
    x, model = floats(rows, 1, 8, 8), net(**plan)
    for call in range(3):  # the second one goes the short way
        given = cupy.on(0, x + call)
        cupy.gpu.cuda.calls.clear()
        y = model.predict(given)
        assert type(y) is ndarray
        assert y.device.id == 0
        assert not cupy.gpu.cuda.streams.keys() & {"host to gpu", "gpu to host"}
        waits = [name for name in cupy.gpu.cuda.calls if "Synchronize" in name]
        assert not waits or (call == 0 and plan)  # until a graph's memory is set to 0, once
        np.testing.assert_allclose(values(y), reference(x + call), rtol=1e-6, atol=1e-6)
    assert Device.current == 1
    assert cupy.gpu.cuda.depth == 0


def test_they_are_run_where_they_lie(cupy: FakeCupy) -> None:
    model, x = net(), cupy.on(0, floats(3, 1, 8, 8))
    for _ in range(2):
        y = model.predict(x)
        assert cupy.gpu.runs.pop() == {"x": x.data.ptr, "y": y.data.ptr}


@pytest.mark.parametrize("plan", PLANS)
def test_on_the_current_stream_of_the_arrays_device(cupy: FakeCupy, plan: dict[str, Any]) -> None:
    """The input is made late and overwritten at once, and the result's memory is free late, all on that."""
    cupy.streams[0] = 80
    cupy.gpu.cuda.queues[80] = Queue()
    x, late, model = floats(3, 1, 8, 8), cupy.on(0, np.full((3, 1, 8, 8), np.nan, np.float32)), net(**plan)
    for call in range(3):
        cupy.gpu.cuda.queue(80, lambda call=call: np.copyto(late.hidden, x + call))
        y = model.predict(late)
        cupy.gpu.cuda.queue(80, lambda: late.hidden.fill(np.nan))
        np.testing.assert_allclose(values(y), reference(x + call), rtol=1e-6, atol=1e-6)


def test_one_with_gaps_or_of_another_dtype_is_made_fit_on_the_gpu(cupy: FakeCupy) -> None:
    x, model = floats(6, 1, 8, 8), net()
    for _ in range(2):
        np.testing.assert_array_equal(values(model.predict(cupy.on(0, x)[::2])), reference(x[::2]))
        half = x[:3].astype(np.float16)
        np.testing.assert_array_equal(
            values(model.predict(cupy.on(0, half))), reference(half.astype(np.float32))
        )
    with pytest.raises(InputError, match=r"float32.*, got a CuPy array of float64, device cuda:0") as caught:
        model.predict(cupy.on(0, x.astype(np.float64)))
    assert "x.astype('float32')" in caught.value.remedy


def test_bfloat16_comes_and_goes_as_float32(cupy: FakeCupy) -> None:
    node = helper.make_node("Add", ["x", "x"], ["y"])
    about = manifest([spec("x", "batch", 4, dtype="bfloat16")], [spec("y", "batch", 4, dtype="bfloat16")])
    graph = build([node], [spec("x", "batch", 4)], [spec("y", "batch", 4)])
    model, x = predictor(graph, about, device="cuda", plan=CUDA), floats(2, 4)
    for _ in range(2):
        y = model.predict(cupy.on(0, x))
        assert y.dtype == np.float32
        np.testing.assert_array_equal(values(y), 2 * x)
    with pytest.raises(InputError, match="float64") as caught:
        model.predict(cupy.on(0, x.astype(np.float64)))
    assert "x.astype('float32')" in caught.value.remedy


def test_several_inputs_by_place_and_name(cupy: FakeCupy) -> None:
    a, b = floats(5, 3), floats(5, 3, seed=1)
    np.testing.assert_array_equal(values(adding().predict(cupy.on(0, a), b=cupy.on(0, b))), a + b)


def test_another_shape_is_refused(cupy: FakeCupy) -> None:
    model = net()
    model.predict(cupy.on(0, floats(2, 1, 8, 8)))
    with pytest.raises(InputError, match=r"got shape \[2, 1, 8, 9\]"):
        model.predict(cupy.on(0, floats(2, 1, 8, 9)))


@pytest.mark.parametrize("place", ["host", "torch's host"])
def test_inputs_in_two_places_are_refused(cupy: FakeCupy, place: str) -> None:
    a = floats(2, 3)
    here = a if place == "host" else torch.from_numpy(a)
    with pytest.raises(InputError, match="'b' is on the host, and 'a' on the GPU"):
        adding().predict(cupy.on(0, a), here)
    with pytest.raises(InputError, match="'a' is on the host, and 'b' on the GPU") as caught:
        adding().predict(here, cupy.on(0, a))
    assert "all on the host" in caught.value.remedy


def test_inputs_of_two_libraries_are_refused(cupy: FakeCupy) -> None:
    """Their current streams are two, and neither's allocator knows of the other's."""
    a = floats(2, 3)
    with pytest.raises(InputError, match=r"'a' is a torch tensor of .*, and 'b' a CuPy array of ") as caught:
        adding().predict(on_gpu(a), cupy.on(0, a))
    assert "torch.from_dlpack(x) and cupy.from_dlpack(x)" in caught.value.remedy


def test_one_on_another_gpu_is_refused(cupy: FakeCupy) -> None:
    x, model = floats(2, 1, 8, 8), net()
    model.predict(cupy.on(0, x))
    with pytest.raises(InputError, match="'x' is on cuda:1, and the model runs on cuda:0") as caught:
        model.predict(cupy.on(1, x))
    assert "with cupy.cuda.Device(0): x = cupy.asarray(x)" in caught.value.remedy
    assert "device='cuda:1'" in caught.value.remedy


def test_one_for_a_model_on_the_cpu_is_refused(cupy: FakeCupy) -> None:
    model = doubling()
    model.predict(floats(2, 4))
    with pytest.raises(InputError, match="'x' is on cuda:0, and the model runs on cpu") as caught:
        model.predict(cupy.on(0, floats(2, 4)))
    assert "x.get()" in caught.value.remedy


@pytest.mark.parametrize("plan", PLANS)
def test_empty_batches(cupy: FakeCupy, plan: dict[str, Any]) -> None:
    y = net(**plan).predict(cupy.on(0, floats(0, 1, 8, 8)))
    assert type(y) is ndarray
    assert (y.shape, y.device.id) == ((0, 5), 0)


def test_what_onnx_runtime_wants_on_the_host_goes_there_and_comes_back(cupy: FakeCupy) -> None:
    cupy.gpu.on_host = {"x": "Cpu"}
    x = floats(2, 1, 8, 8)
    y = net().predict(cupy.on(0, x))
    assert y.device.id == 0
    np.testing.assert_array_equal(values(y), reference(x))
    assert cupy.gpu.runs == []


def test_outputs_of_shapes_that_only_the_run_tells(cupy: FakeCupy) -> None:
    y = nonzero().predict(cupy.on(0, np.array([0, 3, 0, 2], np.float32)))
    assert type(y) is ndarray
    np.testing.assert_array_equal(values(y), [[1, 3]])


def test_streams_of_batches(cupy: FakeCupy) -> None:
    x, model = floats(7, 1, 8, 8), net()
    given = cupy.on(0, x)
    for source in (given, [given[:3], given[3:]], list(given)):
        found = list(model.predict_batches(source, batch_size=2))
        assert [y.shape[0] for y in found] == [2, 2, 2, 1]
        np.testing.assert_allclose(np.concatenate([values(y) for y in found]), reference(x), rtol=1e-6)


def test_streams_from_two_places_are_refused(cupy: FakeCupy) -> None:
    x = floats(3, 1, 8, 8)
    for other in (x, cupy.on(1, x), on_gpu(x)):
        with pytest.raises(InputError, match=r"Element 1 of the stream .* shape, dtype or device"):
            list(net().predict_batches([cupy.on(0, x), other], batch_size=6))


def test_no_memory_for_the_results(cupy: FakeCupy) -> None:
    model, x = net(), cupy.on(0, floats(2, 1, 8, 8))
    cupy.full = True
    with pytest.raises(OutOfMemoryError):
        model.predict(x)
    cupy.full = False
    assert model.predict(x).shape == (2, 5)


def test_a_module_that_is_still_being_imported_is_no_harm(
    gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cupy", type(sys)("cupy"))
    assert not cupy_arrays.owns(object())
    x = floats(2, 1, 8, 8)
    np.testing.assert_array_equal(net().predict(x), reference(x))
