"""What a compile did, for people and for programs."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from nncompile.stages import PassReport
from nncompile_runtime.manifest import PassRecord, Precision, Verification

# Passes whose operators other tools than ONNX Runtime do not know.
FOREIGN_OPERATORS = dict.fromkeys(("fuse-conv-relu", "fuse-linear-relu"), "com.microsoft.FusedConv")
_IN_BFLOAT16 = "compute-in-bfloat16"
_PRECISIONS = {
    "bfloat16": "bfloat16: inputs and weights are rounded to it, and computed with in float32",
    _IN_BFLOAT16: "runs on an NVIDIA GPU only: it computes in bfloat16; verified on the CPU, each result "
    "rounded to bfloat16",
    "tf32": "tf32: verified in float32; an NVIDIA GPU may round factors to 10 bits",
}


@dataclass(frozen=True)
class CompileReport:
    """What `compile` did.

    Attributes:
        passes: One report for each pass that ran, in order.
        verification: What was compared, and how close it came.
        seconds: Phase name -> duration in seconds.
        size: Size of the artifact in bytes.
        precision: How the model computes.
        exact: Whether the native kernels do without Winograd's algorithm: asked for, or found necessary.
    """

    passes: tuple[PassReport, ...]
    verification: Verification
    seconds: dict[str, float]
    size: int
    precision: Precision = "float32"
    exact: bool = False

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON-ready data."""
        return {
            "passes": [asdict(report) for report in self.passes],
            "verification": self.verification.model_dump(mode="json"),
            "seconds": self.seconds,
            "size": self.size,
            "precision": self.precision,
            "exact": self.exact,
            "caveats": caveats(self.precision, self.passes),
        }

    def __str__(self) -> str:
        """A few lines of plain text."""
        lines = [
            f"{r.name:<26} {r.changes:>4} changes  {r.nodes_before:>4} -> {r.nodes_after:<4} nodes"
            for r in self.passes
            if r.changes
        ]
        idle = [r.name for r in self.passes if not r.changes]
        if idle:
            lines += textwrap.wrap(
                f"nothing to do: {', '.join(idle)}", 110, subsequent_indent="  ", break_on_hyphens=False
            )
        for report in self.passes:
            lines += [*_gains(report), *_left_alone(report)]
        if self.exact:
            lines.append("the native kernels do without Winograd's algorithm")
        lines += [*caveats(self.precision, self.passes), *verification_lines(self.verification)]
        return "\n".join(lines)


def _gains(report: PassReport) -> list[str]:
    """A line for each gain that was measured, with the first of its nodes."""
    gains = _by_first((firing.gain, firing.node) for firing in report.firings if firing.gain)
    return [f"  {report.name}: {where}: {gain}" for gain, where in gains.items()]


def _left_alone(report: PassReport) -> list[str]:
    """A line for each reason to leave nodes alone, with the first of them."""
    reasons = _by_first((refusal.reason, refusal.node) for refusal in report.refusals)
    return [f"  {report.name}: left {where} alone: {why}" for why, where in reasons.items()]


def _by_first(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """What is said -> of which node, and of how many more."""
    nodes: dict[str, list[str]] = {}
    for said, node in pairs:
        nodes.setdefault(said, []).append(node)
    return {
        said: names[0] + (f" and {len(names) - 1} more" if names[1:] else "") for said, names in nodes.items()
    }


def caveats(precision: Precision, passes: Sequence[PassReport | PassRecord]) -> list[str]:
    """What precision and passes mean for where a model opens, and for how it computes."""
    foreign = dict.fromkeys(
        FOREIGN_OPERATORS[step.name] for step in passes if step.changes and step.name in FOREIGN_OPERATORS
    )
    lines = [f"opens in ONNX Runtime only: {name} is outside the ONNX standard" for name in foreign]
    in_bfloat16 = any(step.changes and step.name == _IN_BFLOAT16 for step in passes)
    how = _IN_BFLOAT16 if in_bfloat16 else precision
    return lines + ([_PRECISIONS[how]] if how in _PRECISIONS else [])


def verification_lines(record: Verification) -> list[str]:
    """The verification record in sentences."""
    if record.status == "skipped":
        return [*_dropped(record), "NOT VERIFIED: compiled with verify=False"]
    batches = f", batches {', '.join(map(str, record.batches))}" if record.batches else ", fixed batch"
    sizes = "".join(f", {name} {', '.join(map(str, tried))}" for name, tried in record.sizes.items())
    lines = [f"verified against eager PyTorch in {record.reference}: {record.cases} inputs{batches}{sizes}"]
    for output in record.outputs:
        top1 = "" if output.top1_agreement is None else f", top-1 agreement {output.top1_agreement:.1%}"
        error = f"largest error {output.max_abs:.2g} (eager's own {output.eager_max_abs:.2g})"
        lines.append(f"  {output.name}: {error}{top1}")
    return [*lines, *_dropped(record)]


def _dropped(record: Verification) -> list[str]:
    return [f"DROPPED PASS {name}: it failed or changed the answers" for name in record.dropped_passes]
