"""Compile the networks of others and write docs/networks.md, the plain exporter's time beside ours."""

import argparse
import logging
import sys
import tempfile
import time
import warnings
from pathlib import Path

import torch
from networks import largest_errors, networks
from rich.console import Console

import nncompile
from nncompile_runtime.machine import this_machine


def main() -> int:
    """Compile all networks, or those named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="such as timm/resnet18; all of them without any")
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    warnings.filterwarnings("ignore")
    made = networks()
    names = options.names or list(made)
    console = Console(stderr=True)
    _compile(*made[names[0]]())  # imports, once and untimed
    rows = []
    for name in names:
        rows.append(_row(name, *made[name]()))
        console.print(" | ".join(rows[-1]), markup=False, soft_wrap=True)
    machine = this_machine()
    lines = [
        "# Networks that nobody here wrote",
        "",
        "Written by `make coverage`: random weights, live batch-norm statistics, dynamic batch, verified,",
        "and compared with eager PyTorch in float64 at batches 1 and 3. An error of 1e-4 is right, or of 8",
        "times eager's own, as verification allows; with `exact`, without Winograd's algorithm, of 2 times.",
        "Errors are the largest, relative to the largest value. *exporter* is",
        "`torch.onnx.export(dynamo=True)` alone, to one file, *compile* all of `nncompile.compile`,",
        "verification included; both once, in seconds of processor time, all threads together, so that what",
        "else runs on the machine counts little.",
        "",
        f"{machine.cpu}, {machine.processors} processors; torch {torch.__version__}, "
        f"ONNX Runtime {machine.onnxruntime}, nncompile {nncompile.__version__}.",
        "",
        "| network | result | error | exact | eager's | exporter s | compile s | ratio |",
        "|:--|:--|--:|--:|--:|--:|--:|--:|",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]
    text = "\n".join(lines) + "\n"
    if options.output:
        options.output.write_text(text, encoding="utf-8")
    else:
        print(text)
    return int(any(row[1] != "right" for row in rows))


def _compile(net, image):
    started = time.process_time()
    return nncompile.compile(net, image), time.process_time() - started


def _row(name, net, image) -> tuple[str, ...]:
    try:
        model, ours = _compile(net, image)
        errors = [f"{error:.1g}" for error in largest_errors(net, model, image)]
        result = "right" if not model.report.verification.dropped_passes else "a pass was dropped"
    except Exception as error:
        what = " ".join(f"{type(error).__name__}: {error}".replace("|", "\\|").split())[:200]
        return (name, what, "", "", "", "", "", "")
    try:
        exporter = _exporter_seconds(net, image)
    except Exception:
        return (name, result, *errors, "fails", f"{ours:.1f}", "")
    return (name, result, *errors, f"{exporter:.1f}", f"{ours:.1f}", f"{ours / exporter:.2f}")


def _exporter_seconds(net, image) -> float:
    shapes = ({0: torch.export.Dim("batch")},)
    with tempfile.TemporaryDirectory() as folder:
        started = time.process_time()
        torch.onnx.export(
            net,
            (image.repeat(2, 1, 1, 1),),
            Path(folder) / "model.onnx",
            dynamo=True,
            dynamic_shapes=shapes,
            external_data=False,
            verbose=False,
        )
        return time.process_time() - started


if __name__ == "__main__":
    sys.exit(main())
