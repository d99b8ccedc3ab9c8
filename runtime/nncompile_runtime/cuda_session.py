"""A session on a GPU: a stream of its own, memory that it is given, a new start after it ran out of that."""

from __future__ import annotations

import contextlib
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from types import ModuleType
from typing import Any, NamedTuple

from nncompile_runtime import cuda, cuda_options, driver
from nncompile_runtime.container import ModelFile
from nncompile_runtime.errors import DeviceError, NncompileError, OutOfMemoryError
from nncompile_runtime.plan import Plan
from nncompile_runtime.session import Array, Session, onnxruntime
from nncompile_runtime.shapes import Port

# Where ONNX Runtime wants a value that the CPU reads (a shape, say), or has one that it wrote.
_ON_THE_HOST = ("Cpu", "CudaPinned")
_MOST_BOUND = 16  # places whose bindings are kept: callers come back with the same few


class Memory(NamedTuple):
    """Where an input or output of a call lies, row by row without gaps.

    Attributes:
        port: Which, of what dtype and shape.
        address: Of its first element.
    """

    port: Port
    address: int


class CudaSession(Session):
    """A graph on a GPU. Runs queue up on one stream; `lock` is held while one is being queued.

    Attributes:
        gpu: The GPU.
        stream: What the graph runs on.
        lock: Of the session.
        binds: Whether all inputs and outputs can be bound on the GPU. An input that the CPU reads would be
            copied to it when it is bound, and never again while the binding is kept; an output that the CPU
            wrote would be copied from memory that the next run may have by then; and an output that is an
            input would not be written at all.
        ended: How often ONNX Runtime's session ended, to begin anew; what it captured went with it.
    """

    gpu: driver.Gpu
    stream: driver.Stream
    binds: bool

    def __init__(self, model: ModelFile, plan: Plan, *, capture: bool = False) -> None:
        """Load the graph.

        Args:
            model: The graph.
            plan: How to run it.
            capture: Whether ONNX Runtime captures the runs of `run_at` as a CUDA graph. Then that one shape
                and that one place of inputs and outputs is all that the session may ever be run on.

        Raises:
            ModelLoadError: ONNX Runtime refuses the graph.
            DeviceError: The GPU cannot be had.
        """
        self._model, self._capture = model, capture
        self.lock = threading.RLock()
        self._bound: dict[tuple[tuple[Memory, ...], tuple[Memory, ...]], Callable[[], None]] = {}
        self._captured = threading.local()
        self.ended = 0
        super().__init__(model, plan)
        # Return when the work is queued: who waits for it is decided outside.
        self._queue_only = onnxruntime().RunOptions()
        self._queue_only.add_run_config_entry("disable_synchronize_execution_providers", "1")
        # The default; where it is not said, ONNX Runtime's wrapper asks, at the price of an exception.
        self._queue_only.add_run_config_entry("gpu_graph_id", "0")

    def __del__(self) -> None:
        """Close it where no capture of another thread's can refuse that, which would end the process."""
        with contextlib.suppress(Exception), driver.alone(at_any_price=False), self.gpu.current():
            self._close()

    def _start(self, ort: ModuleType, plan: Plan, model: ModelFile, options: Any) -> Any:
        try:
            if not hasattr(self, "stream"):  # a session that begins anew stays on it
                self.gpu = driver.gpu(plan.device_id)
                self.stream = driver.Stream(self.gpu)
        except (OSError, driver.CudaError) as error:
            raise DeviceError(
                f"{plan.device} cannot be had: {error}.", remedy="Run nncompile doctor to see why."
            ) from None
        with driver.alone(), self.current():
            started = super()._start(ort, plan, model, options)
        places = (*started.get_input_memory_infos(), *started.get_output_memory_infos())
        passed_on = {port.name for port in started.get_inputs()} & {
            port.name for port in started.get_outputs()
        }
        self.binds = not passed_on and not any(place.name in _ON_THE_HOST for place in places)
        return started

    def _provider_options(self, precision: str) -> dict[str, str]:
        return cuda_options.provider_options(self.plan, precision, self.stream.handle, capture=self._capture)

    def current(self) -> AbstractContextManager[Any]:
        """Make the GPU the thread's, for what the other functions need that of."""
        return self.gpu.current(capturing=self._capture)

    def run(self, feed: Mapping[str, Array]) -> list[Array]:
        """Run on arrays of the host, which ONNX Runtime copies; wait for the answer.

        Raises:
            InputError: ONNX Runtime could not run these inputs.
            OutOfMemoryError: The GPU's memory does not suffice.
            DeviceError: The GPU failed.
        """
        with self.lock, self.current():
            self._reopen()
            return super().run(feed)

    def run_at(self, inputs: Sequence[Memory], outputs: Sequence[Memory]) -> None:
        """Queue a run on memory of the GPU, on `stream`; returns before it is done. The GPU must be current.

        Args:
            inputs: All of the graph's; they may not be empty.
            outputs: All of the graph's; likewise.

        Raises:
            InputError: ONNX Runtime could not run these inputs, or an output has another shape.
            OutOfMemoryError: The GPU's memory does not suffice.
            DeviceError: The GPU failed.
        """
        with self.lock:
            self._reopen()
            try:
                self._run_bound(inputs, outputs)
            except Exception as error:
                raise self.failure(error) from None

    def run_to(self, inputs: Sequence[Memory]) -> list[Any]:
        """Run on memory of the GPU and wait; ONNX Runtime allocates the outputs. The GPU must be current.

        Returns:
            An `onnxruntime.OrtValue` on the GPU for each output.

        Raises:
            InputError: ONNX Runtime could not run these inputs.
            OutOfMemoryError: The GPU's memory does not suffice.
            DeviceError: The GPU failed.
        """
        with self.lock:
            self._reopen()
            try:
                binding = self._bind(inputs)
                for port in self.outputs:
                    binding.bind_output(port.name, "cuda", self.gpu.number)
                self.native.run_with_iobinding(binding)
                return list(binding.get_outputs())
            except Exception as error:
                binding = None
                raise self.failure(error) from None

    def begin_anew(self) -> None:
        """Wait for what is queued, and give back all memory; the next run opens the session again."""
        with self.lock, driver.alone(), self.current():
            self._close()

    def failure(self, error: Exception) -> NncompileError:
        """The error for a run that was given up; where memory was short, the session begins anew.

        ONNX Runtime's arena keeps its peak, so without a new session the next, smaller call could fail too.
        """
        with self.lock, self.current():
            self._settle()
            return self._failure(error)

    def _failure(self, error: Exception) -> NncompileError:
        bytes_missing = cuda.missing_memory(error)
        if bytes_missing is not None:
            asked = f" for {bytes_missing / 2**20:.1f} MiB at once" if bytes_missing else ""
            failed = OutOfMemoryError(
                f"{self.plan.device} has too little memory{asked} to run {self._model.name} on this input.",
                remedy="Give fewer rows at a time (micro_batch in the plan cuts batches), "
                "raise gpu_memory_limit if the plan has one, or free memory of the GPU.",
            )
            traceback.clear_frames(error.__traceback__)  # they hold the session that is to go
            self.begin_anew()
            with contextlib.suppress(NncompileError):  # else the next call tries again
                self._reopen()
            return failed
        failure = cuda.failure(error)
        if failure is not None:
            return DeviceError(
                f"{self.plan.device} failed: {failure}.",
                remedy="Start the process again: after most errors of CUDA nothing more runs in it.",
            )
        return super().failure(error)

    def wait_for(self, stream: int) -> None:
        """Return when a stream of the GPU is done with what it was given.

        Args:
            stream: Its handle; 0 is the default one.

        Raises:
            DeviceError: The GPU failed meanwhile.
        """
        try:
            with self.current():
                self.gpu.call("cuStreamSynchronize", stream)
        except driver.CudaError as error:
            raise self.failure(error) from None

    def _run_bound(self, inputs: Sequence[Memory], outputs: Sequence[Memory]) -> None:
        places = tuple(inputs), tuple(outputs)
        run = self._bound.get(places)
        if run is None:
            binding = self._bind(inputs)
            for (name, dtype, shape, _), address in outputs:
                binding.bind_output(name, "cuda", self.gpu.number, dtype, shape, address)
            if len(self._bound) >= _MOST_BOUND:
                self._bound.clear()
            run = self._bound[places] = self._direct_run(binding)
        if self._capture and not hasattr(self._captured, "by_this_thread"):
            with driver.alone():
                run()
            self._captured.by_this_thread = True
        else:
            run()

    def _direct_run(self, binding: Any) -> Callable[[], None]:
        """ONNX Runtime's compiled run, as `_direct_call`: the wrapper asks what only WebGPU needs."""
        compiled, bound = getattr(self.native, "_sess", None), getattr(binding, "_iobinding", None)
        if compiled is None or bound is None:
            return partial(self.native.run_with_iobinding, binding, self._queue_only)
        return partial(compiled.run_with_iobinding, bound, self._queue_only)

    def _bind(self, inputs: Sequence[Memory]) -> Any:
        binding = self.native.io_binding()
        for (name, dtype, shape, _), address in inputs:
            binding.bind_input(name, "cuda", self.gpu.number, dtype, shape, address)
        return binding

    def _settle(self) -> None:
        """Wait for what is still queued, which uses memory that is let go of."""
        with contextlib.suppress(driver.CudaError):
            self.stream.synchronize()

    def _close(self) -> None:
        self._settle()
        self._bound.clear()
        self._captured = threading.local()  # the next session captures anew
        self.native = self.call = None
        self.ended += 1

    def _reopen(self) -> None:
        if self.native is None:
            self._open(self._model)


def open_session(model: ModelFile, plan: Plan) -> Session:
    """A session for the plan's device.

    Raises:
        ModelLoadError: ONNX Runtime refuses the graph.
        DeviceError: The plan's provider cannot be had.
    """
    return CudaSession(model, plan) if plan.provider == "cuda" else Session(model, plan)
