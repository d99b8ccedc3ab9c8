"""Benchmark the seed documents' networks, ResNet-18 and MobileNetV2 against every engine there is.

Weights are random, of one seed: they change no time. From the repository root, in about forty minutes on two
idle processors:

    python -m models.bench -o docs/benchmarks.md

Results are kept in the folder `--keep`, network by network; `--resume` does not measure those again.
"""

import json
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, NoReturn

import torch
import typer
from pydantic import TypeAdapter, ValidationError
from rich.console import Console
from rich.progress import Progress

import nncompile
from models.bench_page import page
from models.zoo import LARGER, ZOO
from nncompile import NncompileError
from nncompile.bench import BATCHES, BenchReport, report, run
from nncompile.bench.engines import NAMES, check_names
from nncompile.bench.runner import Progress as OnStep
from nncompile.bench.timing import Schedule

NETWORKS = {**ZOO, **LARGER}
YARDSTICK = "onnxruntime"

# Networks whose calls take so long that two batches say as much as four, and one call a block is enough.
LARGE_BATCHES = (1, 16)
LARGE = ("mynet", *LARGER)


def bench(
    name: str,
    batches: tuple[int, ...] | None,
    engines: tuple[str, ...],
    schedule: Schedule,
    progress: OnStep | None,
) -> BenchReport:
    """Compile one network in a temporary folder and benchmark it.

    Args:
        name: The network's.
        batches: Samples in one call; None leaves it to the size of the network.
        engines: What to compare with.
        schedule: How long and how often; a large network's blocks may be of a single call.
        progress: Told of each step.

    Raises:
        ImportError: The network needs a package that is missing; the message says which.
        NncompileError: It cannot be compiled or benchmarked.
    """
    entry = NETWORKS[name]
    if name in LARGE:
        schedule = replace(schedule, minimum_calls=1)
    with (
        torch.random.fork_rng(devices=[]),
        tempfile.TemporaryDirectory() as folder,
        warnings.catch_warnings(),
    ):
        torch.default_generator.manual_seed(0)
        warnings.filterwarnings("ignore", message="dropout2d: Received a 2-D input")
        module = entry.build().eval()
        path = Path(folder) / f"{name}.onnx"
        start = time.perf_counter()
        nncompile.compile(module, torch.randn(2, *entry.input_shape)).save(path)
        return run(
            path,
            batches or (LARGE_BATCHES if name in LARGE else BATCHES),
            engines,
            module=module,
            schedule=schedule,
            cold=True,
            compile_seconds=time.perf_counter() - start,
            progress=progress,
        )


def kept(file: Path, settings: Mapping[str, Any]) -> BenchReport | None:
    """The report in a file of an earlier run; None where there is none, or it was measured otherwise."""
    try:
        found = json.loads(file.read_bytes())
        if found["settings"] == json.loads(json.dumps(settings)):
            return TypeAdapter(BenchReport).validate_python(found["report"])
    except (OSError, ValueError, KeyError, TypeError, ValidationError):
        pass
    return None


def keep(file: Path, settings: Mapping[str, Any], found: BenchReport) -> None:
    """Write a report down, with what was asked for."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".part")
    part.write_text(json.dumps({"settings": settings, "report": report.as_json(found)}), encoding="utf-8")
    part.replace(file)


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    networks: Annotated[str, typer.Option(help="Networks, comma-separated.")] = ",".join(NETWORKS),
    batches: Annotated[
        str | None, typer.Option("--batches", "-b", help="Batch sizes, comma-separated [by network].")
    ] = None,
    engines: Annotated[str, typer.Option(help="Engines, comma-separated.")] = ",".join(NAMES),
    seconds: Annotated[float, typer.Option(help="Timed seconds of each engine on each batch.")] = 0.6,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds that these seconds are cut into.")] = 10,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Where to write the page (Markdown) [stdout].")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print all numbers as JSON on stdout.")] = False,
    folder: Annotated[Path, typer.Option("--keep", help="Where results are kept.")] = Path("build/bench"),
    resume: Annotated[bool, typer.Option("--resume", help="Do not measure again what is kept.")] = False,
) -> None:
    """Benchmark networks and write a page of ratios."""
    names, peers = _names(networks), tuple(_names(engines))
    for name in names:
        if name not in NETWORKS:
            _fail(f"no network is called {name!r}: choose from {', '.join(NETWORKS)}", 2)
    if output is not None and (output.is_dir() or not output.parent.is_dir()):
        _fail(f"cannot write {output}: name a file in a folder that exists", 2)
    reports: dict[str, BenchReport] = {}
    skipped: dict[str, str] = {}
    try:
        check_names(list(peers))
        sizes = parse_batches(batches) if batches else None
        schedule = Schedule(rounds=rounds, seconds=seconds)
    except (NncompileError, ValueError) as error:
        _fail(str(error), 2)
    failed = False
    for name in names:
        file = folder / f"{name}.json"
        settings = {"batches": sizes, "engines": peers, "schedule": asdict(schedule)}
        earlier = kept(file, settings) if resume else None
        if earlier is not None:
            typer.echo(f"{name}: kept in {file}", err=True)
            reports[name] = earlier
            continue
        with _progress(name) as on_step:
            try:
                reports[name] = bench(name, sizes, peers, schedule, on_step)
                keep(file, settings, reports[name])
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
            output.write_text(page(reports, skipped, YARDSTICK), encoding="utf-8")
        except OSError as error:
            _fail(f"cannot write {output}: {error.strerror or error}; choose another --output", 1)
    elif not as_json:
        typer.echo(page(reports, skipped, YARDSTICK), nl=False)
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


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


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
