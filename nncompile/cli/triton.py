"""`nncompile triton`: a file into a model repository of Triton."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nncompile.cli import console
from nncompile.cli.usage import wrong_usage


def triton(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The .onnx file.")],
    repository: Annotated[Path, typer.Argument(metavar="REPOSITORY", help="The model repository's folder.")],
    name: Annotated[str | None, typer.Option(help="What clients call it; FILE's name by default.")] = None,
    version: Annotated[
        int | None, typer.Option(min=1, help="Its version; by default the one after the newest.")
    ] = None,
    device: Annotated[
        str, typer.Option(help="cpu, cuda: all GPUs, cuda:1, or auto: GPUs if there are any.")
    ] = "auto",
    max_batch_size: Annotated[
        int | None,
        typer.Option(min=0, help="The most rows of a call; 64 by default, 0 where requests must stay apart."),
    ] = None,
    instances: Annotated[int, typer.Option(min=1, help="Sessions that run at the same time.")] = 1,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads of a session on the CPU; by default one for each core.")
    ] = None,
    kernels: Annotated[
        str | None,
        typer.Option(metavar="PATH", help="The native kernels' library, as the server will find it."),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace that version, and a configuration that differs.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was written as JSON.")] = False,
) -> None:
    """Write config.pbtxt and model.onnx for Triton's ONNX Runtime backend."""
    from nncompile.integrations.triton import write
    from nncompile_runtime import devices

    with wrong_usage():
        devices.candidates(device)
    written = write(
        file,
        repository,
        name=name,
        version=version,
        device=device,
        max_batch_size=max_batch_size,
        instances=instances,
        threads=threads,
        kernels=kernels,
        overwrite=overwrite,
    )
    for note in written.notes:
        console.err.print(note, markup=False)
    if as_json:
        found = {
            "folder": str(written.folder),
            "max_batch_size": written.max_batch_size,
            "notes": list(written.notes),
        }
        console.print_json(found)
    else:
        console.out.print(f"wrote {written.folder}", markup=False)
