"""Prove nncompile on a machine with an NVIDIA GPU, in under 8 minutes: `python -m models.gpu_check`.

Exit code 0: all that was run passed. 1: something failed, or nothing passed. 2: there is no GPU, or the
command was called wrongly.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from models.gpu_check.context import NETWORKS, PRECISIONS, Context, compiled
from models.gpu_check.page import Place, as_json, as_markdown, counts, summary, this_place
from models.gpu_check.running import Result, run_all
from models.gpu_check.table import CHECKS
from nncompile_runtime import NncompileError, container, cuda
from nncompile_runtime.session import onnxruntime


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; its exit code."""
    options = _parser().parse_args(arguments)
    names = tuple(options.networks.split(","))
    precisions = tuple(options.precisions.split(","))
    chosen = options.only.split(",") if options.only else [check.name for check in CHECKS]
    known = [check.name for check in CHECKS]
    for what, given, all_of_them in (
        ("network", names, NETWORKS),
        ("precision", precisions, PRECISIONS),
        ("check", chosen, known),
    ):
        for name in given:
            if name not in all_of_them:
                return _wrong(f"there is no {what} {name!r}: choose from {', '.join(all_of_them)}")
    if options.prepare:
        return _prepare(Context("cpu", options.prepare, names, precisions))
    missing = _missing(options.device)
    if missing:
        return _wrong(missing)
    options.output.mkdir(parents=True, exist_ok=True)
    place = this_place(options.device)
    told: list[Result] = []
    with tempfile.TemporaryDirectory() as folder:
        context = Context(
            options.device, options.prepared or Path(folder), names, precisions, options.seconds
        )

        def tell(result: Result) -> None:
            _print(result)
            told.append(result)
            _write(options.output, told, place, left=[n for n in chosen if n not in {r.name for r in told}])

        checks = [check for check in CHECKS if check.name in chosen]
        results = run_all(checks, context, options.output / "logs", tell)
    _write(options.output, results, place)
    print(f"{summary(results)} Report: {options.output / 'gpu-check.md'}")
    found = counts(results)
    return 0 if found["passed"] and not found["failed"] else 1


def _write(folder: Path, results: Sequence[Result], place: Place, left: Sequence[str] = ()) -> None:
    """Write the report, after each check: who stops the command keeps what was found."""
    report = json.dumps(as_json(results, place, left), indent=2) + "\n"
    container.write(folder / "gpu-check.json", report.encode())
    container.write(folder / "gpu-check.md", as_markdown(results, place, left).encode())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m models.gpu_check", description=__doc__)
    add = parser.add_argument
    add("-o", "--output", type=Path, default=Path("build/gpu-check"), help="folder of the report")
    add("--device", default="cuda", help="cuda, cuda:1, or cpu for a dry run")
    add("--networks", default=",".join(NETWORKS), help="networks, comma-separated")
    add("--precisions", default=",".join(PRECISIONS), help="precisions, comma-separated")
    add("--only", default="", help=f"checks, comma-separated: {', '.join(check.name for check in CHECKS)}")
    add("--seconds", type=float, default=0.5, help="timed seconds of each engine in a check of speed")
    add("--prepare", type=Path, help="compile the networks into this folder, and do nothing else")
    add("--prepared", type=Path, help="folder of networks that --prepare compiled")
    return parser


def _missing(device: str) -> str:
    """What is missing to run on the device, in one line; empty where nothing is."""
    if device == "cpu":
        return ""
    import torch

    number = device.partition(":")[2] or "0"
    if device.partition(":")[0] != "cuda" or not (number.isascii() and number.isdigit()):
        return f"there is no device {device!r}: use cuda, cuda:1, or cpu for a dry run"
    try:
        cuda.require(onnxruntime(), int(number))
    except NncompileError as error:
        return str(error)
    if int(number) >= torch.cuda.device_count():
        return f"PyTorch {torch.__version__} cannot use {device}: install a build of it with CUDA"
    return ""


def _prepare(context: Context) -> int:
    findings = []
    for finding in compiled(context):
        findings.append(finding)
        print(f"{finding.what}: {finding.said}")
    return 1 if any(finding.verdict == "failed" for finding in findings) else 0


def _print(result: Result) -> None:
    print(f"{result.name}: {result.status} ({result.seconds:.0f} s)", flush=True)
    for finding in result.findings:
        if finding.verdict == "failed":
            print(f"  {finding.what}: {finding.said}", flush=True)


def _wrong(problem: str) -> int:
    print(f"error: {problem}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the check that runs is ended as well
    sys.exit(main())
