"""Benchmark the seed documents' networks: nncompile against plain ONNX Runtime and eager PyTorch.

Weights are random, of one seed: they change no time. From the repository root, in about six minutes on
two idle processors:

    python -m models.bench -o docs/benchmarks.md
"""

import json
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, NoReturn

import torch
import typer
from rich.console import Console
from rich.progress import Progress

import nncompile
from models.zoo import ZOO
from nncompile import NncompileError
from nncompile.bench import BATCHES, BenchReport, grid, report, run
from nncompile.bench.runner import Progress as OnStep
from nncompile.bench.timing import Schedule

PEERS = ("eager",)
YARDSTICK = "onnxruntime"

# A network so large that a bigger batch would take longer than all other networks together.
LARGEST_BATCH = {"mynet": 8}


def bench(name: str, batches: tuple[int, ...], schedule: Schedule, progress: OnStep | None) -> BenchReport:
    """Compile one network of the zoo in a temporary folder and benchmark it.

    Raises:
        ImportError: The network needs a package that is missing; the message says which.
        NncompileError: It cannot be compiled or benchmarked.
    """
    entry = ZOO[name]
    largest = LARGEST_BATCH.get(name, max(batches))
    fitting = tuple(batch for batch in batches if batch <= largest) or (largest,)
    with (
        torch.random.fork_rng(devices=[]),
        tempfile.TemporaryDirectory() as folder,
        warnings.catch_warnings(),
    ):
        torch.default_generator.manual_seed(0)
        warnings.filterwarnings("ignore", message="dropout2d: Received a 2-D input")
        module = entry.build().eval()
        path = Path(folder) / f"{name}.onnx"
        nncompile.compile(module, torch.randn(2, *entry.input_shape)).save(path)
        return run(path, fitting, (YARDSTICK, *PEERS), module=module, schedule=schedule, progress=progress)


def page(reports: Mapping[str, BenchReport], skipped: Mapping[str, str]) -> str:
    """The benchmark page: ratios, times, the cost of `predict`, and how it was measured."""
    any_report = next(iter(reports.values()))
    engines = ("nncompile", YARDSTICK, *PEERS)
    descriptions = {e.name: f"{e.description}, {e.threads} threads" for e in any_report.engines}
    sections = ["# Benchmarks", "Written by `python -m models.bench`; random weights, float32, CPU."]
    sections += ["\n".join(f"- {name}: {what}" for name, what in descriptions.items())]
    for engine in ("nncompile", *PEERS):
        sections += [f"## Times as fast as {YARDSTICK}: {engine}", grid.ratios(reports, engine, YARDSTICK)]
    sections += [
        f"## Median microseconds of one call: {' / '.join(engines)}",
        grid.medians(reports, engines),
        "## `predict` over the bare call of its session",
        "Alternating calls on one session; the aim is at most 15 µs.",
        grid.overheads(reports),
    ]
    gaps = [f"{name}: not measured: {reason}" for name, reason in skipped.items()] + grid.gaps(reports)
    gaps += [
        f"{name}: batches above {n} take too long" for name, n in LARGEST_BATCH.items() if name in reports
    ]
    if gaps:
        sections += ["## Not measured", "\n".join(f"- {gap}" for gap in gaps)]
    sections += ["## How", report.environment(any_report), report.method(any_report)]
    return "\n\n".join(sections) + "\n"


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    networks: Annotated[str, typer.Option(help="Networks, comma-separated.")] = ",".join(ZOO),
    batches: Annotated[str, typer.Option("--batches", "-b", help="Batch sizes, comma-separated.")] = ",".join(
        map(str, BATCHES)
    ),
    seconds: Annotated[float, typer.Option(help="Timed seconds of each engine on each batch.")] = 1.0,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds that these seconds are cut into.")] = 10,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Where to write the page (Markdown) [stdout].")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print all numbers as JSON on stdout.")] = False,
) -> None:
    """Benchmark networks of the seed documents and write a page of ratios."""
    names = [name.strip() for name in networks.split(",") if name.strip()]
    for name in names:
        if name not in ZOO:
            _fail(f"no network is called {name!r}: choose from {', '.join(ZOO)}", 2)
    if output is not None and (output.is_dir() or not output.parent.is_dir()):
        _fail(f"cannot write {output}: name a file in a folder that exists", 2)
    reports: dict[str, BenchReport] = {}
    skipped: dict[str, str] = {}
    try:
        sizes, schedule = parse_batches(batches), Schedule(rounds=rounds, seconds=seconds)
    except (NncompileError, ValueError) as error:
        _fail(str(error), 2)
    failed = False
    for name in names:
        with _progress(name) as on_step:
            try:
                reports[name] = bench(name, sizes, schedule, on_step)
            except (ImportError, NncompileError) as error:
                typer.echo(f"{name}: not measured: {error}", err=True)
                skipped[name] = str(error)
                failed = failed or isinstance(error, NncompileError)
    if not reports:
        _fail("nothing was measured", 1)
    if as_json:
        data = {name: report.as_json(found) for name, found in reports.items()}
        typer.echo(json.dumps({"networks": data, "skipped": skipped}, indent=2))
    if output is not None:
        try:
            output.write_text(page(reports, skipped), encoding="utf-8")
        except OSError as error:
            _fail(f"cannot write {output}: {error.strerror or error}; choose another --output", 1)
    elif not as_json:
        typer.echo(page(reports, skipped), nl=False)
    if failed:
        raise typer.Exit(1)


def parse_batches(text: str) -> tuple[int, ...]:
    """Batch sizes from text such as `1,8,64`.

    Raises:
        ValueError: It is no list of whole numbers from 1 on.
    """
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < 1:
        raise ValueError(f"batches are {text!r}: give whole numbers from 1 on, such as 1,8,64")
    return numbers


@contextmanager
def _progress(name: str) -> Iterator[OnStep]:
    """A bar on stderr; drawn between blocks only, because a thread that draws would be measured too."""
    console = Console(stderr=True)
    with Progress(
        console=console, transient=True, auto_refresh=False, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task(f"{name}: compile", total=None)
        bar.refresh()

        def on_step(what: str, done: int, total: int) -> None:
            bar.update(task, description=f"{name}, {what}", completed=done, total=total, refresh=True)

        yield on_step


def _fail(message: str, code: int) -> NoReturn:
    typer.echo(f"error: {message}", err=True)
    raise typer.Exit(code)


if __name__ == "__main__":
    app()
