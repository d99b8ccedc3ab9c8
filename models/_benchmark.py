"""What the benchmark commands of models/ share: options and their checks, the page's file, and the method."""

import os
import platform
from collections.abc import Collection
from importlib import metadata
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from nncompile import NncompileError
from nncompile.bench.correctness import TOLERANCES
from nncompile.bench.disturbance import Disturbance
from nncompile.bench.sentences import OVER_SESSIONS, schedule_line
from nncompile.bench.timing import Schedule
from nncompile_runtime.machine import installed_onnxruntime, this_machine

Networks = Annotated[str, typer.Option(help="Networks, comma-separated.")]
Seconds = Annotated[float, typer.Option(help="Timed seconds of each engine or variant at each batch.")]
Rounds = Annotated[int, typer.Option(min=1, help="Rounds that these seconds are cut into.")]
Output = Annotated[
    Path | None, typer.Option("--output", "-o", help="Where to write the page (Markdown) [stdout].")
]


def chosen(networks: str, known: Collection[str]) -> list[str]:
    """Names from text such as `lenet5,net`; ends the command with exit code 2 where one is not known."""
    names = [name.strip() for name in networks.split(",") if name.strip()]
    for name in names:
        if name not in known:
            fail(f"no network is called {name!r}: choose from {', '.join(known)}", 2)
    return names


def batches_of(text: str) -> tuple[int, ...]:
    """Batch sizes from text such as `1,8,64`; ends the command with exit code 2 where it is none."""
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < 1:
        fail(f"batches are {text!r}: give whole numbers from 1 on, such as 1,8,64", 2)
    return numbers


def schedule_of(rounds: int, seconds: float, sessions: int = Schedule.sessions) -> Schedule:
    """A schedule; ends the command with exit code 2 where it would measure nothing."""
    try:
        return Schedule(rounds=rounds, seconds=seconds, sessions=sessions)
    except NncompileError as error:
        fail(str(error), 2)


def refuse_unwritable(output: Path | None) -> None:
    """End the command with exit code 2 where the page could not be written: before anything is measured."""
    if output is None:
        return
    existed = output.exists()
    try:
        output.open("a").close()
        if not existed:
            output.unlink()
    except OSError as error:
        fail(_unwritten(output, error), 2)


def write(page: str, output: Path | None) -> None:
    """Write a page to its file, or print it."""
    if output is None:
        typer.echo(page, nl=False)
        return
    try:
        output.write_text(page, encoding="utf-8")
    except OSError as error:
        fail(_unwritten(output, error), 1)


def _unwritten(output: Path, error: OSError) -> str:
    return f"cannot write {output}: {error.strerror or error}; choose another --output"


def say(line: str) -> None:
    """Tell on stderr how far the command is."""
    typer.echo(line, err=True)


def fail(message: str, code: int) -> NoReturn:
    """End the command: 1 where it failed, 2 where it was called wrongly."""
    say(f"error: {message}")
    raise typer.Exit(code)


def environment() -> str:
    """The machine and the versions, in a sentence."""
    machine = this_machine()
    flags = ", ".join(machine.vector_flags) or "no vector extensions"
    versions = {"python": platform.python_version()}
    versions |= {
        package: metadata.version(package) for package in ("nncompile", "torch", "onnxscript", "numpy")
    }
    listed = ", ".join(
        f"{package} {version}" for package, version in (versions | installed_onnxruntime()).items()
    )
    return f"Machine: {machine.cpu} ({flags}), {machine.processors} processors. Versions: {listed}."


def warnings(load: float) -> list[str]:
    """What to say about the load average of before, where it was more than the machine has processors."""
    machine = this_machine().processors
    said = Disturbance(load, 0.0, os.cpu_count() or machine, machine).warning
    return [f"**Warning**: {said}"] if said else []


def method(schedule: Schedule) -> str:
    """How variants of nncompile were timed beside plain ONNX Runtime."""
    rtol, atol = TOLERANCES["float32"]
    whom = "plain ONNX Runtime (default options) and every variant of nncompile (`predict`)"
    return (
        f"Method: {schedule_line(schedule, whom)}. Each session opens all of them anew. A ratio is that of "
        f"the median times in the same round, {OVER_SESSIONS}. A variant is timed only if it answers like "
        f"plain ONNX Runtime (rtol {rtol:g}, atol {atol:g})."
    )
