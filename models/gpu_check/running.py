"""Runs checks one after the other, each in a process of its own, which a crash or too long a call ends alone.

`python -m models.gpu_check.running NAME CONTEXT FILE` is that process. It writes each finding to the file as
soon as it is found, so that what was found before a crash is kept.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from models.gpu_check.table import CHECKS, Check, Finding, NotRunError, Verdict
from nncompile.bench.apart import apart

if TYPE_CHECKING:
    from models.gpu_check.context import Context

_ROOT = Path(__file__).parents[2]
SECONDS = 480  # of all checks together: with the start of a machine, a session of ten minutes


@dataclass(frozen=True)
class Result:
    """A check that was run, or why it was not.

    Attributes:
        name: The check.
        about: What it proves.
        seconds: How long it took.
        findings: In the order in which they were found.
        cut: Whether its time was over before it was through.
        status: `failed` where a finding is, else `passed` where one is, else `told` or `not run`.
    """

    name: str
    about: str
    seconds: float
    findings: tuple[Finding, ...]
    cut: bool = False
    status: Verdict = field(init=False)

    def __post_init__(self) -> None:
        """Judge by the findings: one that is wrong is enough."""
        verdicts = {finding.verdict for finding in self.findings}
        order: tuple[Verdict, ...] = ("failed", "passed", "told", "not run")
        object.__setattr__(self, "status", next(verdict for verdict in order if verdict in verdicts))


def perform(check: Check, context: Context) -> Iterator[Finding]:
    """A check in this process: what it raises is a finding too, and its traceback goes to the log."""
    try:
        yield from check.findings(context)
    except NotRunError as error:
        yield Finding(check.name, "not run", str(error))
    except Exception as error:
        traceback.print_exc()
        yield Finding(check.name, "failed", f"{type(error).__name__}: {error}")


def run_all(
    checks: Sequence[Check], context: Context, folder: Path, tell: Callable[[Result], None]
) -> list[Result]:
    """Run checks in order. Each must leave those after it the time that they may take.

    What ran out of time is run once more at the end, where more is left than it had and nothing failed: no
    second try hides a failure, or what the first one found.

    Args:
        checks: What to run.
        context: On what.
        folder: Where each check's process writes its log: warnings, and the traceback of what went wrong.
        tell: Told of each check that has ended; of one that is run once more, again.
    """
    results: list[Result] = []
    start, later = time.monotonic(), sum(check.seconds for check in checks)
    for check in checks:
        later -= check.seconds
        results.append(run_apart(check, context, folder, start + SECONDS - later - time.monotonic()))
        tell(results[-1])
    for number, (check, before) in enumerate(zip(checks, results, strict=True)):
        left = start + SECONDS - time.monotonic()
        if before.cut and before.status != "failed" and left > before.seconds:
            again = run_apart(check, context, folder, left)
            less = again.cut and again.status != "failed" and len(again.findings) < len(before.findings)
            results[number] = replace(before if less else again, seconds=before.seconds + again.seconds)
            tell(results[number])
    return results


def run_apart(check: Check, context: Context, folder: Path, seconds: float) -> Result:
    """A check in a process of its own, which is ended when its time is over: the rest is then not run."""
    folder.mkdir(parents=True, exist_ok=True)
    file, log = (folder / f"{check.name}.{kind}" for kind in ("findings", "log"))
    file.write_bytes(b"")
    command = [sys.executable, "-m", "models.gpu_check.running", check.name, context.as_json(), str(file)]
    start, cut, ended = time.monotonic(), False, ""
    with (
        log.open("wb") as output,
        apart(command, environment(), stdout=output, stderr=output) as process,
    ):
        try:
            code = process.wait(max(0.0, seconds))
            ended = _how_it_ended(code, log) if code else ""
        except subprocess.TimeoutExpired:
            cut = True
    whole_lines = file.read_text(encoding="utf-8").split("\n")[:-1]
    findings = [Finding(**json.loads(line)) for line in whole_lines]
    if cut:
        said = f"out of time after {seconds:.0f} s; the log ends with: {_last_line(log)}"
        findings.append(Finding("what is not above", "not run", said))
    elif ended or not findings:
        findings.append(Finding(check.name, "failed", ended or "it found nothing"))
    return Result(check.name, check.about, time.monotonic() - start, tuple(findings), cut)


def environment() -> dict[str, str]:
    """Of a process that is to import what this one does."""
    entries = [str(_ROOT), str(_ROOT / "runtime"), *(os.path.abspath(entry or ".") for entry in sys.path)]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(entries)}


def _how_it_ended(code: int, log: Path) -> str:
    kind = "signal" if code < 0 else "exit code"
    return f"its process ended with {kind} {abs(code)}: {_last_line(log)}"


def _last_line(log: Path) -> str:
    return (log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or [""])[-1][:300]


def _child(name: str, context: str, file: str) -> None:
    from models.gpu_check.context import Context

    check = next(check for check in CHECKS if check.name == name)
    with Path(file).open("a", encoding="utf-8") as lines:
        for finding in perform(check, Context.from_json(context)):
            lines.write(json.dumps(asdict(finding)) + "\n")
            lines.flush()


if __name__ == "__main__":
    _child(*sys.argv[1:])
