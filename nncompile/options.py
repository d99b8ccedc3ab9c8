"""What a compile was asked to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

from nncompile_runtime.errors import NncompileError
from nncompile_runtime.manifest import ImagePreprocessing, Precision, Target


@dataclass(frozen=True)
class CompileOptions:
    """The options of `compile`, checked.

    Attributes:
        dynamic_batch: Whether dimension 0 of inputs and outputs takes any size.
        dynamic_axes: Other free dimensions, as input -> axis -> name of the size.
        target: Which operators the graph may hold: `portable` keeps to the ONNX standard (a fused
            region is a function of its operators).
        precision: How the compiled model computes: `float32` as the module does, `float16` and `bfloat16`
            as a copy of it cast to them, `tf32` with factors rounded to 10 bits on an NVIDIA GPU.
        exact: Whether the native kernels are to do without Winograd's algorithm.
        passes: Names of the passes to run, in any order; None runs them all.
        disabled_passes: Names of passes to leave out.
        preprocess: How an image file becomes an input.
        labels: Class names by index.
        verify: Whether to compare with eager PyTorch.
    """

    dynamic_batch: bool = True
    dynamic_axes: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    target: Target = "portable"
    precision: Precision = "float32"
    exact: bool = False
    passes: tuple[str, ...] | None = None
    disabled_passes: frozenset[str] = frozenset()
    preprocess: ImagePreprocessing | None = None
    labels: tuple[str, ...] | None = None
    verify: bool = True

    def __post_init__(self) -> None:
        """Refuse values that mean nothing.

        Raises:
            NncompileError: An option has a value that is not offered.
        """
        if self.labels is not None and not all(isinstance(label, str) for label in self.labels):
            raise NncompileError(
                f"labels={self.labels!r:.80} are not all strings.", remedy="Give the class names."
            )
        if self.preprocess is not None and not isinstance(self.preprocess, ImagePreprocessing):
            raise NncompileError(
                f"preprocess is of type {type(self.preprocess).__name__}.",
                remedy="Give an nncompile.ImagePreprocessing.",
            )
        _check_axes(self.dynamic_axes)
        for name, value, choices in (
            ("target", self.target, get_args(Target)),
            ("precision", self.precision, get_args(Precision)),
        ):
            if value not in choices:
                raise NncompileError(
                    f"{name}={value!r} is not offered.", remedy=f"Choose from {', '.join(choices)}."
                )
        if self.target == "cpu" and self.precision in ("bfloat16", "tf32"):
            raise NncompileError(
                f"precision={self.precision!r} is not for target='cpu': ONNX Runtime's CPU has no kernels "
                "for it, so it would cost accuracy and gain nothing.",
                remedy="Choose precision='float32' or 'float16', or target='portable' or 'cuda'.",
            )


def _check_axes(axes: Any) -> None:
    """Refuse what is not input -> axis -> name, in types at least; only capture knows the inputs."""
    well = isinstance(axes, Mapping) and all(
        isinstance(name, str)
        and isinstance(free, Mapping)
        and all(
            type(axis) is int and isinstance(size, str) and size.isidentifier() for axis, size in free.items()
        )
        for name, free in axes.items()
    )
    if not well:
        raise NncompileError(
            f"dynamic_axes={axes!r:.80} does not say which axes are free.",
            remedy="Give, by input, the axes and a name for the size of each: {'tokens': {1: 'length'}}.",
        )
