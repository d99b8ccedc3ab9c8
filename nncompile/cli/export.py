"""`nncompile export`: a module to one verified .onnx file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nncompile.cli import console
from nncompile.cli.source import (
    Arguments,
    ModuleReference,
    Weights,
    axes_by_name,
    load_source,
    needs_compiler,
    parse_axes,
    random_examples,
)
from nncompile.cli.usage import UsageError, check_folder, wrong_usage
from nncompile_runtime.errors import NncompileError

if TYPE_CHECKING:
    from nncompile.compiled import CompiledModel
    from nncompile_runtime.manifest import ImagePreprocessing

# What each field of ImagePreprocessing wants, in the words of the option that sets it.
_IMAGE_FAULTS = {
    "size": "--image-size is a height and a width in pixels, from 1x1 to 65536x65536",
    "mode": "--image-mode is L or RGB",
    "mean": "--mean is one number, or one for each channel",
    "std": "--std is one number above 0, or one for each channel",
}


def export(
    module: ModuleReference,
    output: Annotated[Path, typer.Option("--output", "-o", help="The .onnx file to write.")],
    input_shape: Annotated[
        list[str] | None,
        typer.Option(
            "--input-shape",
            "-s",
            metavar="[NAME:]SIZES[:DTYPE]",
            help="Shape of an example input, such as 1x3x224x224; repeat for several inputs.",
        ),
    ] = None,
    input_file: Annotated[
        Path | None,
        typer.Option("--input", "-i", help="Example inputs: .npy for one, .npz for several by name."),
    ] = None,
    weights: Weights = None,
    arg: Arguments = None,
    static: Annotated[bool, typer.Option("--static", help="Keep the example's batch size.")] = False,
    dynamic_axis: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME:]AXIS=SIZE",
            help="Another axis that takes several sizes, such as tokens:1=length; may be repeated.",
        ),
    ] = None,
    target: Annotated[
        str, typer.Option(help="portable, cpu or cuda; the last two may use ONNX Runtime's own operators.")
    ] = "portable",
    precision: Annotated[
        str, typer.Option(help="float32, float16, bfloat16 or tf32; inputs and outputs stay as they are.")
    ] = "float32",
    exact: Annotated[
        bool,
        typer.Option("--exact", help="Native kernels without Winograd's algorithm: slower, rounds less."),
    ] = False,
    disable_pass: Annotated[
        list[str] | None, typer.Option("--disable-pass", help="Leave a pass out; may be repeated.")
    ] = None,
    no_verify: Annotated[bool, typer.Option("--no-verify", help="Do not compare with PyTorch.")] = False,
    tune: Annotated[
        bool, typer.Option("--tune", help="Measure plans on this machine for 10 s and keep the best.")
    ] = False,
    labels: Annotated[Path | None, typer.Option(help="Class names, one a line, in order.")] = None,
    image_size: Annotated[str | None, typer.Option(help="HEIGHTxWIDTH to resize images to.")] = None,
    image_mode: Annotated[str, typer.Option(help="L (grey) or RGB.")] = "RGB",
    mean: Annotated[str, typer.Option(help="Mean per channel on the 0..1 scale, comma-separated.")] = "0",
    std: Annotated[str, typer.Option(help="Deviation per channel, comma-separated.")] = "1",
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Compile a module, verify it against eager PyTorch, and write one .onnx file."""
    _check_output(output)
    preprocess = _preprocessing(image_size, image_mode, mean, std)
    names = _read_labels(labels) if labels else None
    needs_compiler()
    with wrong_usage():
        _check_compile_options(target, precision, disable_pass or [])
    axes = parse_axes(dynamic_axis or [])
    args, kwargs = _examples(input_shape, input_file)
    source = load_source(module, arg, weights)
    if weights is None:
        console.err.print("no --weights: exporting the weights that the constructor made", markup=False)

    import nncompile

    model = nncompile.compile(
        source,
        args,
        kwargs,
        dynamic_batch=not static,
        dynamic_axes=axes_by_name(axes, source),
        target=target,  # type: ignore[arg-type]  # checked above
        precision=precision,  # type: ignore[arg-type]
        exact=exact,
        disabled_passes=disable_pass or (),
        preprocess=preprocess,
        labels=names,
        verify=not no_verify,
        tune=tune,
        progress=True,
    )
    model.save(output)
    if as_json:
        console.print_json({"output": str(output), **model.report.as_dict()})
    else:
        _show(model, output)


def _check_output(path: Path) -> None:
    """Fail before the work, not after it."""
    if path.is_dir():
        raise NncompileError(f"{path} is a folder.", remedy="Give the name of the .onnx file to write.")
    if path.suffix.lower() != ".onnx":
        raise UsageError(f"{path} does not end in .onnx.", remedy=f"Write -o {path.with_suffix('.onnx')}.")
    check_folder(path)


def _show(model: CompiledModel, output: Path) -> None:
    seconds = ", ".join(f"{name} {took:.1f} s" for name, took in model.report.seconds.items())
    console.out.print(str(model.report), markup=False)
    console.out.print(f"wrote {output} ({console.size(model.report.size)}; {seconds})", markup=False)


def _examples(shapes: list[str] | None, file: Path | None) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if bool(shapes) == (file is not None):
        raise UsageError(
            "The example inputs are not given."
            if not shapes
            else "--input-shape and --input are both given.",
            remedy="Give --input-shape 1x3x224x224, or --input example.npy.",
        )
    if file is None:
        return random_examples(shapes or [])

    import torch

    from nncompile_runtime.arrays import read_arrays

    positional, named = read_arrays(file)
    return tuple(map(torch.from_numpy, positional)), {k: torch.from_numpy(v) for k, v in named.items()}


def _check_compile_options(target: str, precision: str, without: list[str]) -> None:
    """Refuse what is not offered; each message names the choices."""
    from nncompile.options import CompileOptions
    from nncompile.passes import selected

    selected(
        CompileOptions(
            target=target,  # type: ignore[arg-type]  # what this is about
            precision=precision,  # type: ignore[arg-type]
            disabled_passes=frozenset(without),
        )
    )


def _preprocessing(size: str | None, mode: str, mean: str, std: str) -> ImagePreprocessing | None:
    if size is None:
        if (mean, std) != ("0", "1"):
            raise UsageError("--mean and --std are given without --image-size.", remedy="Give all three.")
        return None

    from pydantic import ValidationError

    from nncompile_runtime.manifest import ImagePreprocessing

    given = {
        "size": size.lower().split("x"),
        "mode": mode,
        "mean": mean.split(","),
        "std": std.split(","),
    }
    try:
        return ImagePreprocessing.model_validate(given)
    except ValidationError as error:
        (fault, *_) = error.errors(include_url=False, include_input=False)
        option = next(iter(fault["loc"]), None)
        what = _IMAGE_FAULTS[str(option)] if option else str(fault["ctx"]["error"])
        raise UsageError(
            f"The image options do not fit: {what}.",
            remedy="For example: --image-size 224x224 --image-mode RGB --mean 0.485,0.456,0.406 "
            "--std 0.229,0.224,0.225.",
        ) from None


def _read_labels(path: Path) -> tuple[str, ...]:
    try:
        return tuple(path.read_text(encoding="utf-8-sig").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "this is not text in UTF-8"
        raise NncompileError(
            f"The labels in {path} cannot be read: {reason}.", remedy="Check --labels."
        ) from None
