"""NVIDIA's driver as far as it is called: contexts, streams in order, memory that is given back."""

from __future__ import annotations

import ctypes
import gc

import pytest

from nncompile_runtime import driver
from nncompile_runtime.driver import Block, CudaError, Event, Gpu, Stream

from .fake_driver import FakeCuda


@pytest.fixture
def cuda() -> FakeCuda:
    return FakeCuda()


def test_handles_and_addresses_are_passed_with_all_their_bits(cuda: FakeCuda) -> None:
    """ctypes passes an int as 32 bits to a function whose argument types are not said."""
    Gpu(0, cuda)
    for name, types in driver._ARGUMENTS.items():
        assert getattr(cuda, name).argtypes == types
        for kind in types:
            is_count = kind in (ctypes.c_uint, ctypes.c_int, ctypes.c_ubyte)
            assert is_count or ctypes.sizeof(kind) == 8


def test_a_failure_is_an_error_with_the_function_and_the_number(cuda: FakeCuda) -> None:
    gpu = Gpu(0, cuda)
    with pytest.raises(CudaError, match="CUDA failure 201: in cuCtxSynchronize"):
        gpu.call("cuCtxSynchronize")
    cuda.limit = 10
    with gpu.current(), pytest.raises(CudaError, match="CUDA failure 2: out of memory"):
        Block(gpu, 11)


def test_the_callers_context_comes_back(cuda: FakeCuda) -> None:
    gpu = Gpu(0, cuda)
    with gpu.current():
        with gpu.current():
            assert cuda.depth == 2
        assert cuda.depth == 1
    with pytest.raises(ZeroDivisionError), gpu.current():
        raise ZeroDivisionError
    assert cuda.depth == 0


def test_a_stream_waits_for_what_another_had_been_given(cuda: FakeCuda) -> None:
    gpu = Gpu(0, cuda)
    stream, order = Stream(gpu), list[str]()
    with gpu.current():
        cuda.queue(0, lambda: order.append("before"))
        stream.wait_for(0)
        cuda.queue(0, lambda: order.append("after"))
        cuda.queue(stream.handle, lambda: order.append("ours"))
        stream.synchronize()
    assert order == ["before", "ours"]


def test_another_stream_is_held_back(cuda: FakeCuda) -> None:
    gpu = Gpu(0, cuda)
    stream, order = Stream(gpu), list[str]()
    with gpu.current():
        cuda.queue(stream.handle, lambda: order.append("ours"))
        stream.hold_back(0)
        cuda.queue(stream.handle, lambda: order.append("later"))
    cuda.queue(0, lambda: order.append("theirs"))
    cuda.wait(0)
    assert order == ["ours", "theirs"]


def test_an_event_is_waited_for(cuda: FakeCuda) -> None:
    gpu = Gpu(0, cuda)
    stream, done = Stream(gpu), list[int]()
    with gpu.current():
        event = Event(gpu)
        cuda.queue(stream.handle, lambda: done.append(1))
        event.record(stream.handle)
        cuda.queue(stream.handle, lambda: done.append(2))
        event.wait()
    assert done == [1]


def test_all_is_given_back_with_the_object(cuda: FakeCuda) -> None:
    gpu = Gpu(0, cuda)
    with gpu.current():
        held = [Block(gpu, 64), Block(gpu, 64, pinned=True), Stream(gpu)]
    assert len(cuda.blocks) == 2
    held.clear()
    gc.collect()
    assert cuda.blocks == {}
    assert sorted(cuda.freed) == ["device", "pinned", "stream"]
    assert set(cuda.queues) == {0}
    assert cuda.depth == 0
