"""`nncompile inspect`: what is in a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nncompile.cli import console

if TYPE_CHECKING:
    from nncompile_runtime.container import ModelFile
    from nncompile_runtime.predictor import Predictor


def inspect(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The .onnx file.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Show signature, operators, passes and verification of a file. Needs no torch."""
    from nncompile_runtime import container
    from nncompile_runtime.predictor import Predictor

    model = container.read(file)
    predictor = Predictor(model, device="cpu")
    if as_json:
        console.print_json(_as_dict(model, predictor))
        return
    _show(file, model, predictor)


def _as_dict(model: ModelFile, predictor: Predictor) -> dict[str, Any]:
    return {
        "file": model.name,
        "bytes": len(model.data),
        "inputs": [spec.model_dump(mode="json") for spec in predictor.inputs],
        "outputs": [spec.model_dump(mode="json") for spec in predictor.outputs],
        "operators": dict(sorted(model.facts.operators.items())),
        "plan": predictor.plan.model_dump(),
        "manifest": model.manifest.model_dump(mode="json") if model.manifest else None,
    }


def _show(file: Path, model: ModelFile, predictor: Predictor) -> None:
    say = console.out.print
    manifest = model.manifest
    name = manifest.model_name if manifest else "an ONNX file that nncompile did not write"
    say(f"{file}: {name}, {console.size(len(model.data))}", markup=False)
    grid = console.table("", "name", "type")
    for kind, specs in (("input", predictor.inputs), ("output", predictor.outputs)):
        for spec in specs:
            grid.add_row(kind, spec.name, str(spec).replace("[", r"\["))
    say(grid)
    operators = ", ".join(f"{op} {count}" for op, count in sorted(model.facts.operators.items()))
    say(f"operators: {operators}", markup=False)
    say(f"plan on this machine: {predictor.plan}", markup=False)
    if manifest is None:
        return
    from nncompile.report import verification_lines

    versions = ", ".join(f"{package} {version}" for package, version in manifest.producer.items())
    say(f"target {manifest.target}, precision {manifest.precision}; made by {versions}", markup=False)
    steps = ", ".join(f"{step.name} {step.changes}" for step in manifest.passes) or "none"
    say(f"passes (changes): {steps}", markup=False)
    say("\n".join(verification_lines(manifest.verification)), markup=False)
    if manifest.preprocessing:
        say(f"images: {manifest.preprocessing}", markup=False)
    if manifest.labels:
        say(
            f"labels: {', '.join(manifest.labels[:20])}{' ...' if len(manifest.labels) > 20 else ''}",
            markup=False,
        )
