"""`nncompile doctor`: what is installed, what this machine is, where a model runs, what stands in the way."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import typer

from nncompile.cli import console
from nncompile_runtime.cuda import Cuda, examine, placement
from nncompile_runtime.devices import NVIDIA_DRIVER
from nncompile_runtime.errors import NncompileError
from nncompile_runtime.kernels import installed_library
from nncompile_runtime.machine import available_processors, installed_onnxruntime, this_machine

_PACKAGES = ("nncompile", "numpy", "pydantic", "torch", "onnx", "onnx-ir", "onnxscript", "pillow")


def doctor(
    file: Annotated[
        Path | None, typer.Argument(help="A model: also which execution provider runs its nodes.")
    ] = None,
    device: Annotated[str, typer.Option(help="Where to run it: auto, cpu, cuda or cuda:1.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Check the installation; exit code 1 where models, or this one, could not be run."""
    findings = _examine()
    findings["placement"] = _placement(file, device, findings["problems"]) if file else {}
    if as_json:
        console.print_json(findings)
    else:
        grid = console.table("", "", header=False)
        for name, value in findings.items():
            if name not in ("problems", "notes", "cuda", "placement"):
                grid.add_row(name, ", ".join(value) if isinstance(value, list) else str(value))
        for name, value in _cuda_rows(findings["cuda"]):
            grid.add_row(name, value)
        for provider, counts in findings["placement"].items():
            nodes = ", ".join(f"{count} {name}" for name, count in sorted(counts.items())) or "all"
            grid.add_row("nodes", f"{provider}: {nodes}")
        console.out.print(grid)
        for note in findings["notes"]:
            console.out.print(f"note: {note}", markup=False)
        for problem in findings["problems"]:
            console.out.print(f"PROBLEM: {problem}", markup=False)
        if not findings["problems"]:
            console.out.print("ok: models run on this machine")
    if findings["problems"]:
        raise typer.Exit(1)


def _examine() -> dict[str, Any]:
    machine = this_machine()
    problems: list[str] = []
    notes: list[str] = []
    providers: list[str] = []
    library = installed_library()
    if library.path is None:
        notes.append(f"{library.note}: fused regions run at plain speed")
    cuda: Cuda | None = None
    try:
        from nncompile_runtime.session import available_providers, onnxruntime

        providers = available_providers()
        cuda = examine(onnxruntime())
    except NncompileError as error:
        problems.append(str(error))
    if cuda and cuda.fault:
        notes.append(f"device='cuda' is refused, 'auto' runs on the CPU: {cuda.fault}. {cuda.remedy}")
    if os.environ.get("ORT_DISABLE_TELEMETRY") != "1":
        notes.append("ORT_DISABLE_TELEMETRY is set to something else than 1: ONNX Runtime may report usage")
    if _version("torch") == "not installed":
        notes.append(
            "torch is not installed: fine for serving; export needs pip install 'nncompile[compile]'"
        )
    return {
        "python": f"{platform.python_version()} ({sys.executable})",
        "system": platform.platform(),
        "processor": machine.cpu,
        "vector flags": list(machine.vector_flags),
        "processors": f"{available_processors()} usable of {os.cpu_count()}",
        "memory": _memory(),
        **{name: _version(name) for name in _PACKAGES},
        "onnxruntime": ", ".join(f"{n} {v}" for n, v in installed_onnxruntime().items()) or "not installed",
        "providers": providers,
        "native kernels": library.note if library.path else "none",
        "nvidia driver": _first_line(NVIDIA_DRIVER) if NVIDIA_DRIVER.exists() else "none found",
        "cuda": asdict(cuda) if cuda else None,
        "fingerprint": machine.fingerprint,
        "notes": notes,
        "problems": problems,
    }


def _placement(file: Path, device: str, problems: list[str]) -> dict[str, dict[str, int]]:
    """Which provider runs which nodes of a model, the CPU's all; where it cannot run, that is a problem."""
    from nncompile_runtime.predictor import load

    try:
        predictor = load(file, device)
    except NncompileError as error:
        problems.append(str(error))
        return {}
    if predictor.plan.provider == "cpu":
        return {"CPUExecutionProvider": {}}
    return placement(predictor.session.native)


def _cuda_rows(cuda: dict[str, Any] | None) -> Iterator[tuple[str, str]]:
    """What `Cuda` says, a row each."""
    if cuda is None:
        return
    yield "cuda provider", f"built for CUDA {cuda['built_for']}" if cuda["built_for"] else "none"
    yield "cuda driver", f"serves CUDA {cuda['driver']}" if cuda["driver"] else "none found"
    yield "cuda GPUs", str(cuda["gpus"])
    for name, file in cuda["libraries"].items():
        yield f"  {name}", file or "MISSING"


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _memory() -> str:
    total = _first_line(Path("/proc/meminfo")).split()
    return console.size(int(total[1]) * 1024) if len(total) > 1 else "unknown"


def _first_line(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()[0]
    except (OSError, IndexError):
        return "unknown"
