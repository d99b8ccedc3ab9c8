"""OpenVINO's CPU plugin, in float32, compiled for each batch: with fixed shapes it is fastest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import openvino

from nncompile.bench.engines import Array, EngineError, Feed, Subject, first_line
from nncompile.bench.engines.exporting import plain_graph

Shapes = tuple[tuple[int, ...], ...]


class OpenVino:
    """Synchronous inference requests, which read numpy arrays and answer in their own memory.

    The latency hint gives one request all threads, whatever the batch; precision is pinned because the
    plugin's default is bfloat16 on processors that compute with it (INFERENCE_PRECISION_HINT,
    https://docs.openvino.ai/2026/openvino-workflow/running-inference/optimize-inference/precision-control.html).
    """

    name = "openvino"
    reopens = True

    def __init__(self, path: str, graph: str, inputs: Sequence[str], threads: int) -> None:
        """Read the model.

        Args:
            path: The ONNX file.
            graph: Where it comes from, for the description.
            inputs: The feed's names in the order of the graph's inputs.
            threads: Threads that compute.
        """
        version = openvino.__version__.split("-")[0]
        self.description = f"OpenVINO {version}, f32, latency hint, fixed shapes, {graph}"
        self.threads: int | None = threads
        self.compile_seconds = 0.0
        self._core: Any = openvino.Core()
        self._path = path
        self._names = tuple(inputs)
        self._requests: dict[Shapes, Any] = {}
        found = len(self._core.read_model(path).inputs)
        if found != len(inputs):
            raise ValueError(f"the graph has {found} inputs, not {len(inputs)}")

    def run(self, feed: Feed) -> list[Array]:
        """All outputs of the request for these shapes, valid until its next run."""
        arrays = [feed[name] for name in self._names]
        shapes = tuple(array.shape for array in arrays)
        request = self._requests.get(shapes)
        if request is None:
            request = self._requests[shapes] = self._compiled(shapes)
        return list(request.infer(arrays, share_inputs=True, share_outputs=True).values())

    def _compiled(self, shapes: Shapes) -> Any:
        model = self._core.read_model(self._path)
        model.reshape({number: list(shape) for number, shape in enumerate(shapes)})
        options = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": self.threads,
        }
        return self._core.compile_model(model, "CPU", options).create_infer_request()


@contextmanager
def opened(subject: Subject) -> Iterator[OpenVino]:
    """The engine for a subject: the exporter's graph of its module, or its file's graph without one.

    Raises:
        EngineError: The module cannot be exported, or OpenVINO refuses the graph.
    """
    graph = plain_graph(subject)
    names = [spec.name for spec in subject.signature.inputs]
    try:
        engine = OpenVino(graph.path, graph.origin, names, subject.threads)
    except Exception as error:
        remedy = "" if subject.module else "Give the module that the file was compiled from."
        raise EngineError(f"OpenVINO refuses {graph.origin}: {first_line(error)}", remedy=remedy) from error
    engine.compile_seconds = graph.seconds
    yield engine
