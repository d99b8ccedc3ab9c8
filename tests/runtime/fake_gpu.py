"""A GPU that is not there: its driver (fake_driver.py), torch's tensors, ONNX Runtime's provider, on the CPU.

What forgets to order two streams, to wait, or to copy, computes with the wrong bytes and gives a wrong
answer. The provider is the real ONNX Runtime on the CPU, run when its stream comes to it.
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

from .fake_driver import THREAD_LOCAL, FakeCuda


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


def _raw_stream(number: int) -> int:
    assert number == GpuTensor.number
    return GpuTensor.stream


def _current_stream(device: torch.device) -> Any:
    return SimpleNamespace(cuda_stream=_raw_stream(device.index))


class FakeGpu:
    """All of it, for the tests to look at.

    Attributes:
        cuda: The driver.
        created: The options of each session that was created.
        failures: What the next runs raise, one each; None lets one pass.
        runs: One entry for each run on bound memory, with the bound addresses.
        refuse_capture: Whether sessions that capture fail to start.
        during_capture: What other threads do while one captures.
        others: Those threads.
        on_host: Inputs and outputs that ONNX Runtime wants on the host -> what it calls their memory.
        captures: One entry for each capture: whether it broke.
        alive: How many sessions there are.
        kept: How many graphs they hold; a session keeps those of threads that are gone.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.cuda = FakeCuda()
        self.created: list[dict[str, str]] = []
        self.failures: list[Exception | None] = []
        self.runs: list[dict[str, int]] = []
        self.refuse_capture = False
        self.during_capture: list[Callable[[], None]] = []
        self.on_host: dict[str, str] = {}
        self.captures: list[bool] = []
        self.others: list[threading.Thread] = []
        self.alive = self.kept = 0
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
        monkeypatch.setattr(torch._C, "_cuda_getCurrentRawStream", _raw_stream, raising=False)
        monkeypatch.setattr(torch.cuda, "current_stream", _current_stream)
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
    """Remembers what is bound; the outputs that ONNX Runtime allocates are there once it ran.

    An input that it wants on the host is copied there at once, and never again.
    """

    def __init__(self, owner: Any, on_host: Any) -> None:
        self.owner, self.on_host = weakref.ref(owner), on_host
        self.copies: list[Any] = []
        self.inputs: dict[str, tuple[Any, ...]] = {}
        self.outputs: dict[str, tuple[Any, ...]] = {}
        self.made: list[Any] = []

    def bind_input(self, name: str, device: str, number: int, *where: Any) -> None:
        assert (device, number) == ("cuda", 0)
        assert where[-1]
        if name in self.on_host:
            dtype, shape, address = where
            size = int(np.prod(shape)) * np.dtype(dtype).itemsize
            self.copies.append(ctypes.create_string_buffer(ctypes.string_at(address, size), size))
            where = dtype, shape, ctypes.addressof(self.copies[-1])
        self.inputs[name] = where

    def bind_output(self, name: str, device: str, number: int, *where: Any) -> None:
        assert (device, number) == ("cuda", 0)
        self.outputs[name] = where

    def get_outputs(self) -> list[Any]:
        return self.made


def _provider(gpu: FakeGpu, real: Any) -> type:
    class Provider(real.InferenceSession):  # type: ignore[misc, name-defined]
        """ONNX Runtime's session; said to be on the GPU."""

        kept = 0

        def __init__(self, data: bytes, **options: Any) -> None:
            self.options = dict(options["provider_options"][0])
            gpu.created.append(self.options)
            if gpu.cuda.unsafe("a session's start", whole_gpu=True):
                raise RuntimeError("CUDA failure 900: operation not permitted when stream is capturing")
            self.capturing = self.options.get("enable_cuda_graph") == "1"
            if self.capturing and gpu.refuse_capture:
                raise RuntimeError("This session cannot use the graph capture feature: CUDA")
            self.stream = int(self.options["user_compute_stream"])
            self.captured = threading.local()  # identifiers of threads come back, and their graphs do not
            options |= {"providers": ["CPUExecutionProvider"], "provider_options": [{}]}
            super().__init__(data, **options)
            gpu.alive += 1

        def __del__(self) -> None:
            gpu.alive -= 1
            gpu.kept -= self.kept
            gpu.cuda.unsafe("a session's end", whole_gpu=True)

        def get_providers(self) -> list[str]:
            return [cuda.PROVIDER]

        def get_provider_graph_assignment_info(self) -> list[Any]:
            return []

        def get_input_memory_infos(self) -> list[Any]:
            return [self._memory(port) for port in self.get_inputs()]

        def get_output_memory_infos(self) -> list[Any]:
            return [self._memory(port) for port in self.get_outputs()]

        def _memory(self, port: Any) -> Any:
            return SimpleNamespace(name=gpu.on_host.get(port.name, "Cuda"))

        def io_binding(self) -> Any:
            return _Binding(self, gpu.on_host)

        def run_with_iobinding(self, binding: Any, options: Any = None) -> None:
            assert gpu.cuda.depth
            assert binding.owner() is self
            gpu.runs.append({name: w[-1] for name, w in (binding.inputs | binding.outputs).items() if w})
            failure = gpu.failures.pop(0) if gpu.failures else None
            if failure is not None:
                raise failure
            if self.capturing and not hasattr(self.captured, "binding"):
                self._capture(binding)
            if self.capturing:
                binding = self.captured.binding
            gpu.cuda.queue(self.stream, partial(self._execute, binding))
            key = "disable_synchronize_execution_providers"
            if options is None or options.get_run_config_entry(key) != "1":
                gpu.cuda.wait(self.stream)

        def _capture(self, binding: _Binding) -> None:
            assert gpu.cuda.mode == THREAD_LOCAL  # what is unsafe in the capture itself must fail
            gpu.cuda.capturing = threading.get_ident()
            threads = [threading.Thread(target=act) for act in gpu.during_capture]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(0.2)  # some of them wait until the capture is over
            gpu.cuda.capturing = None
            gpu.others += threads
            gpu.captures.append(bool(gpu.cuda.broken))
            if gpu.cuda.broken:
                raise RuntimeError(f"CUDA failure 901: a capture was broken by {gpu.cuda.broken.pop()}")
            self.captured.binding = binding
            self.kept += 1
            gpu.kept += 1

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
    """What an array or a tensor on the GPU holds, as the caller sees it."""
    return result if isinstance(result, np.ndarray) else result.cpu().numpy()
