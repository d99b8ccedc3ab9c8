"""The ONNX model that a user gets without nncompile: PyTorch's dynamo exporter as it comes."""

from __future__ import annotations

import shutil
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nncompile.bench.engines import EngineError, Feed, Subject, first_line
from nncompile.calling import Calling, evaluation_mode
from nncompile_runtime.manifest import Signature

if TYPE_CHECKING:
    import torch

_FILE, _STOPWATCH = "exported.onnx", "exported.seconds"


@dataclass(frozen=True)
class PlainGraph:
    """An ONNX file for engines that read one.

    Attributes:
        path: The file.
        origin: Where its graph comes from, for descriptions.
        seconds: How long the export took; 0 without a module.
    """

    path: str
    origin: str
    seconds: float


def plain_graph(subject: Subject) -> PlainGraph:
    """The exporter's graph of the subject's module, exported once; without a module the file itself.

    Raises:
        EngineError: The module cannot be exported.
    """
    file, stopwatch = subject.folder / _FILE, subject.folder / _STOPWATCH
    origin = "torch.onnx.export's graph"
    if subject.module is None:
        if file.exists():
            return PlainGraph(str(file), origin, 0.0)
        return PlainGraph(subject.path, "the file's own graph", 0.0)
    if not file.exists():
        start = time.perf_counter()
        try:
            model = export(subject.module, subject.signature, subject.example)
        except Exception as error:
            raise EngineError(f"PyTorch's exporter fails on the module: {first_line(error)}") from error
        file.write_bytes(model)
        stopwatch.write_text(repr(time.perf_counter() - start), encoding="ascii")
    return PlainGraph(str(file), origin, float(stopwatch.read_text(encoding="ascii")))


def is_exported(subject: Subject) -> bool:
    """Whether the subject's module was exported before, so that nothing which exports need be installed."""
    return (subject.folder / _FILE).exists()


def leave(exported: Path, folder: Path) -> None:
    """Put what was exported elsewhere where a subject of this folder finds it."""
    shutil.copyfile(exported, folder / _FILE)
    (folder / _STOPWATCH).write_text("0.0", encoding="ascii")


def export(module: torch.nn.Module, signature: Signature, example: Feed) -> bytes:
    """A serialised ModelProto whose free dimensions are the signature's, the exporter's optimiser on.

    Args:
        module: The module.
        signature: How it is called.
        example: Inputs by graph input name; of batch 2 or more, because torch.export takes 1 for a
            constant.

    Raises:
        Exception: The exporter's own error.
    """
    import torch

    batch = torch.export.Dim(signature.batch) if signature.batch else None

    def free(shape: tuple[int | str, ...]) -> dict[int, Any]:
        symbols = {i: size for i, size in enumerate(shape) if isinstance(size, str)}
        return {i: batch if size == signature.batch else torch.export.Dim.AUTO for i, size in symbols.items()}

    calling = Calling(signature)
    args, kwargs = calling.arguments([torch.from_numpy(example[name]) for name in calling.names])
    shapes, shapes_by_name = calling.arguments([free(spec.shape) for spec in signature.inputs])
    dynamic: Any = tuple(shapes)
    if kwargs:
        positional = [argument.name for argument in signature.arguments if not argument.keyword_only]
        dynamic = dict(zip(positional, shapes, strict=True)) | shapes_by_name
    with evaluation_mode(module), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module, tuple(args), kwargs=kwargs, dynamo=True, dynamic_shapes=dynamic, verbose=False
        )
    if program is None:
        raise RuntimeError("torch.onnx.export returned nothing")
    serialised: bytes = program.model_proto.SerializeToString()
    return serialised
