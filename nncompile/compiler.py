"""`compile`: the stages in order and nothing else."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nncompile import artifact, passes, verify
from nncompile.calling import evaluation_mode
from nncompile.capture import capture
from nncompile.compiled import CompiledModel
from nncompile.options import CompileOptions
from nncompile.passes.contract import BrokenPassError
from nncompile.progress import Phases
from nncompile.report import CompileReport
from nncompile.stages import CapturedModel, OptimizedModel, VerifiedModel
from nncompile_runtime.errors import NncompileError
from nncompile_runtime.manifest import ImagePreprocessing, Precision, Target

if TYPE_CHECKING:
    import torch

_log = logging.getLogger("nncompile")


def compile(  # noqa: A001 - the public name, as in torch.compile
    module: torch.nn.Module,
    example_inputs: Any = (),
    example_kwargs: Mapping[str, Any] | None = None,
    *,
    dynamic_batch: bool = True,
    dynamic_axes: Mapping[str, Mapping[int, str]] | None = None,
    target: Target = "portable",
    precision: Precision = "float32",
    exact: bool = False,
    passes: Sequence[str] | None = None,
    disabled_passes: Sequence[str] = (),
    preprocess: ImagePreprocessing | None = None,
    labels: Sequence[str] | None = None,
    verify: bool = True,
    tune: bool = False,
    progress: bool = False,
) -> CompiledModel:
    """Compile a module for inference: capture, optimise, verify against eager PyTorch.

    Args:
        module: Compiled in evaluation mode; it is left in the mode it was in. Lazy layers are
            materialised by the example inputs.
        example_inputs: A tensor, or a tuple of positional inputs, of typical shapes and values.
        example_kwargs: Keyword inputs.
        dynamic_batch: Whether dimension 0 of every input and output takes any size.
        dynamic_axes: Other dimensions that take several sizes, as input -> axis -> a name for the size:
            `{"tokens": {1: "length"}, "mask": {1: "length"}}`. Axes of one name have one size. Which sizes
            the model takes is found out and kept in its signature (`model.signature.sizes`).
        target: `portable` keeps to standard ONNX operators (a fused region is a function of them);
            `cpu` and `cuda` may use ONNX Runtime's.
        precision: `float32` computes as the module does, `float16` and `bfloat16` as a copy of it cast to
            them, called with the same dtypes as the module; `tf32` allows an NVIDIA GPU to round factors
            of float32 to 10 bits. See docs/precision.md.
        exact: Whether the native kernels do without Winograd's algorithm, which is faster and rounds
            more; kept in the artifact. Without those kernels it changes nothing.
        passes: Names of the passes to run; None runs them all.
        disabled_passes: Names of passes to leave out.
        preprocess: How an image file becomes an input, kept in the artifact.
        labels: Class names by index, kept in the artifact.
        verify: Whether to compare with eager PyTorch; without it, the artifact says so.
        tune: Whether to measure plans on this machine afterwards, for about 10 seconds, and keep the
            best in the artifact; see `CompiledModel.tune`.
        progress: Whether to show the phases on stderr, where that is a terminal.

    Raises:
        CaptureError: The module cannot be captured, does not take the example inputs, or overflows in the
            precision.
        PassError: A name in `passes` or `disabled_passes` is not a pass, or the model is too large.
        VerificationError: The graph is wrong with no pass at all.
        NncompileError: An option has a value that is not offered, or ONNX Runtime is missing.
    """
    for name, given in (("labels", labels), ("passes", passes), ("disabled_passes", disabled_passes)):
        if isinstance(given, str):
            raise NncompileError(f"{name}={given!r} is one string.", remedy="Give a list of names.")
    options = CompileOptions(
        dynamic_batch=dynamic_batch,
        dynamic_axes=dynamic_axes or {},
        target=target,
        precision=precision,
        exact=exact,
        passes=None if passes is None else tuple(passes),
        disabled_passes=frozenset(disabled_passes),
        preprocess=preprocess,
        labels=None if labels is None else tuple(labels),
        verify=verify,
    )
    phases = Phases(shown=progress)
    model = compile_with(module, example_inputs, example_kwargs, options, phases)
    if tune:
        with phases:
            phases.start("tune")
            model.tune()
    return model


def compile_with(
    module: torch.nn.Module,
    example_inputs: Any,
    example_kwargs: Mapping[str, Any] | None,
    options: CompileOptions,
    phases: Phases,
) -> CompiledModel:
    """Compile with checked options; see `compile`."""
    passes.selected(options)
    with evaluation_mode(module), phases:
        phases.start("capture")
        captured = capture(module, example_inputs, example_kwargs, options)
        _check_labels(captured, options)
        _check_images(captured, options)
        verified = _optimize_and_verify(captured, options, phases)
        phases.start("load")
        data = artifact.build(verified, options)
        report = CompileReport(
            verified.optimized.passes,
            verified.verification,
            phases.seconds,
            len(data),
            options.precision,
            verified.exact,
        )
        return CompiledModel(data, captured.name, report, verified.session)


def _check_labels(captured: CapturedModel, options: CompileOptions) -> None:
    """Labels name the classes of the first output; one too few would name the wrong ones."""
    shape = captured.signature.outputs[0].shape
    if options.labels is None or len(shape) != 2 or not isinstance(shape[1], int):
        return
    if len(options.labels) != shape[1]:
        raise NncompileError(
            f"{len(options.labels)} labels are given for {shape[1]} classes.",
            remedy="Give one for each.",
        )


def _check_images(captured: CapturedModel, options: CompileOptions) -> None:
    """Images become the first input; where they cannot, no image would ever be read."""
    if options.preprocess is None or not captured.signature.inputs:
        return
    spec, how = captured.signature.inputs[0], options.preprocess
    made = (1 if how.mode == "L" else 3, *how.size)
    wanted = spec.shape[1:]
    fits = len(wanted) == len(made) and all(
        a == b or isinstance(a, str) for a, b in zip(wanted, made, strict=True)
    )
    if not fits:
        raise NncompileError(
            f"Images would become {list(made)} (mode {how.mode}), and input {spec.name!r} is {spec}.",
            remedy="Give the height, the width and the mode that the input has: L for 1 channel, RGB for 3.",
        )


def _optimize_and_verify(captured: CapturedModel, options: CompileOptions, phases: Phases) -> VerifiedModel:
    steps = passes.selected(options)
    broken: set[str] = set()

    def optimize(skip: frozenset[str]) -> OptimizedModel:
        """Run the passes; one that raises or leaves the graph malformed is left out, loudly."""
        while True:
            try:
                return passes.optimize(captured, steps, skip | broken)
            except BrokenPassError as error:
                _log.warning("%s It is left out of this compile.", error)
                broken.add(error.name)

    phases.start("optimise")
    first = optimize(frozenset())
    if options.verify:
        phases.start("verify")
        verified = verify.verify(
            captured,
            lambda skip: optimize(skip) if skip else first,
            precision=options.precision,
            exact=options.exact,
        )
    else:
        verified = verify.skip(first, precision=options.precision, exact=options.exact)
    if not broken:
        return verified
    dropped = (*sorted(broken), *verified.verification.dropped_passes)
    record = verified.verification.model_copy(update={"dropped_passes": dropped})
    return dataclasses.replace(verified, verification=record)
