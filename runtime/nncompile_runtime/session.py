"""ONNX Runtime behind one class: the only module of the runtime that imports it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from nncompile_runtime import cuda, cuda_options
from nncompile_runtime.container import ModelFile
from nncompile_runtime.errors import DeviceError, InputError, ModelLoadError, NncompileError
from nncompile_runtime.failures import reason, run_failure, start_failure
from nncompile_runtime.forks import waited_for_by_forks
from nncompile_runtime.kernels import REGION, Kernels, refused, register, with_choices
from nncompile_runtime.machine import installed_onnxruntime
from nncompile_runtime.plan import Plan

Array = npt.NDArray[Any]
Runner = Callable[[dict[str, Array]], list[Array]]

_log = logging.getLogger("nncompile")
_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_ERRORS_ONLY, _NOTHING = 3, 4
# ONNX Runtime 1.31's kernels of these end the process (abort, SIGFPE) where the batch is empty.
_FATAL_WHEN_EMPTY = frozenset({"LSTM", "GRU", "Einsum"})
# Creating sessions from several threads at once is not promised to be safe (onnxruntime issue 27089). A fork
# waits for its end: what a session leaves half-made, no thread of the child would finish.
_creation = waited_for_by_forks(threading.Lock())


class Port(NamedTuple):
    """A graph input or output as ONNX Runtime describes it: `type` is, say, `tensor(float)`."""

    name: str
    type: str
    shape: tuple[int | str | None, ...]


@lru_cache(maxsize=1)
def onnxruntime() -> ModuleType:
    """Import ONNX Runtime.

    Raises:
        ModelLoadError: It is not installed, or both of its distributions are, which overwrite each
            other's files.
    """
    found = installed_onnxruntime()
    if len(found) > 1:
        raise ModelLoadError(
            "Both onnxruntime and onnxruntime-gpu are installed; they overwrite each other's files.",
            remedy="Run: pip uninstall -y onnxruntime onnxruntime-gpu, then pip install "
            "'nncompile[gpu]' or 'nncompile[cpu]'.",
        )
    try:
        import onnxruntime as imported
    except ImportError as error:
        if found:
            raise ModelLoadError(
                f"ONNX Runtime is installed but cannot be imported: {error}.",
                remedy="Run: pip install --force-reinstall 'nncompile[cpu]'.",
            ) from error
        raise ModelLoadError(
            "ONNX Runtime is not installed.",
            remedy="Run: pip install 'nncompile[cpu]', or 'nncompile[gpu]' for CUDA.",
        ) from None
    imported.set_default_logger_severity(_ERRORS_ONLY)
    module: ModuleType = imported
    return module


def available_providers() -> list[str]:
    """The execution providers of the installed ONNX Runtime, for example `CPUExecutionProvider`."""
    return list(onnxruntime().get_available_providers())


class Session:
    """A loaded graph, ready to run under one plan. `run` may be called from several threads.

    Attributes:
        plan: How it runs.
        native: ONNX Runtime's `InferenceSession`.
        kernels: Whether fused regions run on the native kernels, or why not.
        plain: Whether ONNX Runtime's own kernels run any of the graph.
        inputs: Of the graph, as ONNX Runtime describes them.
        outputs: Likewise.
    """

    def __init__(self, model: ModelFile, plan: Plan, *, trace: Path | None = None) -> None:
        """Load the graph.

        Args:
            model: The graph.
            plan: How to run it; kept as `plan`.
            trace: A folder for what ONNX Runtime tells of its runs: the graph that it made of this one as
                `executed.onnx`, and its profile, whose path `native.end_profiling()` returns.

        Raises:
            ModelLoadError: ONNX Runtime refuses the graph.
            DeviceError: The plan's provider cannot be had.
        """
        self.native: Any = None
        self.plan = plan
        self._trace = trace
        self._open(model)

    def _open(self, model: ModelFile) -> None:
        ort, plan = onnxruntime(), self.plan
        provider = _PROVIDERS[plan.provider]
        if plan.provider == "cuda":
            cuda.require(ort, plan.device_id)
        try:
            self.native, self.kernels = self._created(ort, plan, model)
        except NncompileError:
            raise
        except Exception as error:
            raise start_failure(error, model, plan, ort.__version__) from None
        if self.native.get_providers()[0] != provider:
            raise DeviceError(
                f"{provider} could not be started; ONNX Runtime would have run on the CPU instead.",
                remedy="Run nncompile doctor to see why, or choose device='cpu'.",
            )
        if plan.provider == "cuda":
            cuda.refuse_nodes_on_the_cpu(self.native, model.name, model.data)
        self.plain = not self.kernels.active or model.facts.outermost != {REGION}
        # A failed run must not be repeated on the CPU behind the caller's back.
        self.native.disable_fallback()
        self.inputs = tuple(Port(v.name, v.type, tuple(v.shape)) for v in self.native.get_inputs())
        self.outputs = tuple(Port(v.name, v.type, tuple(v.shape)) for v in self.native.get_outputs())
        # ONNX Runtime would log on stderr what it raises as well: a caller's wrong index, say.
        self._silently = ort.RunOptions()
        self._silently.log_severity_level = _NOTHING
        self.call: Any = self._direct_call()
        self._fatal_when_empty = sorted(_FATAL_WHEN_EMPTY & model.facts.operators.keys())

    def _created(self, ort: ModuleType, plan: Plan, model: ModelFile) -> tuple[Any, Kernels]:
        """A session, on the native kernels where the model has use for them and they take it."""
        with _creation:
            options = self._options(ort, plan, model)
            if REGION not in model.facts.operators:
                return self._start(ort, plan, model, options), Kernels(
                    False, "the model has no fused regions"
                )
            kernels = register(options, plan)
            try:
                started = self._start(ort, plan, model, options)
                return started, with_choices(kernels, plan, model.name)
            except Exception as error:
                if not kernels.active:
                    raise
                plain = self._start(ort, plan, model, self._options(ort, plan, model))
                return plain, refused(f"{kernels.note} refuses {model.name}: {reason(error)}")

    def _start(self, ort: ModuleType, plan: Plan, model: ModelFile, options: Any) -> Any:
        return ort.InferenceSession(
            model.data,
            sess_options=options,
            providers=[_PROVIDERS[plan.provider]],
            provider_options=[self._provider_options(model.precision)],
            enable_fallback=0,  # where a provider raises, it would print so and take the CPU
        )

    def _provider_options(self, precision: str) -> dict[str, str]:
        return cuda_options.provider_options(self.plan, precision) if self.plan.provider == "cuda" else {}

    def _options(self, ort: ModuleType, plan: Plan, model: ModelFile) -> Any:
        options = ort.SessionOptions()
        if self._trace is not None:
            options.enable_profiling = True
            options.profile_file_prefix = str(self._trace / "profile")
            options.optimized_model_filepath = str(self._trace / "executed.onnx")
        options.intra_op_num_threads = plan.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = _ERRORS_ONLY
        options.enable_cpu_mem_arena = plan.arena
        options.enable_mem_pattern = plan.memory_pattern
        for name, value in _config_entries(plan).items():
            options.add_session_config_entry(name, value)
        if plan.provider == "cuda":
            options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        if not plan.blocked_layout:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        if model.wrong_optimizers:
            wrong = ";".join(model.wrong_optimizers)
            options.add_session_config_entry("optimization.disable_specified_optimizers", wrong)
        return options

    def _direct_call(self) -> Callable[[Mapping[str, Array]], list[Array]]:
        """ONNX Runtime's compiled `run`, without the checks of its Python wrapper, which ours repeat.

        It saves about a microsecond a call, and options that are not made anew for each call save some more;
        the wrapper serves where the attribute is not there.
        """
        names = [port.name for port in self.outputs]
        compiled = getattr(self.native, "_sess", None)
        run, options = compiled.run if compiled is not None else self.native.run, self._silently
        return lambda feed: run(names, feed, options)

    def run(self, feed: Mapping[str, Array]) -> list[Array]:
        """Run the graph on the given inputs and return all outputs.

        Raises:
            InputError: ONNX Runtime could not run these inputs.
        """
        if self._fatal_when_empty and not all(array.size for array in feed.values()):
            raise InputError(
                f"An input is empty, which ONNX Runtime's {self._fatal_when_empty[0]} cannot run.",
                remedy="Skip empty inputs.",
            )
        try:
            outputs: list[Array] = self.call(feed)
            return outputs
        except Exception as error:
            raise self.failure(error) from None

    def run_into(self, feed: Mapping[str, Array], outputs: Sequence[tuple[str, Array]]) -> None:
        """Run the graph and let it write its outputs into the given contiguous arrays.

        Raises:
            InputError: ONNX Runtime could not run these inputs, or an output has another shape.
        """
        binding = self.native.io_binding()
        try:
            for name, array in feed.items():
                binding.bind_cpu_input(name, np.ascontiguousarray(array))
            for name, array in outputs:
                binding.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
            self.native.run_with_iobinding(binding, self._silently)
        except Exception as error:
            raise self.failure(error) from None

    def failure(self, error: Exception) -> NncompileError:
        """The error for a run that ONNX Runtime gave up."""
        return run_failure(error)


def _config_entries(plan: Plan) -> dict[str, str]:
    """Session options that ONNX Runtime takes as text (its onnxruntime_session_options_config_keys.h).

    It accepts most nonsense silently and aborts on some: nothing but checked fields of a plan goes here.
    """
    entries = {}
    if not plan.spinning:
        entries["session.intra_op.allow_spinning"] = "0"
    if plan.spin_microseconds is not None:
        entries["session.intra_op.spin_duration_us"] = str(plan.spin_microseconds)
    if plan.dynamic_block_base:
        entries["session.dynamic_block_base"] = str(plan.dynamic_block_base)
    if plan.pointwise_channels is not None:
        entries["mlas.nchwc_pointwise_conv_max_input_channel_batch"] = str(plan.pointwise_channels)
    return entries
