"""The subcommands, put together."""

from __future__ import annotations

from typing import Annotated

import typer

from nncompile.cli import bench, doctor, export, inspect, predict, triton, tune, verify

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Every command takes --debug, which shows the traceback of an error.",
)
app.command("export")(export.export)
app.command("predict")(predict.predict)
app.command("bench")(bench.bench)
app.command("tune")(tune.tune)
app.command("triton")(triton.triton)
app.command("inspect")(inspect.inspect)
app.command("verify")(verify.verify)
app.command("doctor")(doctor.doctor)


def _version(wanted: bool) -> None:
    if wanted:
        from nncompile import __version__

        typer.echo(f"nncompile {__version__}")
        raise typer.Exit


@app.callback()
def nncompile(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Compile a torch.nn model to one verified ONNX file, and run it fast."""
