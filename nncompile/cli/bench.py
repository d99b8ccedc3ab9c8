"""`nncompile bench`: interleaved measurement against other engines."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nncompile.cli import _pages, console
from nncompile.cli.source import Arguments, Weights, exported_from, load_source
from nncompile.cli.usage import UsageError, check_file, whole_numbers, wrong_usage
from nncompile_runtime.errors import NncompileError

if TYPE_CHECKING:
    import torch

    from nncompile.bench.results import BenchReport
    from nncompile.bench.scenarios import Scenario
    from nncompile.bench.timing import Schedule

_DEFAULT_BATCHES = "1,8,64,256"
_ONE_SAMPLE = ("single-stream", "server")
_DEFAULT_ENGINES = "onnxruntime,eager"


def bench(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The .onnx file.")],
    batch_size: Annotated[
        str | None,
        typer.Option(
            "--batch-size",
            "-b",
            help=f"Batch sizes, comma-separated [{_DEFAULT_BATCHES}; for {' and '.join(_ONE_SAMPLE)}: 1].",
            show_default=False,
        ),
    ] = None,
    against: Annotated[
        str, typer.Option(help="Engines to compare with, comma-separated; all: every one there is.")
    ] = _DEFAULT_ENGINES,
    module: Annotated[
        str | None,
        typer.Option(metavar="MODULE", help="The module it was exported from; eager PyTorch needs it."),
    ] = None,
    weights: Weights = None,
    arg: Arguments = None,
    seconds: Annotated[float, typer.Option(help="Timed seconds for each engine and batch.")] = 1.0,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds the time is split into.")] = 10,
    sessions: Annotated[
        int, typer.Option(min=1, help="How often engines are opened anew meanwhile; at most once a round.")
    ] = 5,
    scenario: Annotated[
        str | None, typer.Option(help="Of MLPerf Inference: single-stream, offline or server.")
    ] = None,
    rate: Annotated[float | None, typer.Option(help="Queries a second that reach the server.")] = None,
    bound: Annotated[
        float | None, typer.Option(help="The server's p99 must keep within so many ms [15].")
    ] = None,
    cold: Annotated[
        bool, typer.Option("--cold", help="Load time, first call and memory too, in a fresh process each.")
    ] = False,
    distance: Annotated[
        bool, typer.Option("--distance", help="Where the time goes beyond what the machine allows, too.")
    ] = False,
    device: Annotated[str, typer.Option(help="Where it runs: cpu, cuda or cuda:1.")] = "cpu",
    transfers: Annotated[
        str | None,
        typer.Option(
            help="On a GPU, what of the copies from and to the host counts: none (inputs and outputs stay "
            "there) or in-out (numpy arrays) [none].",
            show_default=False,
        ),
    ] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write the table as Markdown.")] = None,
    html: Annotated[
        Path | None, typer.Option(help="Write a page with plots, graphs and the table; it needs no network.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print the latencies as CSV.")] = False,
) -> None:
    """Time a model against other engines, interleaved in one process."""
    if as_json and as_csv:
        raise UsageError("--json and --csv both print on stdout.", remedy="Choose one of them.")
    if distance and device != "cpu":
        raise UsageError("--distance is for the CPU.", remedy="Leave it out, or --device.")
    asked = _scenario(scenario, rate, bound)
    batches = _batches(batch_size, scenario)
    schedule = _schedule(rounds, seconds, sessions)
    engines = _engines(against, device, transfers)
    if markdown is not None:
        check_file("--markdown", markdown)
    if html is not None:
        _pages.check(html)
    if device != "cpu":
        _refuse_without_gpu(device)
    source = load_source(module, arg, weights).eval() if module else None
    if source is not None:
        _compare_answers(file, source, weights)
    graphs = _pages.drawings(file, source, batches[0]) if html is not None else {}
    place = {"device": device, "transfers": transfers or "none"}
    extras = {"scenario": asked, "cold": cold, "distance": distance}
    report = _run(file, batches, engines, module=source, schedule=schedule, **extras, **place)
    if markdown is not None:
        _write_markdown(markdown, report)
    if html is not None:
        _pages.write(html, report, graphs)
    _print(report, as_json=as_json, as_csv=as_csv)


def _batches(given: str | None, scenario: str | None) -> tuple[int, ...]:
    text = given or ("1" if scenario in _ONE_SAMPLE else _DEFAULT_BATCHES)
    return whole_numbers(text, "--batch-size", f"-b {_DEFAULT_BATCHES}")


def _schedule(rounds: int, seconds: float, sessions: int) -> Schedule:
    from nncompile.bench.timing import Schedule

    if not seconds > 0:
        raise UsageError(f"--seconds {seconds} is not above 0.", remedy="For example: --seconds 1.")
    return Schedule(rounds=rounds, seconds=seconds, sessions=sessions)


def _engines(against: str, device: str, transfers: str | None) -> tuple[str, ...]:
    """The engines of that device, by name."""
    from nncompile.bench.engines import check_names, names_on
    from nncompile.bench.inputs import check_placement

    if transfers is not None and device == "cpu":
        raise UsageError("--transfers is for a GPU.", remedy="Add --device cuda, or leave it out.")
    named = tuple(name.strip() for name in against.split(",") if name.strip())
    engines = names_on(device) if named == ("all",) else named
    with wrong_usage():
        check_placement(device, transfers or "none")
        check_names(list(engines), device)
    return engines


def _write_markdown(path: Path, report: BenchReport) -> None:
    from nncompile.bench.report import as_markdown
    from nncompile_runtime import container

    container.write(path, as_markdown(report).encode())


def _print(report: BenchReport, *, as_json: bool, as_csv: bool) -> None:
    from nncompile.bench import report as shown

    if as_json:
        console.print_json(shown.as_json(report))
    elif as_csv:
        sys.stdout.write(shown.as_csv(report))
    else:
        console.out.print(shown.as_table(report), *shown.section_tables(report), sep="\n\n")


def _refuse_without_gpu(device: str) -> None:
    """Before anything is loaded.

    Raises:
        DeviceError: The GPU cannot be used; the message says what is missing.
    """
    from nncompile_runtime import cuda
    from nncompile_runtime.session import onnxruntime

    cuda.require(onnxruntime(), int(device.partition(":")[2] or 0))


def _compare_answers(file: Path, module: torch.nn.Module, weights: Path | None) -> None:
    """Before minutes are spent: constructors make other weights each time."""
    from tempfile import TemporaryDirectory

    from nncompile.bench.correctness import rejected
    from nncompile.bench.engines import Subject, open_engine
    from nncompile.bench.inputs import fixed_batch, make_feed
    from nncompile_runtime import container
    from nncompile_runtime.machine import this_machine
    from nncompile_runtime.predictor import Predictor

    model = container.read(file)
    predictor = Predictor(model, device="cpu")
    signature, manifest = predictor.signature, predictor.manifest
    precision = manifest.precision if manifest else "float32"
    batch = fixed_batch(signature) or 2
    feed = make_feed(signature, batch)
    with TemporaryDirectory() as folder:
        subject = Subject(str(file), signature, module, this_machine().processors, feed, Path(folder))
        with open_engine("eager", subject) as eager, open_engine("nncompile", subject) as ours:
            found = rejected({"eager": eager, "nncompile": ours}, "eager", feed, batch, precision)
    for engine in found:
        given = "Check that they are those it was exported with." if weights else "Add --weights."
        with exported_from(module, model):
            raise NncompileError(
                f"{file.name} does not answer as the module does: {engine.engine} {engine.reason}.",
                remedy=f"Its weights are not those of the module. {given}",
            )


def _scenario(name: str | None, rate: float | None, bound: float | None) -> Scenario | None:
    from nncompile.bench.scenarios import Scenario

    if name is None or (bound is not None and name != "server"):
        given = "--rate" if rate is not None else "--bound" if bound is not None else None
        if given is not None:
            raise UsageError(f"{given} is for a server.", remedy="Add --scenario server, or leave it out.")
        return None
    with wrong_usage():
        kind: Any = name
        return Scenario(kind, rate, **({} if bound is None else {"bound": bound}))


def _run(file: Path, batches: tuple[int, ...], engines: tuple[str, ...], **options: Any) -> BenchReport:
    from rich.progress import Progress

    from nncompile.bench.runner import run

    # auto_refresh redraws in a thread, which would be timed too.
    shown = console.err.is_terminal
    with Progress(console=console.err, disable=not shown, transient=True, auto_refresh=False) as bar:
        task = bar.add_task("bench", total=None)

        def advance(what: str, done: int, total: int) -> None:
            bar.update(task, description=what, completed=done, total=total, refresh=True)

        return run(file, batches, engines, **options, progress=advance)
