"""Out of memory and other failures on a GPU that is not there, and what is given back."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest
import torch

from nncompile import DeviceError, InputError, OutOfMemoryError

from .fake_gpu import FakeGpu, gpu, on_gpu, values
from .gpu_nets import net, reference
from .graphs import floats

__all__ = ["gpu"]


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
    np.testing.assert_array_equal(values(y), reference(x))
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


def held(gpu: FakeGpu) -> int:
    return sum(len(block) for block in gpu.cuda.blocks.values())


def test_memory_kept_for_copies_is_given_back_when_there_is_too_little(gpu: FakeGpu) -> None:
    model, x = net(), floats(2, 1, 8, 8)
    there = on_gpu(x)  # needs no copies, so that it takes none of what is kept
    before = held(gpu)
    model.predict(floats(64, 1, 8, 8))
    assert held(gpu) > before
    gpu.failures = [RuntimeError(FULL[0][0])]
    with pytest.raises(OutOfMemoryError):
        model.predict(there)
    gc.collect()
    assert held(gpu) == before
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
        "Failed to initialize CUDNN Frontend: no engine with the cudnn frontend json:{}",
        "OP not supported by CUDNN Frontend: no engine",
        "cuDNN is unavailable for CUDA Execution Provider: dlsym failed",
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


def test_memory_is_given_back_only_when_nothing_uses_it(gpu: FakeGpu) -> None:
    """A stream of batches that nobody reads to its end has begun one that is still to be copied."""
    stream = net().predict_batches(floats(6, 1, 8, 8), batch_size=2)
    next(stream)
    gpu.cuda.calls.clear()
    stream.close()
    del stream
    gc.collect()
    freed = [name for name in gpu.cuda.calls if "Free" in name or name == "cuCtxSynchronize"]
    assert freed[: len(freed) // 2 * 2] == freed
    assert all(
        one == "cuCtxSynchronize" and "Free" in two for one, two in zip(freed[::2], freed[1::2], strict=True)
    )
    assert freed
