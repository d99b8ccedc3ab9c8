"""The report of a run: as JSON, and as Markdown."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from models.gpu_check.running import Result
from models.gpu_check.table import Finding
from nncompile.bench.figures import markdown_table
from nncompile_runtime.cuda import examine
from nncompile_runtime.machine import installed_onnxruntime, this_machine
from nncompile_runtime.session import onnxruntime

_DRIVER = Path("/proc/driver/nvidia/version")
_PACKAGES = ("torch", "triton", "numpy", "pydantic", "onnx", "onnxscript")


@dataclass(frozen=True)
class Place:
    """Where checks were run.

    Attributes:
        device: As it was asked for.
        gpu: Its name and memory; empty in a dry run.
        driver: What the NVIDIA driver says of itself.
        processor: Its name.
        processors: Those that this process may use.
        versions: Package -> version.
    """

    device: str
    gpu: str
    driver: str
    processor: str
    processors: int
    versions: dict[str, str]


def this_place(device: str) -> Place:
    """Look where this is."""
    import torch

    machine = this_machine()
    gpu = driver = ""
    if device != "cpu":
        about = torch.cuda.get_device_properties(device)
        gpu = f"{about.name}, {about.total_memory / 2**30:.0f} GiB, compute {about.major}.{about.minor}"
        driver = f"serves CUDA {examine(onnxruntime()).driver}"
        if _DRIVER.exists():
            driver = f"{_DRIVER.read_text(encoding='utf-8').splitlines()[0]}, {driver}"
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    versions |= {"torch's CUDA": str(torch.version.cuda)} | installed_onnxruntime()
    return Place(device, gpu, driver, machine.cpu, machine.processors, versions)


def as_json(results: Sequence[Result], place: Place, left: Sequence[str] = ()) -> dict[str, Any]:
    """Everything, in what JSON has; `left` are the checks that were not begun yet."""
    return {
        "place": asdict(place),
        "seconds": sum(result.seconds for result in results),
        "counts": counts(results),
        "left": list(left),
        "checks": [asdict(result) for result in results],
    }


def as_markdown(results: Sequence[Result], place: Place, left: Sequence[str] = ()) -> str:
    """A table of the checks, what failed, and every finding; `left` are the checks not begun yet."""
    versions = ", ".join(f"{name} {version}" for name, version in place.versions.items())
    lines = ["# GPU check", ""]
    if place.device == "cpu":
        lines += ["A dry run on the CPU: it shows that the checks run, and nothing about a GPU.", ""]
    where = f"GPU: {place.gpu}. Driver: {place.driver}. " if place.gpu else ""
    lines += [
        f"{where}Processor: {place.processor}, {place.processors} usable. Versions: {versions}.",
        "",
        summary(results),
        "",
    ]
    if left:
        lines += [f"This is not all yet: {', '.join(left)} were to follow.", ""]
    rows = [[r.name, r.about, r.status, f"{r.seconds:.0f}"] for r in results]
    lines += [
        markdown_table(["check", "what it proves", "result", "s"], rows, [False, False, False, True]),
        "",
    ]
    wrong = [
        (result.name, finding)
        for result in results
        for finding in result.findings
        if finding.verdict == "failed"
    ]
    if wrong:
        lines += ["## What failed", "", *(f"- {name}: {f.what}: {_line(f)}" for name, f in wrong), ""]
    for result in results:
        cells = [[f.what, f.verdict, _line(f)] for f in result.findings]
        lines += [f"## {result.name}", "", markdown_table(["what", "", "found"], cells, [False] * 3), ""]
    return "\n".join(lines)


def summary(results: Sequence[Result]) -> str:
    """One sentence."""
    told = ", ".join(f"{number} {status}" for status, number in counts(results).items())
    return f"{len(results)} checks in {sum(result.seconds for result in results):.0f} s; findings: {told}."


def counts(results: Sequence[Result]) -> dict[str, int]:
    """How many findings passed, failed, and were not run."""
    verdicts = [finding.verdict for result in results for finding in result.findings]
    return {verdict: verdicts.count(verdict) for verdict in ("passed", "failed", "not run")}


def _line(finding: Finding) -> str:
    return " ".join(finding.said.split())
