"""The engines that are compared: one peer a file, imported when it is asked for by name."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from nncompile_runtime.errors import NncompileError
from nncompile_runtime.manifest import Signature
from nncompile_runtime.predictor import Predictor, load

if TYPE_CHECKING:
    import torch

Array = npt.NDArray[Any]
Feed = Mapping[str, Array]

# Each name is a module of this package that holds `opened(subject)`; a dash stands for its underscore.
NAMES = (
    "nncompile",
    "nncompile-tuned",
    "onnxruntime",
    "openvino",
    "ncnn",
    "torch-compile",
    "torch-compile-max",
    "eager",
)

# The same on a GPU, where most engines are files of their own: name -> module.
ON_CUDA = {
    "nncompile": "cuda_nncompile",
    "nncompile-tuned": "cuda_nncompile_tuned",
    "onnxruntime": "cuda_onnxruntime",
    "eager": "cuda_eager",
    "cuda-graph": "cuda_graph",
    "torch-compile-reduce-overhead": "cuda_torch_compile",
    "torch-compile-max-autotune": "cuda_torch_compile_max",
}


class Engine(Protocol):
    """One way to run the model: numpy arrays in, numpy arrays out; on a GPU also what lies there already."""

    @property
    def name(self) -> str:
        """What the engine is chosen by."""

    @property
    def description(self) -> str:
        """One line: which version runs which graph, and how."""

    @property
    def threads(self) -> int | None:
        """Threads that compute, the calling one included; None where that cannot be told."""

    @property
    def compile_seconds(self) -> float:
        """Seconds spent until now on what is done once a model: exporting, converting, compiling, tuning."""

    @property
    def reopens(self) -> bool:
        """Whether opening it again is cheap, and places its memory anew."""

    def run(self, feed: Feed) -> list[Array]:
        """All outputs, in the order of the signature, for inputs by graph input name.

        It returns when they are there to be read: arrays for arrays, and for CUDA tensors what stays on
        the GPU, of which `on_host` makes arrays.
        """


class EngineError(NncompileError):
    """The engine cannot be had here; the message says why and what would help."""


@dataclass(frozen=True)
class Subject:
    """What is benchmarked.

    Attributes:
        path: The model file.
        signature: How it is called.
        module: The module it was compiled from, where the caller has it.
        threads: Threads for engines whose number of threads can be set.
        example: Inputs by graph input name, of a typical batch.
        folder: Where engines put the files that they make of the module, and find those made before.
        device: Where it runs: `cpu`, `cuda` or `cuda:1`.
        precision: What the file computes in; engines on a GPU that run the module compute in it too.
        batches: What it is measured at, which on a GPU is what plans are looked for at.
        transfers: Likewise: `none` where inputs and outputs stay on the GPU.
    """

    path: str
    signature: Signature
    module: torch.nn.Module | None
    threads: int
    example: Feed
    folder: Path
    device: str = "cpu"
    precision: str = "float32"
    batches: tuple[int, ...] = ()
    transfers: str = "in-out"

    @cached_property
    def predictor(self) -> Predictor:
        """The model file, loaded with its default plan."""
        return load(self.path, device=self.device)


def open_engine(name: str, subject: Subject) -> AbstractContextManager[Engine]:
    """An engine, ready to run while its context is open.

    Raises:
        EngineError: The engine cannot be had, here or on entering the context.
        NncompileError: There is no engine of that name.
    """
    check_names([name], subject.device)
    module = name.replace("-", "_") if subject.device == "cpu" else ON_CUDA[name]
    try:
        peer = import_module(f"{__name__}.{module}")
    except ImportError as error:
        raise EngineError(
            f"{error.name or name} cannot be imported: {error}.",
            remedy="Run: pip install 'nncompile[bench]'.",
        ) from error
    context: AbstractContextManager[Engine] = peer.opened(subject)
    return context


def names_on(device: str) -> tuple[str, ...]:
    """The engines that there are for a device."""
    return NAMES if device == "cpu" else tuple(ON_CUDA)


def check_names(names: list[str], device: str = "cpu") -> None:
    """Refuse names that are no engine's.

    Raises:
        NncompileError: One is not; the message lists those that are.
    """
    known = names_on(device)
    for name in names:
        if name not in known:
            where = "" if device == "cpu" else f" on {device}"
            raise NncompileError(
                f"There is no engine {name!r}{where}.", remedy=f"Choose from {', '.join(known)}."
            )


def on_host(output: Any) -> Array:
    """A copy of what an engine returned, as an array; bfloat16, which numpy lacks, as float32."""
    if not hasattr(output, "numpy"):
        return np.array(output)
    if str(getattr(output, "dtype", "")) == "torch.bfloat16":
        output = output.float()
    return np.array((output.cpu() if hasattr(output, "cpu") else output).numpy())


def first_line(error: Exception) -> str:
    """An error of someone else's in one line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}"[:400] if lines else type(error).__name__
