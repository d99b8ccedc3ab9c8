"""The options that name a module and its example inputs, shared by export, verify and bench."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nncompile.cli import console
from nncompile.cli.usage import UsageError, wrong_usage
from nncompile_runtime.errors import NncompileError

if TYPE_CHECKING:
    import torch

    from nncompile_runtime.container import ModelFile

ModuleReference = Annotated[
    str, typer.Argument(metavar="MODULE", help="path/to/file.py:Class, package.module:Class, or a factory.")
]
Arguments = Annotated[
    list[str] | None,
    typer.Option("--arg", metavar="NAME=VALUE", help="A constructor argument; may be repeated."),
]
Weights = Annotated[
    Path | None,
    typer.Option("--weights", "-w", help="State dict: .safetensors, or saved by torch.save."),
]


def needs_compiler() -> None:
    """For what a serving machine lacks.

    Raises:
        NncompileError: A package of the extra `compile` is not installed.
    """
    try:
        import nncompile.passes
        import nncompile.source  # noqa: F401
    except ModuleNotFoundError as error:
        raise NncompileError(
            f"This command needs {error.name}, which is not installed.",
            remedy="Run: pip install 'nncompile[compile,cpu]' (or [compile,gpu]).",
        ) from error


def load_source(reference: str, arguments: list[str] | None, weights: Path | None) -> torch.nn.Module:
    """The module that the options name; see `nncompile.source.load_module`."""
    needs_compiler()
    from nncompile.source import load_module, parse_arguments, split_reference

    with wrong_usage():
        split_reference(reference)
        parsed = parse_arguments(arguments or [])
    return load_module(reference, parsed, weights)


@contextmanager
def exported_from(module: torch.nn.Module, file: ModelFile) -> Iterator[None]:
    """While a file is held against the module that the user says it was exported from.

    Where the module is of another class than the file records, that is said on stderr, or it is the remedy
    of what goes wrong inside.
    """
    given, recorded = type(module).__name__, file.manifest.model_name if file.manifest else None
    if recorded is None or given == recorded:
        yield
        return
    other = f"{file.name} was exported from {recorded}, and this is {given}"
    try:
        yield
    except NncompileError as error:
        raise type(error)(error.problem, remedy=f"{other}: name {recorded}.") from error
    console.err.print(other, markup=False)


def parse_shape(text: str) -> tuple[str | None, tuple[int, ...], str]:
    """`x:1x3x32x32:int64` to its name (or None), sizes and dtype.

    Raises:
        UsageError: The text is no shape.
    """
    parts = text.split(":")
    name = parts.pop(0) if len(parts) > 1 and not parts[0][:1].isdigit() else None
    sizes = parts[0].lower().split("x")
    if len(parts) > 2 or not all(size.isascii() and size.isdigit() for size in sizes):
        raise UsageError(
            f"--input-shape {text!r} is no shape.",
            remedy="Write 1x3x224x224, NAME:1x3x224x224 or NAME:1x128:int64.",
        )
    return name, tuple(map(int, sizes)), parts[1] if len(parts) > 1 else "float32"


def parse_axes(texts: list[str]) -> dict[str | None, dict[int, str]]:
    """`tokens:1=length` and the like, by input; None stands for the first one.

    Raises:
        UsageError: A text is no axis.
    """
    axes: dict[str | None, dict[int, str]] = {}
    for text in texts:
        found = re.fullmatch(r"(?:(\w+):)?(-?\d+)=([^\W\d]\w*)", text, re.ASCII)
        if found is None:
            raise UsageError(
                f"--dynamic-axis {text!r} is no axis.",
                remedy="Write AXIS=SIZE or NAME:AXIS=SIZE, such as 2=height or tokens:1=length.",
            )
        axes.setdefault(found[1], {})[int(found[2])] = found[3]
    return axes


def axes_by_name(
    axes: dict[str | None, dict[int, str]], module: torch.nn.Module
) -> dict[str, dict[int, str]]:
    """What `parse_axes` read as `dynamic_axes` of `nncompile.compile`: the first input by its name, too."""
    first = next(iter(inspect.signature(module.forward).parameters), "")
    named: dict[str, dict[int, str]] = {}
    for name, free in axes.items():
        named.setdefault(name or first, {}).update(free)
    return named


def random_tensor(sizes: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator) -> torch.Tensor:
    """Standard normal values; zeros where they are integers or booleans, which is in range of any table."""
    import torch

    if not dtype.is_floating_point:
        return torch.zeros(sizes, dtype=dtype)
    return torch.randn(sizes, generator=generator).to(dtype)


def random_examples(shapes: list[str]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Seeded normal tensors of the given shapes; integers and booleans are zeros.

    Returns:
        Positional inputs, and inputs by name.

    Raises:
        UsageError: A text is no shape, or names no dtype.
    """
    import torch

    generator = torch.Generator().manual_seed(0)
    positional: list[Any] = []
    named: dict[str, Any] = {}
    for name, sizes, dtype in map(parse_shape, shapes):
        kind = getattr(torch, dtype, None)
        if not isinstance(kind, torch.dtype):
            raise UsageError(
                f"{dtype!r} is no dtype.", remedy="Use float32, float64, float16, int64, int32 or bool."
            )
        tensor = random_tensor(sizes, kind, generator)
        if name is None:
            positional.append(tensor)
        else:
            named[name] = tensor
    return tuple(positional), named
