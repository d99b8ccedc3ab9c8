"""Benchmark the seed documents' networks, ResNet-18 and MobileNetV2 against every engine there is.

Weights are random, of one seed: they change no time. From the repository root, in about half an hour on two
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
from typing import Annotated, Any

import torch
import typer
from pydantic import TypeAdapter, ValidationError
from rich.console import Console
from rich.progress import Progress

import nncompile
from models import _benchmark
from models.bench_page import page
from models.zoo import LARGER, ZOO
from nncompile import NncompileError
from nncompile.bench import BATCHES, BenchReport, report, run
from nncompile.bench.disturbance import load_average
from nncompile.bench.engines import NAMES, check_names
from nncompile.bench.steps import Progress as OnStep
from nncompile.bench.timing import Schedule

NETWORKS = {**ZOO, **LARGER}
YARDSTICK = "onnxruntime"

# Networks whose calls take so long that two batches say as much as four, and one call a block is enough.
LARGE_BATCHES = (1, 16)
LARGE = ("mynet", *LARGER)
# Opening a large one takes as long as a block of it; where its memory lies matters less besides.
SESSIONS, SESSIONS_OF_LARGE = 10, 5
# What an engine takes before it is warm differs little between networks of a size: one stands for them.
COLD = ("lenet5", "resnet18")


def bench(
    name: str,
    batches: tuple[int, ...] | None,
    engines: tuple[str, ...],
    schedule: Schedule,
    *,
    progress: OnStep | None = None,
    cold: bool = False,
    load_before: float | None = None,
) -> BenchReport:
    """Compile one network in a temporary folder and benchmark it.

    Args:
        name: The network's.
        batches: Samples in one call; None leaves it to the size of the network.
        engines: What to compare with.
        schedule: How long and how often; a large network's blocks may be of a single call, and it has fewer
            sessions.
        progress: Told of each step.
        cold: Start each engine in a fresh process too.
        load_before: The load average before the first network.

    Raises:
        ImportError: The network needs a package that is missing; the message says which.
        NncompileError: It cannot be compiled or benchmarked.
    """
    entry = NETWORKS[name]
    if name in LARGE:
        sessions = min(schedule.sessions, SESSIONS_OF_LARGE)
        schedule = replace(schedule, minimum_calls=1, sessions=sessions)
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
            cold=cold,
            compile_seconds=time.perf_counter() - start,
            load_before=load_before,
            distance=True,
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


EVERY = ",".join(NETWORKS)
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    networks: _benchmark.Networks = EVERY,
    batches: Annotated[
        str | None, typer.Option("--batches", "-b", help="Batch sizes, comma-separated [by network].")
    ] = None,
    engines: Annotated[str, typer.Option(help="Engines, comma-separated.")] = ",".join(NAMES),
    seconds: _benchmark.Seconds = 0.6,
    rounds: _benchmark.Rounds = 10,
    cold: Annotated[
        str, typer.Option(help="Networks whose engines are started in a fresh process too, comma-separated.")
    ] = ",".join(COLD),
    output: _benchmark.Output = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print all numbers as JSON on stdout.")] = False,
    folder: Annotated[Path, typer.Option("--keep", help="Where results are kept.")] = Path("build/bench"),
    resume: Annotated[bool, typer.Option("--resume", help="Do not measure again what is kept.")] = False,
) -> None:
    """Benchmark networks and write a page of ratios."""
    load_before = load_average()
    names, with_cold = _benchmark.chosen(networks, NETWORKS), _benchmark.chosen(cold, NETWORKS)
    peers = tuple(name.strip() for name in engines.split(",") if name.strip())
    schedule = _benchmark.schedule_of(rounds, seconds, SESSIONS)
    sizes = _benchmark.batches_of(batches) if batches else None
    try:
        check_names(list(peers))
    except NncompileError as error:
        _benchmark.fail(str(error), 2)
    _benchmark.refuse_unwritable(output)
    reports: dict[str, BenchReport] = {}
    skipped: dict[str, str] = {}
    failed = False
    for name in names:
        asked: dict[str, Any] = {
            "batches": sizes,
            "engines": peers,
            "schedule": schedule,
            "cold": name in with_cold,
        }
        file, settings = folder / f"{name}.json", {**asked, "schedule": asdict(schedule), "distance": True}
        earlier = kept(file, settings) if resume else None
        if earlier is not None:
            _benchmark.say(f"{name}: kept in {file}")
            reports[name] = earlier
            continue
        start = time.perf_counter()
        try:
            with _progress(name) as on_step:
                reports[name] = bench(name, **asked, progress=on_step, load_before=load_before)
        except (ImportError, NncompileError) as error:
            _benchmark.say(f"{name}: not measured: {error}")
            skipped[name] = str(error)
            failed = failed or isinstance(error, NncompileError)
            continue
        keep(file, settings, reports[name])
        _benchmark.say(f"{name}: measured in {time.perf_counter() - start:.0f} s")
    if not reports:
        _benchmark.fail("nothing was measured", 1)
    if as_json:
        data = {name: report.as_json(found) for name, found in reports.items()}
        typer.echo(json.dumps({"networks": data, "skipped": skipped}, indent=2))
    if output is not None or not as_json:
        _benchmark.write(page(reports, skipped, YARDSTICK), output)
    if failed:
        raise typer.Exit(1)


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


if __name__ == "__main__":
    app()
