"""`nncompile tune`: the fastest plans on this machine, kept in the file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nncompile.cli import console
from nncompile.cli.usage import UsageError, check_folder, whole_numbers
from nncompile_runtime.errors import ModelLoadError, NncompileError

if TYPE_CHECKING:
    from nncompile_runtime.findings import Regime, Tuning
    from nncompile_runtime.predictor import Predictor


def tune(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The .onnx file; its manifest is replaced.")],
    seconds: Annotated[float, typer.Option(help="About how long it may take.")] = 10.0,
    batches: Annotated[
        str | None, typer.Option("--batches", "-b", help="Batch sizes to measure at; 1,8,64,256 by default.")
    ] = None,
    size: Annotated[
        list[str] | None,
        typer.Option("--size", metavar="NAME=SIZE", help="Size of another free dimension; may be repeated."),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1 or auto.")] = "cpu",
    transfers: Annotated[
        str | None,
        typer.Option(help="On a GPU: in-out measures arrays, none tensors that lie there (needs torch)."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was tried as JSON.")] = False,
) -> None:
    """Measure ways to run a file on this machine and keep the fastest in it; the model stays as it is."""
    if not seconds > 0:
        raise UsageError(f"--seconds {seconds} is not above 0.", remedy="For example: --seconds 10.")
    if transfers is not None and (device == "cpu" or transfers not in ("in-out", "none")):
        raise UsageError(
            f"--transfers {transfers} is in-out or none, for a GPU.",
            remedy="Add --device cuda, or leave it out.",
        )
    wanted = None if batches is None else whole_numbers(batches, "--batches", "-b 1,8,64,256")
    sizes = _sizes(size or [])

    from nncompile_runtime import container
    from nncompile_runtime.predictor import Predictor

    model = container.read(file)
    if model.manifest is None:
        raise ModelLoadError(
            f"{file} has no manifest to keep plans in.", remedy="Tune a file that nncompile export wrote."
        )
    check_folder(file, remedy="Copy the file to another folder and tune it there.")
    predictor = Predictor(model, device=device)
    like = _on_gpu(predictor) if transfers == "none" else None
    found = _with_progress(predictor, seconds, wanted, sizes, like)
    if container.read(file).data != model.data:
        raise NncompileError(
            f"{file} was changed while it was tuned; nothing was written.", remedy="Tune it again."
        )
    container.write(file, predictor.artifact)
    if as_json:
        console.print_json(_as_dict(file, predictor, found))
    else:
        _show(file, predictor, found)


def _with_progress(
    predictor: Predictor,
    seconds: float,
    batches: tuple[int, ...] | None,
    sizes: dict[str, int],
    like: Any,
) -> Tuning:
    from rich.progress import Progress

    # auto_refresh redraws in a thread, which would be timed too.
    shown = console.err.is_terminal
    with Progress(console=console.err, disable=not shown, transient=True, auto_refresh=False) as bar:
        task = bar.add_task("tune", total=1.0)

        def advance(what: str, share: float) -> None:
            bar.update(task, description=what, completed=share, refresh=True)

        return predictor.tune(seconds, batches=batches, sizes=sizes, like=like, progress=advance)


def _on_gpu(predictor: Predictor) -> Any:
    """A tensor where the model runs."""
    try:
        import torch
    except ImportError as error:
        raise NncompileError(
            f"--transfers none measures calls on torch's tensors: {error}.",
            remedy="Install torch, or tune in Python with a CuPy array: predictor.tune(like=x).",
        ) from None
    return torch.empty(1, device=predictor.device)


def _sizes(texts: list[str]) -> dict[str, int]:
    sizes = {}
    for text in texts:
        name, _, number = text.partition("=")
        if not name or not (number.isascii() and number.isdigit() and int(number) > 0):
            raise UsageError(f"--size {text!r} is no size.", remedy="For example: --size tokens=128.")
        sizes[name] = int(number)
    return sizes


def _show(file: Path, predictor: Predictor, found: Tuning) -> None:
    for regime in found.regimes:
        console.out.print(_table(regime, found))
        console.out.print()
    if found.left_out:
        batches = ", ".join(map(str, found.left_out))
        console.out.print(f"not measured, because it would have taken too long: batch {batches}")
    for start, plan in predictor.plans.items():
        console.out.print(f"from batch {start} on: {plan}", markup=False)
    console.out.print(f"wrote {file} ({found.seconds:.1f} s)", markup=False)


def _table(regime: Regime, found: Tuning) -> Any:
    table = console.table(
        "plan", ">p50 us", ">p99 us", ">times plain", ">95%", "outcome", title=f"batch {regime.batch}"
    )
    for one in sorted(regime.tried, key=lambda tried: tried.p50 or float("inf")):
        ratio = one.ratio
        name = f"{one.plan} (yardstick)" if one.plan == found.yardstick else str(one.plan)
        if ratio is None:
            table.add_row(name, "", "", "", "", one.outcome)
            continue
        interval = f"{ratio.low:.2f} to {ratio.high:.2f}"
        figures = (f"{one.p50 * 1e6:.1f}", f"{one.p99 * 1e6:.1f}", f"{ratio.value:.2f}", interval)
        table.add_row(name, *figures, one.outcome)
    return table


def _as_dict(file: Path, predictor: Predictor, found: Tuning) -> dict[str, Any]:
    return {
        "file": str(file),
        "seconds": found.seconds,
        "plans": {str(start): plan.model_dump() for start, plan in predictor.plans.items()},
        "left_out": list(found.left_out),
        "regimes": [
            {
                "batch": regime.batch,
                "chosen": regime.chosen.model_dump(),
                "tried": [
                    {
                        "plan": one.plan.model_dump(),
                        "outcome": one.outcome,
                        "p50_us": one.p50 * 1e6 or None,
                        "p99_us": one.p99 * 1e6 or None,
                        "ratio": one.ratio
                        and {"value": one.ratio.value, "low": one.ratio.low, "high": one.ratio.high},
                    }
                    for one in regime.tried
                ],
            }
            for regime in found.regimes
        ],
    }
