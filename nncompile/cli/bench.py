"""`nncompile bench`: interleaved measurement against other engines."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nncompile.cli import console
from nncompile.cli.source import Arguments, Weights, load_source
from nncompile.cli.usage import UsageError, whole_numbers, wrong_usage

if TYPE_CHECKING:
    from nncompile.bench.results import BenchReport
    from nncompile.bench.timing import Schedule

_DEFAULT_BATCHES = "1,8,64,256"
_DEFAULT_ENGINES = "onnxruntime,eager"


def bench(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The .onnx file.")],
    batch_size: Annotated[
        str, typer.Option("--batch-size", "-b", help="Batch sizes, comma-separated.")
    ] = _DEFAULT_BATCHES,
    against: Annotated[
        str, typer.Option(help="Engines to compare with, comma-separated.")
    ] = _DEFAULT_ENGINES,
    module: Annotated[
        str | None,
        typer.Option(metavar="MODULE", help="The module it was exported from; eager PyTorch needs it."),
    ] = None,
    weights: Weights = None,
    arg: Arguments = None,
    seconds: Annotated[float, typer.Option(help="Timed seconds for each engine and batch.")] = 1.0,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds the time is split into.")] = 10,
    markdown: Annotated[Path | None, typer.Option(help="Write the table as Markdown.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Time a model against plain ONNX Runtime and eager PyTorch, interleaved in one process."""
    from nncompile.bench.engines import check_names
    from nncompile.bench.timing import Schedule

    batches = whole_numbers(batch_size, "--batch-size", f"-b {_DEFAULT_BATCHES}")
    if not seconds > 0:
        raise UsageError(f"--seconds {seconds} is not above 0.", remedy="For example: --seconds 1.")
    schedule = Schedule(rounds=rounds, seconds=seconds)
    engines = tuple(name.strip() for name in against.split(",") if name.strip())
    with wrong_usage():
        check_names(list(engines))
    source = load_source(module, arg, weights).eval() if module else None
    report = _run(file, batches, engines, source, schedule)

    from nncompile.bench.report import as_json as to_json
    from nncompile.bench.report import as_markdown, as_table

    if markdown is not None:
        from nncompile_runtime import container

        container.write(markdown, as_markdown(report).encode())
    if as_json:
        console.print_json(to_json(report))
    else:
        console.out.print(as_table(report))


def _run(
    file: Path, batches: tuple[int, ...], engines: tuple[str, ...], source: object, schedule: Schedule
) -> BenchReport:
    from rich.progress import Progress

    from nncompile.bench.runner import run

    # auto_refresh redraws in a thread, which would be timed too.
    shown = console.err.is_terminal
    with Progress(console=console.err, disable=not shown, transient=True, auto_refresh=False) as bar:
        task = bar.add_task("bench", total=None)

        def advance(what: str, done: int, total: int) -> None:
            bar.update(task, description=what, completed=done, total=total, refresh=True)

        return run(file, batches, engines, module=source, schedule=schedule, progress=advance)  # type: ignore[arg-type]
