"""Prove nncompile on a machine with an NVIDIA GPU: `python -m models.gpu_check`.

The checks take under 8 minutes. Compiling the networks and warming torch.compile's code come before, once;
the report tells the time of all three. Exit code 0: all that was run passed. 1: something failed, or nothing
passed. 2: there is no GPU, or the command was called wrongly. 3: nothing failed, but the proof is incomplete:
a check ran out of time, or on a GPU a target of speed, or another part of the proof, was not run. Of a dry
run (`--device cpu`) that is not asked.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from models.gpu_check.context import NETWORKS, PRECISIONS, Context
from models.gpu_check.page import Place, as_json, as_markdown, counts, lacking, summary, this_place
from models.gpu_check.preparing import prepare
from models.gpu_check.running import Result, environment, run_all
from models.gpu_check.table import CHECKS, Finding
from models.gpu_check.warming import warm
from nncompile_runtime import NncompileError, container, cuda
from nncompile_runtime.session import onnxruntime

_COMPILE = ("onnx", "onnx_ir", "onnxscript")


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
    folder = options.prepare or options.prepared or options.output / "networks"
    context = Context(options.device, folder, names, precisions, options.seconds)
    missing = _missing(options.device)
    if not missing and context.on_gpu:
        context = replace(context, peers=options.output / "peers")
    if missing and not options.prepare:
        return _wrong(missing)
    if not options.prepared and not options.warm and (missing := _no_compiler()):
        return _wrong(missing)
    if options.prepare:
        return _prepare(context)
    if options.warm:
        return _warm(context)
    options.output.mkdir(parents=True, exist_ok=True)
    place, before = this_place(options.device), {}
    if not options.prepared:
        before["networks"] = _networks(context)
    if context.peers is not None:
        before["torch.compile's code"] = _timed(warm(context))[0]
    told: dict[str, Result] = {}

    def tell(result: Result) -> None:
        _print(result)
        told[result.name] = result
        left = [name for name in chosen if name not in told]
        _write(options.output, tuple(told.values()), place, before, left)

    checks = [check for check in CHECKS if check.name in chosen]
    results = run_all(checks, context, options.output / "logs", tell)
    _write(options.output, results, place, before)
    print(f"{summary(results, place)} Report: {options.output / 'gpu-check.md'}")
    found = counts(results)
    if found["failed"] or not found["passed"]:
        return 1
    return 3 if lacking(results, place) else 0


def _write(
    folder: Path,
    results: Sequence[Result],
    place: Place,
    before: Mapping[str, float],
    left: Sequence[str] = (),
) -> None:
    """Write the report, after each check: who stops the command keeps what was found."""
    report = json.dumps(as_json(results, place, left, before), indent=2) + "\n"
    container.write(folder / "gpu-check.json", report.encode())
    container.write(folder / "gpu-check.md", as_markdown(results, place, left, before).encode())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m models.gpu_check", description=__doc__)
    add = parser.add_argument
    about = "folder of the report, of the networks and of torch.compile's code, which are kept"
    add("-o", "--output", type=Path, default=Path("build/gpu-check"), help=about)
    add("--device", default="cuda", help="cuda, cuda:1, or cpu for a dry run")
    add("--networks", default=",".join(NETWORKS), help="networks, comma-separated")
    add("--precisions", default=",".join(PRECISIONS), help="precisions, comma-separated")
    add("--only", default="", help=f"checks, comma-separated: {', '.join(check.name for check in CHECKS)}")
    add("--seconds", type=float, default=0.5, help="timed seconds of each engine in a check of speed")
    add("--prepare", type=Path, help="compile into this folder, and check nothing")
    add("--warm", action="store_true", help="make torch.compile's code on this GPU, and check nothing")
    add("--prepared", type=Path, help="folder of what --prepare compiled: compile nothing")
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


def _no_compiler() -> str:
    """Which packages that compile are missing, in one line; empty where they are there."""
    missing = [name for name in _COMPILE if find_spec(name) is None]
    if not missing:
        return ""
    what = f"compiling needs {', '.join(missing)}: run: pip install 'nncompile[compile]'"
    return f"{what}, or compile elsewhere with --prepare FOLDER, and run this with --prepared FOLDER"


def _prepare(context: Context) -> int:
    """Compile the networks, and where there is a GPU what the engines make that they are compared with."""
    _, findings = _timed(prepare(context))
    if context.peers is not None:
        _timed(warm(context))
    return 1 if any(finding.verdict == "failed" for finding in findings) else 0


def _warm(context: Context) -> int:
    """Make what the engines need that nncompile is compared with; 1 where one cannot be had."""
    if context.peers is None:
        return _wrong("torch.compile's code is made on a GPU: choose its device")
    return 1 if any(finding.verdict != "passed" for finding in _timed(warm(context))[1]) else 0


def _networks(context: Context) -> float:
    """Seconds in which a process of its own compiled: what it took of the GPU and of memory ends with it.

    What failed is told by the check `compile`.
    """
    start = time.monotonic()
    command = [sys.executable, "-m", "models.gpu_check", "--prepare", str(context.folder), "--device", "cpu"]
    command += ["--networks", ",".join(context.networks), "--precisions", ",".join(context.precisions)]
    subprocess.run(command, env=environment(), check=False)  # noqa: S603
    return time.monotonic() - start


def _timed(findings: Iterator[Finding]) -> tuple[float, list[Finding]]:
    """Seconds until all was found, and that; each is printed as it comes."""
    start, found = time.monotonic(), []
    for finding in findings:
        found.append(finding)
        print(f"{finding.what}: {finding.said}", flush=True)
    return time.monotonic() - start, found


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
