"""`nncompile verify`: does a file still answer as the module does?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nncompile.cli import console
from nncompile.cli.source import Arguments, Weights, exported_from, load_source
from nncompile_runtime.errors import ModelLoadError

if TYPE_CHECKING:
    import torch

    from nncompile_runtime.manifest import Signature, TensorSpec


def verify(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The .onnx file.")],
    module: Annotated[str, typer.Argument(metavar="MODULE", help="path/to/file.py:Class or a factory.")],
    weights: Weights = None,
    arg: Arguments = None,
    device: Annotated[str, typer.Option(help="Where the file is run: cpu, cuda or cuda:1.")] = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="Print the record as JSON.")] = False,
) -> None:
    """Compare a saved file with the module it was exported from; exit code 1 where they differ."""
    from nncompile_runtime import container, devices

    (where,) = devices.candidates(device)[:1]
    model = container.read(file)
    if model.manifest is None:
        raise ModelLoadError(f"{file} has no manifest.", remedy="Verify a file that nncompile export wrote.")
    source = load_source(module, arg, weights)

    from nncompile.calling import Calling
    from nncompile.capture.precision import narrowed
    from nncompile.report import verification_lines
    from nncompile.verify import verify_file

    about = model.manifest
    example = _example(about.signature)
    args, kwargs = Calling(about.signature).arguments(example)
    with exported_from(source, model):
        narrow = narrowed(source.eval(), tuple(args), kwargs, about.precision)
        record = verify_file(model, narrow, example, source, where)
    if as_json:
        console.print_json(record.model_dump(mode="json"))
    else:
        console.out.print("\n".join(verification_lines(record)), markup=False)


def _example(signature: Signature) -> tuple[torch.Tensor, ...]:
    """Seeded inputs of the signature's shapes; a free dimension has its typical size, the batch 2."""
    import torch

    from nncompile.cli.source import random_tensor

    typical = {name: row.typical for name, row in signature.sizes.items()}
    generator = torch.Generator().manual_seed(0)

    def tensor(spec: TensorSpec) -> torch.Tensor:
        sizes = tuple(size if isinstance(size, int) else typical.get(size, 2) for size in spec.shape)
        return random_tensor(sizes, getattr(torch, spec.dtype), generator)

    return tuple(map(tensor, signature.inputs))
