"""Plain ONNX Runtime with its default options: what the user had before."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from nncompile.bench.engines import Array, EngineError, Feed, Subject, first_line
from nncompile.bench.engines.exporting import plain_graph
from nncompile_runtime import container
from nncompile_runtime.session import onnxruntime

_ENDS_THE_PROCESS = "MatmulTransposeFusion"  # where `ModelFile.harmful_optimizers` names it
_TASKS = "/proc/self/task"  # Linux: one entry for each thread of this process


class Plain:
    """An `InferenceSession` of default `SessionOptions`, but for what would end the process."""

    name = "onnxruntime"
    compile_seconds = 0.0
    reopens = True

    def __init__(self, model: bytes | str, graph: str, inputs: tuple[str, ...]) -> None:
        """Open the session.

        Args:
            model: The model or its path.
            graph: Where the graph comes from, for the description.
            inputs: The feed's names in the order of the graph's inputs.
        """
        ort = onnxruntime()
        options, how = None, "default options"
        file = container.read(model) if isinstance(model, str) else container.parse(model, graph)
        if _ENDS_THE_PROCESS in file.harmful_optimizers("cpu"):
            options = ort.SessionOptions()
            options.add_session_config_entry("optimization.disable_specified_optimizers", _ENDS_THE_PROCESS)
            how = f"default options without {_ENDS_THE_PROCESS}, which can end the process here"
        self.description = f"ONNX Runtime {ort.__version__}, {how}, {graph}"
        before = _thread_count()
        self._session: Any = ort.InferenceSession(
            model, sess_options=options, providers=["CPUExecutionProvider"]
        )
        after = _thread_count()
        # The pool is created with the session; the calling thread is its last worker.
        self.threads = after - before + 1 if before and after else None
        names = [port.name for port in self._session.get_inputs()]
        if len(names) != len(inputs):
            raise ValueError(f"the graph has the inputs {names}, not {list(inputs)}")
        self._renamed = None if names == list(inputs) else list(zip(names, inputs, strict=True))

    def run(self, feed: Feed) -> list[Array]:
        """All outputs of the session."""
        if self._renamed is not None:
            feed = {theirs: feed[ours] for theirs, ours in self._renamed}
        outputs: list[Array] = self._session.run(None, feed)
        return outputs


@contextmanager
def opened(subject: Subject) -> Iterator[Plain]:
    """The engine for a subject: the exporter's graph of its module, or its file's graph without one.

    Raises:
        EngineError: The module cannot be exported, or ONNX Runtime refuses the graph.
    """
    graph = plain_graph(subject)
    try:
        engine = Plain(graph.path, graph.origin, tuple(spec.name for spec in subject.signature.inputs))
    except Exception as error:
        raise EngineError(f"ONNX Runtime refuses {graph.origin}: {first_line(error)}") from error
    engine.compile_seconds = graph.seconds
    yield engine


def _thread_count() -> int | None:
    try:
        return len(os.listdir(_TASKS))
    except OSError:
        return None
