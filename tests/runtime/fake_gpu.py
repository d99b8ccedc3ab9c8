"""A GPU that is not there: NVIDIA's driver, torch's tensors on it and ONNX Runtime's provider, on the CPU.

Work that is queued on a stream is done when somebody waits for it, and not before; fresh memory holds
garbage. So what forgets to order two streams, to wait, or to copy, computes with the wrong bytes and gives a
wrong answer. The provider is the real ONNX Runtime on the CPU, run when its stream comes to it.
"""

from __future__ import annotations

import ctypes
import threading
import weakref
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from nncompile_runtime import cuda, cuda_session, driver, session

OUT_OF_MEMORY, NO_CONTEXT = 2, 201


class Queue:
    """A stream."""

    def __init__(self) -> None:
        self.work: list[Callable[[], None]] = []
        self.done = 0

    def run(self, upto: int) -> None:
        while self.done < upto:
            self.done += 1
            self.work[self.done - 1]()


class FakeCuda:
    """The driver. Its functions are attributes that take `argtypes`, as those of `ctypes.CDLL` do."""

    def __init__(self) -> None:
        self.queues: dict[int, Queue] = {0: Queue()}
        self.events: dict[int, tuple[Queue, int]] = {}
        self.blocks: dict[int, Any] = {}
        self.freed: list[str] = []
        self.kept: list[torch.Tensor] = []
        self.calls: list[str] = []
        self.limit: int | None = None  # bytes of an allocation
        self.eager = False  # whether all streams but the default one do their work at once
        self._contexts = threading.local()
        self._one_at_a_time = threading.RLock()
        self._next = 1000
        for name in driver._ARGUMENTS:
            setattr(self, name, partial(self._called, name))

    def __call__(self, name: str) -> FakeCuda:
        assert name == "libcuda.so.1"
        return self

    @property
    def depth(self) -> int:
        """How many contexts the calling thread has pushed."""
        return getattr(self._contexts, "depth", 0)

    def queue(self, stream: int, work: Callable[[], Any]) -> None:
        with self._one_at_a_time:
            self.queues[stream].work.append(work)
            if self.eager and stream:
                self.wait(stream)

    def wait(self, stream: int) -> None:
        """What `torch.cuda.Stream.synchronize` does."""
        with self._one_at_a_time:
            self.queues[stream].run(len(self.queues[stream].work))

    def _called(self, name: str, *arguments: Any) -> int:
        self.calls.append(name)
        without = ("cuInit", "cuDeviceGet", "cuDevicePrimaryCtxRetain", "cuCtxPushCurrent_v2")
        if name not in without and not self.depth:
            return NO_CONTEXT
        with self._one_at_a_time:
            return int(getattr(self, f"_{name.partition('_')[0]}")(*arguments) or 0)

    def _new(self, out: Any) -> int:
        self._next += 1
        out._obj.value = self._next
        return self._next

    def _cuInit(self, flags: int) -> None:
        pass

    def _cuDeviceGet(self, out: Any, number: int) -> None:
        out._obj.value = number

    def _cuDevicePrimaryCtxRetain(self, out: Any, device: int) -> None:
        out._obj.value = 7 + device

    def _cuCtxPushCurrent(self, context: Any) -> None:
        self._contexts.depth = self.depth + 1

    def _cuCtxPopCurrent(self, out: Any) -> None:
        self._contexts.depth -= 1

    def _cuCtxSynchronize(self) -> None:
        for stream in list(self.queues):
            self.wait(stream)

    def _cuStreamCreate(self, out: Any, flags: int) -> None:
        assert flags == 1
        self.queues[self._new(out)] = Queue()

    def _cuStreamDestroy(self, stream: int) -> None:
        self.wait(stream)
        self.freed.append("stream")
        del self.queues[stream]

    def _cuStreamSynchronize(self, stream: int) -> None:
        self.wait(stream)

    def _cuEventCreate(self, out: Any, flags: int) -> None:
        self._new(out)

    def _cuEventDestroy(self, event: int) -> None:
        self.events.pop(event, None)

    def _cuEventRecord(self, event: int, stream: int) -> None:
        queue = self.queues[stream]
        self.events[event] = queue, len(queue.work)

    def _cuStreamWaitEvent(self, stream: int, event: int, flags: int) -> None:
        queue, upto = self.events[event]
        self.queue(stream, lambda: queue.run(upto))

    def _cuEventSynchronize(self, event: int) -> None:
        queue, upto = self.events[event]
        queue.run(upto)

    def _cuMemAlloc(self, out: Any, size: int) -> int:
        if self.limit is not None and size > self.limit:
            return OUT_OF_MEMORY
        block = (ctypes.c_ubyte * size)()
        ctypes.memset(block, 0xA5, size)
        out._obj.value = ctypes.addressof(block)
        self.blocks[out._obj.value] = block
        return 0

    def _cuMemHostAlloc(self, out: Any, size: int, flags: int) -> int:
        return self._cuMemAlloc(out, size)

    def _cuMemFree(self, address: int) -> None:
        self._cuCtxSynchronize()
        self.freed.append("device")
        del self.blocks[address]

    def _cuMemFreeHost(self, address: int) -> None:
        self._cuCtxSynchronize()
        self.freed.append("pinned")
        del self.blocks[address]

    def _cuMemsetD8Async(self, address: int, value: int, size: int, stream: int) -> None:
        self.queue(stream, lambda: ctypes.memset(address, value, size))

    def _copy(self, to: int, source: int, size: int, stream: int) -> None:
        self.queue(stream, lambda: ctypes.memmove(to, source, size))

    _cuMemcpyHtoDAsync = _cuMemcpyDtoHAsync = _cuMemcpyDtoDAsync = _copy


class GpuTensor(torch.Tensor):
    """A tensor that says it is on cuda:0. What computes with it does so when its stream has come to it."""

    cuda: FakeCuda
    stream = 0
    number = 0
    _COMPUTING = frozenset({"cat", "to", "float", "copy_", "clone"})

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in cls._COMPUTING:
            cls.cuda.wait(cls.stream)
        return super().__torch_function__(func, types, args, kwargs or {})

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return torch.device("cuda", self.number)

    @property
    def is_cpu(self) -> bool:  # type: ignore[override]
        return False

    def data_ptr(self) -> int:
        self.cuda.kept.append(self.as_subclass(torch.Tensor))  # torch keeps what is freed for its stream
        return super().data_ptr()

    def cpu(self) -> torch.Tensor:  # type: ignore[override]
        self.cuda.wait(self.stream)
        return self.as_subclass(torch.Tensor).clone()

    def numpy(self, **_: Any) -> Any:  # type: ignore[override]
        raise TypeError("can't convert cuda:0 device type tensor to numpy.")


def on_gpu(array: Any) -> GpuTensor:
    """A tensor on the GPU, ready."""
    return torch.as_tensor(array).clone().as_subclass(GpuTensor)


class FakeGpu:
    """All of it, for the tests to look at.

    Attributes:
        cuda: The driver.
        created: The options of each session that was created.
        failures: What the next runs raise, one each; None lets one pass.
        runs: One entry for each run on bound memory, with the bound addresses.
        refuse_capture: Whether sessions that capture fail to start.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.cuda = FakeCuda()
        self.created: list[dict[str, str]] = []
        self.failures: list[Exception | None] = []
        self.runs: list[dict[str, int]] = []
        self.refuse_capture = False
        self.alive = 0
        monkeypatch.setattr(GpuTensor, "cuda", self.cuda, raising=False)
        monkeypatch.setattr(GpuTensor, "stream", 0)
        monkeypatch.setattr(cuda, "require", lambda *_: None)
        opened = driver.Gpu(0, self.cuda)
        monkeypatch.setattr(driver, "gpu", lambda number: opened)
        empty = torch.empty

        def empty_on_gpu(*args: Any, device: Any = None, **options: Any) -> torch.Tensor:
            made = empty(*args, **options)
            if device is None or torch.device(device).type == "cpu":
                return made
            # The memory was another tensor's, which is still being written to.
            self.cuda.queue(GpuTensor.stream, lambda: made.fill_(-77))
            return made.as_subclass(GpuTensor)

        monkeypatch.setattr(torch, "empty", empty_on_gpu)
        monkeypatch.setattr(
            torch.cuda, "current_stream", lambda device: SimpleNamespace(cuda_stream=GpuTensor.stream)
        )
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
        real = session.onnxruntime()
        fake = SimpleNamespace(**{name: getattr(real, name) for name in dir(real) if name[0] != "_"})
        fake.__version__, provider = real.__version__, _provider(self, real)

        def start(data: bytes, **options: Any) -> Any:
            on_cuda = options["providers"] == [cuda.PROVIDER]
            return (provider if on_cuda else real.InferenceSession)(data, **options)

        fake.InferenceSession = start
        monkeypatch.setattr(session, "onnxruntime", lambda: fake)
        monkeypatch.setattr(cuda_session, "onnxruntime", lambda: fake)


class _Binding:
    """Remembers what is bound; the outputs that ONNX Runtime allocates are there once it ran."""

    def __init__(self, owner: Any) -> None:
        self.owner = weakref.ref(owner)
        self.inputs: dict[str, tuple[Any, ...]] = {}
        self.outputs: dict[str, tuple[Any, ...]] = {}
        self.made: list[Any] = []

    def bind_input(self, name: str, device: str, number: int, *where: Any) -> None:
        assert (device, number) == ("cuda", 0)
        assert where[-1]
        self.inputs[name] = where

    def bind_output(self, name: str, device: str, number: int, *where: Any) -> None:
        assert (device, number) == ("cuda", 0)
        self.outputs[name] = where

    def get_outputs(self) -> list[Any]:
        return self.made


def _provider(gpu: FakeGpu, real: Any) -> type:
    class Provider(real.InferenceSession):  # type: ignore[misc, name-defined]
        """ONNX Runtime's session; said to be on the GPU."""

        def __init__(self, data: bytes, **options: Any) -> None:
            self.options = dict(options["provider_options"][0])
            gpu.created.append(self.options)
            self.capturing = self.options.get("enable_cuda_graph") == "1"
            if self.capturing and gpu.refuse_capture:
                raise RuntimeError("This session cannot use the graph capture feature: CUDA")
            self.stream = int(self.options["user_compute_stream"])
            self.captured: dict[int, _Binding] = {}
            options |= {"providers": ["CPUExecutionProvider"], "provider_options": [{}]}
            super().__init__(data, **options)
            gpu.alive += 1

        def __del__(self) -> None:
            gpu.alive -= 1

        def get_providers(self) -> list[str]:
            return [cuda.PROVIDER]

        def get_provider_graph_assignment_info(self) -> list[Any]:
            return []

        def io_binding(self) -> Any:
            return _Binding(self)

        def run_with_iobinding(self, binding: Any, options: Any = None) -> None:
            assert gpu.cuda.depth
            assert binding.owner() is self
            gpu.runs.append({name: w[-1] for name, w in (binding.inputs | binding.outputs).items() if w})
            failure = gpu.failures.pop(0) if gpu.failures else None
            if failure is not None:
                raise failure
            if self.capturing:
                binding = self.captured.setdefault(threading.get_ident(), binding)
            gpu.cuda.queue(self.stream, partial(self._execute, binding))
            key = "disable_synchronize_execution_providers"
            if options is None or options.get_run_config_entry(key) != "1":
                gpu.cuda.wait(self.stream)

        def _execute(self, binding: _Binding) -> None:
            actual = super().io_binding()
            for name, (dtype, shape, address) in binding.inputs.items():
                actual.bind_input(name, "cpu", 0, dtype, shape, address)
            for name, where in binding.outputs.items():
                actual.bind_output(name, "cpu", 0, *where)
            super().run_with_iobinding(actual)
            binding.made = actual.get_outputs()

    return Provider


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeGpu:
    """A GPU."""
    return FakeGpu(monkeypatch)


def values(result: Any) -> np.ndarray:
    """What a tensor on the GPU holds, as the caller sees it."""
    return result.cpu().numpy()
