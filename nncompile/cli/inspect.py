"""`nncompile inspect`: what is in a file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from nncompile.cli import console
from nncompile.cli.source import Arguments, Weights, exported_from, load_source
from nncompile.cli.usage import UsageError
from nncompile_runtime.errors import DeviceError
from nncompile_runtime.kernels import REGION

if TYPE_CHECKING:
    import torch
    from rich.console import RenderableType

    from nncompile_runtime.container import ModelFile
    from nncompile_runtime.kernels import Kernels
    from nncompile_runtime.manifest import Signature
    from nncompile_runtime.plan import Plan


def inspect(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The .onnx file.")],
    graph: Annotated[
        bool, typer.Option("--graph", help="Show FLOPs, bytes and parameters of every node.")
    ] = False,
    module: Annotated[
        str | None,
        typer.Option(metavar="MODULE", help="The module it was exported from: show the graph before, too."),
    ] = None,
    passes: Annotated[
        bool, typer.Option("--passes", help="Show which rule fired where, or nearly did (needs --module).")
    ] = False,
    weights: Weights = None,
    arg: Arguments = None,
    profile: Annotated[
        bool, typer.Option("--profile", help="Run it: time of every node, and share of what is attainable.")
    ] = False,
    batch: Annotated[int, typer.Option("--batch-size", "-b", min=1, help="What a free batch counts as.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Show signature, operators, passes and verification of a file; its graph needs the extra compile."""
    if module is None and (passes or weights or arg):
        raise UsageError(
            f"{'--passes' if passes else '--weights' if weights else '--arg'} is given without --module.",
            remedy="Name the module that the file was exported from: --module path/to/file.py:Class.",
        )
    from nncompile_runtime import container

    model = container.read(file)
    here = _on_this_machine(model)
    details = _Details(model, here, batch)
    if graph:
        details.add_nodes()
    if module is not None:
        details.add_origin(load_source(module, arg, weights), passes=passes)
    if profile:
        details.add_profile()
    if as_json:
        console.print_json(_as_dict(model, here) | details.data)
        return
    _show(file, model, here)
    for part in details.shown:
        console.out.print()
        console.out.print(part)


class _Here(NamedTuple):
    """How a file runs on the CPU of this machine.

    Attributes:
        signature: How it is called.
        plans: By the smallest batch that each serves; none where it does not run.
        kernels: Whether fused regions run on the native kernels, or why not.
        refusal: Why it does not run; None where it does.
    """

    signature: Signature
    plans: Mapping[int, Plan]
    kernels: Kernels
    refusal: DeviceError | None = None


def _on_this_machine(model: ModelFile) -> _Here:
    from nncompile_runtime.kernels import Kernels
    from nncompile_runtime.predictor import Predictor

    try:
        predictor = Predictor(model, device="cpu")
    except DeviceError as error:  # the file is for a GPU; what it says about itself can be shown anywhere
        if model.manifest is None:
            raise
        return _Here(model.manifest.signature, {}, Kernels(False, error.problem), error)
    return _Here(predictor.signature, predictor.plans, predictor.session.kernels)


class _Details:
    """What is shown on request: data for JSON, and the same for people."""

    def __init__(self, model: ModelFile, here: _Here, batch: int) -> None:
        self.data: dict[str, Any] = {}
        self.shown: list[RenderableType] = []
        self._model, self._here, self._batch = model, here, batch
        self._signature = here.signature

    def add_nodes(self) -> None:
        """What every node of the file costs."""
        from nncompile.cli import _graph_tables as tables
        from nncompile.cli._graphs import file_cost

        cost = file_cost(self._model, self._signature, self._batch)
        self.data["graph"] = tables.nodes_as_dict(cost)
        self.shown.append(tables.nodes_table(cost, native=self._here.kernels.active))

    def add_profile(self) -> None:
        """The time of every node that is executed; of fused regions also that of their nodes, run plainly."""
        from nncompile.cli import _profiles as profiles

        if self._here.refusal is not None:
            raise self._here.refusal
        plan = self._here.plans[max(first for first in self._here.plans if first <= self._batch)]
        plans = [plan] + [plan.model_copy(update={"native": False})] * self._here.kernels.active
        measured = profiles.measured(self._model, plans, self._signature, self._batch)
        self.data["profile"] = profiles.as_dict(measured)
        self.shown += profiles.tables(measured)

    def add_origin(self, module: torch.nn.Module, *, passes: bool) -> None:
        """The exporter's graph beside the file's, and what the passes did."""
        from rich.text import Text

        from nncompile.cli import _graph_tables as tables
        from nncompile.cli import _graphs as graphs

        after = graphs.file_cost(self._model, self._signature, self._batch)
        with exported_from(module, self._model):
            about = self._model.manifest
            precision = about.precision if about else "float32"
            captured = graphs.captured_again(module, self._signature, precision)
        before = graphs.captured_cost(captured, self._batch)
        self.data |= {"before": tables.summary_as_dict(before), "after": tables.summary_as_dict(after)}
        self.shown.append(tables.comparison_table(before, after))
        if passes:
            steps = graphs.explained(captured, self._model)
            self.data["passes"] = tables.passes_as_list(steps)
            self.shown.append(Text("\n".join(tables.pass_lines(steps))))


def _as_dict(model: ModelFile, here: _Here) -> dict[str, Any]:
    return {
        "file": model.name,
        "bytes": len(model.data),
        "inputs": [spec.model_dump(mode="json") for spec in here.signature.inputs],
        "outputs": [spec.model_dump(mode="json") for spec in here.signature.outputs],
        "sizes": {name: row.model_dump(mode="json") for name, row in here.signature.sizes.items()},
        "operators": dict(sorted(model.facts.operators.items())),
        "plans": {str(first): plan.model_dump() for first, plan in here.plans.items()},
        "kernels": _kernels_as_dict(here.kernels),
        "manifest": model.manifest.model_dump(mode="json") if model.manifest else None,
    }


def _kernels_as_dict(kernels: Kernels) -> dict[str, Any]:
    layers = [layer._asdict() for layer in kernels.layers]
    return {"active": kernels.active, "note": kernels.note, "lanes": kernels.lanes, "layers": layers}


def _choices(kernels: Kernels) -> Iterator[str]:
    """What the native kernels chose where they had a choice, by the shapes of convolutions."""
    algorithms = (
        ("by Winograd's algorithm", (True, False)),
        ("by Winograd's algorithm along the rows", (True, True)),
        ("not by Winograd's algorithm", (False, False)),
    )
    for algorithm, chosen in algorithms:
        shown = (layer for layer in kernels.layers if (layer.winograd, layer.rows) == chosen)
        layers = [f"{layer.name} {layer.cost:.2f}" for layer in shown]
        if layers:
            yield f"  {algorithm}, with its cost over the definition's: {', '.join(layers)}"
    if kernels.lanes:
        yield f"  samples in the lanes of a vector: from {kernels.lanes} on"


def _show(file: Path, model: ModelFile, here: _Here) -> None:
    say = console.out.print
    manifest = model.manifest
    name = manifest.model_name if manifest else "an ONNX file that nncompile did not write"
    say(f"{file}: {name}, {console.size(len(model.data))}", markup=False)
    grid = console.table("", "name", "type")
    for kind, specs in (("input", here.signature.inputs), ("output", here.signature.outputs)):
        for spec in specs:
            grid.add_row(kind, spec.name, str(spec).replace("[", r"\["))
    say(grid)
    for symbol, row in here.signature.sizes.items():
        say(f"{symbol}: {row}", markup=False)
    operators = ", ".join(f"{op} {count}" for op, count in sorted(model.facts.operators.items()))
    say(f"operators: {operators}", markup=False)
    _say_how_it_runs(model, here)
    if manifest is None:
        return
    from nncompile.report import caveats, verification_lines

    versions = ", ".join(f"{package} {version}" for package, version in manifest.producer.items())
    say(f"target {manifest.target}, precision {manifest.precision}; made by {versions}", markup=False)
    steps = ", ".join(f"{step.name} {step.changes}" for step in manifest.passes if step.changes) or "none"
    say(f"passes (changes): {steps}", markup=False)
    for line in caveats(manifest.precision, manifest.passes):
        say(line, markup=False)
    say("\n".join(verification_lines(manifest.verification)), markup=False)
    if manifest.preprocessing:
        say(f"images: {manifest.preprocessing}", markup=False)
    if manifest.labels:
        say(
            f"labels: {', '.join(manifest.labels[:20])}{' ...' if len(manifest.labels) > 20 else ''}",
            markup=False,
        )


def _say_how_it_runs(model: ModelFile, here: _Here) -> None:
    say = console.out.print
    if here.refusal is not None:
        say(f"does not run on this machine's CPU: {here.refusal}", markup=False)
        return
    plans = [f"from batch {first} on: {plan}" for first, plan in here.plans.items()]
    say(f"plan on this machine: {'; '.join(plans) if plans[1:] else here.plans[1]}", markup=False)
    regions = model.facts.operators.get(REGION, 0)
    if regions:
        speed = "native" if here.kernels.active else "plain"
        say(f"fused regions: {regions}, {speed}: {here.kernels.note}", markup=False)
        for line in _choices(here.kernels):
            say(line, markup=False)
