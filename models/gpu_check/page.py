"""The report of a run: as JSON, and as Markdown."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from types import MappingProxyType
from typing import Any

from models.gpu_check.running import SECONDS, Result
from models.gpu_check.table import CHECKS, Finding
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


def as_json(
    results: Sequence[Result],
    place: Place,
    left: Sequence[str] = (),
    before: Mapping[str, float] = MappingProxyType({}),
) -> dict[str, Any]:
    """Everything, in what JSON has.

    Args:
        results: Of the checks that have ended.
        place: Where they were run.
        left: The checks that were not begun yet.
        before: Seconds of what was made before the checks, which do not count among theirs.
    """
    return {
        "place": asdict(place),
        "before": dict(before),
        "seconds": sum(result.seconds for result in results),
        "total_seconds": _total(results, before),
        "counts": counts(results),
        "incomplete": lacking(results, place),
        "left": list(left),
        "checks": [asdict(result) for result in results],
    }


def as_markdown(
    results: Sequence[Result],
    place: Place,
    left: Sequence[str] = (),
    before: Mapping[str, float] = MappingProxyType({}),
) -> str:
    """A table of the checks, what failed, and every finding; the arguments are those of `as_json`."""
    versions = ", ".join(f"{name} {version}" for name, version in place.versions.items())
    lines = ["# GPU check", ""]
    if place.device == "cpu":
        lines += ["A dry run on the CPU: it shows that the checks run, and nothing about a GPU.", ""]
    where = f"GPU: {place.gpu}. Driver: {place.driver}. " if place.gpu else ""
    lines += [
        f"{where}Processor: {place.processor}, {place.processors} usable. Versions: {versions}.",
        "",
        summary(results, place),
        "",
    ]
    if before:
        told = ", ".join(f"{what} in {seconds:.0f} s" for what, seconds in before.items())
        lines += [f"Made before the checks, and not in their {SECONDS} s: {told}.", ""]
    lines += [f"Preparing, warming and checks together took {_total(results, before):.0f} s.", ""]
    if left:
        lines += [f"This is not all yet: {', '.join(left)} were to follow.", ""]
    rows = [[r.name, r.about, r.status + ", out of time" * r.cut, f"{r.seconds:.0f}"] for r in results]
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


def summary(results: Sequence[Result], place: Place) -> str:
    """How much was found, and what the run does not prove."""
    told = ", ".join(f"{number} {status}" for status, number in counts(results).items())
    seconds = sum(result.seconds for result in results)
    open_ends = "; ".join(lacking(results, place))
    incomplete = f" Incomplete: {open_ends}." if open_ends else ""
    return f"{len(results)} checks in {seconds:.0f} s; findings: {told}.{incomplete}"


def lacking(results: Sequence[Result], place: Place) -> list[str]:
    """What a run does not prove although nothing failed in it.

    Checks that ran out of time; on a GPU also those that mean something only there and were not run, and what
    was not run of those that must be complete.
    """
    known = {check.name: check for check in CHECKS}
    found = []
    for result in results:
        check, not_run = known[result.name], [f.what for f in result.findings if f.verdict == "not run"]
        if result.cut:
            found.append(f"{result.name} ran out of time")
        elif place.device != "cpu" and check.gpu_only and result.status == "not run":
            found.append(f"{result.name} was not run")
        elif place.device != "cpu" and check.complete and not_run:
            more = f" and {len(not_run) - 3} more" if len(not_run) > 3 else ""
            found.append(f"of {result.name} was not run: {', '.join(not_run[:3])}{more}")
    return found


def counts(results: Sequence[Result]) -> dict[str, int]:
    """How many findings passed, failed, and were not run."""
    verdicts = [finding.verdict for result in results for finding in result.findings]
    return {verdict: verdicts.count(verdict) for verdict in ("passed", "failed", "not run")}


def _total(results: Sequence[Result], before: Mapping[str, float]) -> float:
    return sum(before.values()) + sum(result.seconds for result in results)


def _line(finding: Finding) -> str:
    return " ".join(finding.said.split())
