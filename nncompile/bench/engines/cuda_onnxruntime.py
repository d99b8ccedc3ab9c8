"""Plain ONNX Runtime on a GPU with the default options of its CUDA provider: what the user had before.

TF32 is among those defaults, for files of float32 too, so this engine's answers are held to TF32's tolerance.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from nncompile.bench.engines import Array, EngineError, Feed, Subject, first_line
from nncompile.bench.engines.exporting import PlainGraph, is_exported, plain_graph
from nncompile.calling import Calling, evaluation_mode
from nncompile_runtime import cuda
from nncompile_runtime.errors import DeviceError
from nncompile_runtime.session import onnxruntime


class PlainOnGpu:
    """An `InferenceSession` of the CUDA provider, for feeds of either kind.

    Arrays go through `run`, which copies them. Tensors on the GPU are bound, once as long as the same ones
    come; the outputs stay there, and `run_with_iobinding` returns when they are done.
    """

    name = "onnxruntime"
    compile_seconds = 0.0
    threads: int | None = None
    reopens = False

    def __init__(self, graph: PlainGraph, inputs: Sequence[str], number: int, precision: str) -> None:
        """Open the session.

        Args:
            graph: The model.
            inputs: The feed's names in the order of the graph's inputs.
            number: Index of the GPU.
            precision: What the graph computes in.

        Raises:
            DeviceError: The provider does not start.
        """
        ort = onnxruntime()
        self.precision = "tf32" if precision == "float32" else precision
        self.description = f"ONNX Runtime {ort.__version__}, CUDA, default options, {graph.origin}"
        self.compile_seconds = graph.seconds
        provider = (cuda.PROVIDER, {"device_id": str(number)})
        self._session: Any = ort.InferenceSession(graph.path, providers=[provider, "CPUExecutionProvider"])
        if self._session.get_providers()[0] != cuda.PROVIDER:
            raise DeviceError(f"{cuda.PROVIDER} did not start.", remedy="Run nncompile doctor.")
        self._names = [port.name for port in self._session.get_inputs()]
        if len(self._names) != len(inputs):
            raise ValueError(f"the graph has the inputs {self._names}, not {list(inputs)}")
        self._inputs = list(inputs)
        self._bound: list[Any] = []
        self._binding: Any = None

    def run(self, feed: Feed) -> list[Array]:
        """All outputs of the session."""
        given: list[Any] = [feed[name] for name in self._inputs]
        if not all(hasattr(x, "data_ptr") for x in given):
            outputs: list[Array] = self._session.run(None, dict(zip(self._names, given, strict=True)))
            return outputs
        if len(given) != len(self._bound) or any(a is not b for a, b in zip(given, self._bound, strict=True)):
            self._bind(given)
        self._session.run_with_iobinding(self._binding)
        bound: list[Array] = self._binding.get_outputs()
        return bound

    def _bind(self, tensors: Sequence[Any]) -> None:
        self._binding = self._session.io_binding()
        place = (tensors[0].device.type, tensors[0].device.index or 0)
        for name, x in zip(self._names, tensors, strict=True):
            dtype = str(x.dtype).removeprefix("torch.")
            self._binding.bind_input(name, *place, dtype, tuple(x.shape), x.data_ptr())
        for port in self._session.get_outputs():
            self._binding.bind_output(port.name, *place)
        self._bound = list(tensors)


@contextmanager
def opened(subject: Subject) -> Iterator[PlainOnGpu]:
    """The engine for a subject: the exporter's graph of its module, or its file's graph without one.

    For a file of float16 or bfloat16 the module is exported in that precision.

    Raises:
        EngineError: The GPU cannot be used, the module cannot be exported, or ONNX Runtime refuses the graph.
    """
    number = int(subject.device.partition(":")[2] or 0)
    try:
        cuda.require(onnxruntime(), number)
    except DeviceError as error:
        raise EngineError(error.problem, remedy=error.remedy) from error
    graph = plain_graph(subject if is_exported(subject) else in_precision(subject))
    inputs = tuple(spec.name for spec in subject.signature.inputs)
    try:
        engine = PlainOnGpu(graph, inputs, number, subject.precision)
    except Exception as error:
        raise EngineError(f"ONNX Runtime refuses {graph.origin}: {first_line(error)}") from error
    yield engine


def in_precision(subject: Subject) -> Subject:
    """The subject with its module cast to the file's precision.

    Raises:
        EngineError: The module cannot be cast, or what captures modules is not installed.
    """
    if subject.module is None:
        return subject
    import torch

    try:
        from nncompile.capture.precision import narrowed
    except ImportError as error:
        raise EngineError(
            f"PyTorch's exporter cannot be had: {error}.", remedy="Run: pip install 'nncompile[compile]'."
        ) from error

    calling = Calling(subject.signature)
    args, kwargs = calling.arguments([torch.from_numpy(subject.example[name]) for name in calling.names])
    precision: Any = subject.precision
    try:
        with evaluation_mode(subject.module):
            return replace(subject, module=narrowed(subject.module, tuple(args), kwargs, precision))
    except Exception as error:
        raise EngineError(f"The module cannot be cast to {precision}: {first_line(error)}") from error
