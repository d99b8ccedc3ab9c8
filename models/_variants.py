"""Variants of a network to time beside plain ONNX Runtime: passes left out, another plan."""

import warnings
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn

from nncompile import artifact, passes, verify
from nncompile.bench.engines import Array, Engine, Feed
from nncompile.bench.engines.exporting import export
from nncompile.bench.engines.onnxruntime import Plain
from nncompile.bench.inputs import make_feed
from nncompile.bench.sampling import Samples, sample
from nncompile.bench.sessions import opened
from nncompile.bench.timing import Schedule
from nncompile.calling import Calling
from nncompile.capture import capture
from nncompile.options import CompileOptions
from nncompile.stages import CapturedModel
from nncompile_runtime import container
from nncompile_runtime.machine import this_machine
from nncompile_runtime.manifest import Signature
from nncompile_runtime.plan import default_plan
from nncompile_runtime.predictor import Predictor

YARDSTICK = "onnxruntime"


class Variant:
    """An artifact, loaded and called as a user would."""

    threads = None
    compile_seconds = 0.0
    reopens = True

    def __init__(
        self, name: str, data: bytes, signature: Signature, plan: Mapping[str, object] | None = None
    ) -> None:
        """Open a session for an artifact; `plan` says where it differs from the default plan."""
        self.name = name
        chosen = default_plan(this_machine()).model_copy(update=dict(plan or {}))
        predictor = Predictor(container.parse(data, name), device="cpu", plan=chosen)
        self.description = f"predict, {predictor.session.kernels.note}"
        calling = Calling(signature)
        self._names = calling.names
        self._predict = calling.adapt(predictor.predict)

    def run(self, feed: Feed) -> list[Array]:
        """All outputs of `predict`."""
        return self._predict([feed[name] for name in self._names])


def compiled(captured: CapturedModel, skip: frozenset[str] = frozenset()) -> tuple[bytes, dict[str, int]]:
    """An artifact made with all passes but for those to skip; and how often each changed the graph."""
    optimized = passes.optimize(captured, passes.selected(CompileOptions()), skip)
    data = artifact.build(verify.skip(optimized), CompileOptions(verify=False))
    return data, {report.name: report.changes for report in optimized.passes}


def captured_and_exported(
    build: Callable[[], nn.Module], shape: tuple[int, ...]
) -> tuple[CapturedModel, bytes]:
    """A network of random weights as we capture it, and as PyTorch exports it by default.

    Raises:
        ImportError: The network needs a package that is missing; the message says which.
        NncompileError: It cannot be captured.
    """
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        torch.default_generator.manual_seed(0)
        warnings.filterwarnings("ignore", message="dropout2d: Received a 2-D input")
        module = _with_live_statistics(build()).eval()
        captured = capture(module, torch.randn(2, *shape), None, CompileOptions())
        return captured, export(module, captured.signature, make_feed(captured.signature, 2))


def _with_live_statistics(module: nn.Module) -> nn.Module:
    """Give batch norms statistics as training leaves them: with 0 and 1 a wrong fold would go unnoticed."""
    for part in module.modules():
        if (
            isinstance(part, nn.BatchNorm2d)
            and part.running_mean is not None
            and part.running_var is not None
        ):
            part.running_mean.normal_(0, 0.1)
            part.running_var.uniform_(0.5, 1.5)
    return module


def timed(
    variants: Mapping[str, Callable[[], Engine]],
    exported: bytes,
    signature: Signature,
    batch: int,
    schedule: Schedule,
) -> Samples:
    """Check and time variants beside plain ONNX Runtime, all of them opened anew in each session.

    Args:
        variants: What opens each, by name.
        exported: The network as PyTorch exports it, which plain ONNX Runtime runs.
        signature: How they are called.
        batch: Samples in one call.
        schedule: How long and how often.
    """
    names = tuple(spec.name for spec in signature.inputs)

    def plain() -> Engine:
        return Plain(exported, "torch.onnx.export's graph", names)

    def opener(make: Callable[[], Engine]) -> Callable[[], AbstractContextManager[Engine]]:
        return lambda: nullcontext(make())

    with opened({name: opener(make) for name, make in {YARDSTICK: plain, **variants}.items()}) as sessions:
        return sample(sessions, {batch: make_feed(signature, batch)}, schedule, YARDSTICK)
