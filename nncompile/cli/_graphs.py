"""The graphs that `nncompile inspect` looks at: the file's, the exporter's, and what passes made of that."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING

from nncompile_runtime.errors import NncompileError

if TYPE_CHECKING:
    import torch

    from nncompile.costs import GraphCost
    from nncompile.stages import CapturedModel, PassReport
    from nncompile_runtime.container import ModelFile
    from nncompile_runtime.manifest import Precision, Signature


@dataclass(frozen=True)
class Explained:
    """What one pass did, and what it is for."""

    summary: str
    report: PassReport


@contextmanager
def compiler_needed() -> Iterator[None]:
    """What is imported inside comes with the extra `compile`.

    Raises:
        NncompileError: A package is missing.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise NncompileError(
            f"Looking at a graph needs {error.name}, which is not installed.",
            remedy="Run: pip install 'nncompile[compile,cpu]' (or [compile,gpu]).",
        ) from error


def file_cost(file: ModelFile, signature: Signature, batch: int) -> GraphCost:
    """What the nodes of a file cost.

    Raises:
        NncompileError: A package is missing.
    """
    with compiler_needed():
        import onnx
        import onnx_ir as ir

        from nncompile.costs import graph_cost
    return graph_cost(ir.from_proto(onnx.load_from_string(file.data)), batch, signature.batch)


def captured_cost(captured: CapturedModel, batch: int) -> GraphCost:
    """What the nodes of the exporter's graph cost."""
    from nncompile.costs import graph_cost

    return graph_cost(captured.graph, batch, captured.signature.batch)


def captured_again(
    module: torch.nn.Module, signature: Signature, precision: Precision = "float32"
) -> CapturedModel:
    """The exporter's graph of the module that a file was made from, for inputs of the file's shapes.

    Raises:
        CaptureError: The module cannot be captured, or does not take such inputs.
    """
    import torch

    from nncompile.bench.inputs import make_feed
    from nncompile.calling import Calling, evaluation_mode
    from nncompile.capture import capture
    from nncompile.options import CompileOptions

    symbols = {size for spec in signature.inputs for size in spec.shape if isinstance(size, str)}
    unknown = sorted(symbols - {signature.batch, *signature.sizes})
    sizes = {name: row.typical for name, row in signature.sizes.items()}
    # No two alike: capture takes dimension 0 of one size for one dimension.
    sizes |= {symbol: size for size, symbol in enumerate(unknown, 3 + max(sizes.values(), default=0))}
    batch = next(size for size in count(2) if size not in sizes.values())
    feed = make_feed(signature, batch, sizes)
    axes = {
        spec.name: {
            i: s for i, s in enumerate(spec.shape) if s in signature.sizes or (i and s == signature.batch)
        }
        for spec in signature.inputs
    }
    calling = Calling(signature)
    args, kwargs = calling.arguments([torch.from_numpy(feed[name]) for name in calling.names])
    options = CompileOptions(
        dynamic_batch=signature.batch is not None, dynamic_axes=axes, precision=precision
    )
    with evaluation_mode(module):
        return capture(module, tuple(args), kwargs, options)


def explained(captured: CapturedModel, file: ModelFile) -> tuple[Explained, ...]:
    """Run the passes that made a file, or all where it does not say, on the exporter's graph.

    Raises:
        PassError: A pass is broken.
    """
    from nncompile import passes
    from nncompile.options import CompileOptions

    manifest = file.manifest
    if manifest is None:
        options = CompileOptions()
    else:
        offered = set(passes.pass_names())
        options = CompileOptions(
            target=manifest.target,
            precision=manifest.precision,
            passes=tuple(step.name for step in manifest.passes if step.name in offered),
        )
    steps = passes.selected(options)
    summaries = {step.name: step.summary for step in steps}
    return tuple(Explained(summaries[r.name], r) for r in passes.optimize(captured, steps).passes)
