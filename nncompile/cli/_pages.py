"""Benchmarks as HTML files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from nncompile.cli.source import exported_from
from nncompile.cli.usage import check_file
from nncompile_runtime import container
from nncompile_runtime.errors import NncompileError

if TYPE_CHECKING:
    import torch

    from nncompile.bench.drawing import Drawing
    from nncompile.bench.results import BenchReport


def check(path: Path) -> None:
    """Tell, before anything is measured, why no page can be written.

    Raises:
        UsageError: The path is a folder, or in none.
        NncompileError: A package is missing.
    """
    check_file("--html", path)
    try:
        import nncompile.bench.drawing
        import nncompile.bench.html  # noqa: F401
    except ModuleNotFoundError as error:
        raise NncompileError(
            f"An HTML page needs {error.name}, which is not installed.",
            remedy="Run: pip install 'nncompile[bench,cpu]' (or [bench,gpu]).",
        ) from error


def write(path: Path, report: BenchReport, graphs: dict[str, Drawing]) -> None:
    """Write the page.

    Raises:
        NncompileError: It cannot be written.
    """
    from nncompile.bench.html import page

    container.write(path, page(report, graphs).encode())


def drawings(file: Path, module: torch.nn.Module | None, batch: int) -> dict[str, Drawing]:
    """The exporter's graph, where the module is known, and the file's.

    Raises:
        ModelLoadError: The file cannot be loaded.
        CaptureError: The module cannot be captured, or does not take the file's inputs.
    """
    import onnx
    import onnx_ir as ir

    from nncompile.bench.drawing import draw
    from nncompile.cli._graphs import captured_again
    from nncompile_runtime.predictor import Predictor

    model = container.read(file)
    signature = Predictor(model, device="cpu").signature
    drawn = {}
    if module is not None:
        with exported_from(module, model):
            captured = captured_again(module, signature, model.precision)
        drawn["Before: as PyTorch exports it, unoptimised"] = draw(captured.graph, batch, signature.batch)
    compiled = ir.from_proto(onnx.load_from_string(model.data))
    drawn["After: the compiled file" if model.manifest else "The file"] = draw(
        compiled, batch, signature.batch
    )
    return drawn
