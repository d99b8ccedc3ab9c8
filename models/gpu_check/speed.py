"""Speed on the device: what it allows, and the ratios that the project set itself to reach on an H100.

Every ratio is of one run, in which all engines take turns (`nncompile.bench`), with its bootstrap 95 %
interval. Inputs and outputs stay on the device.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from models.gpu_check.context import Context
from models.gpu_check.table import Finding, NotRunError
from models.gpu_check.warming import MAX_AUTOTUNE, REDUCE_OVERHEAD, warmed
from nncompile.bench.figures import percent
from nncompile.bench.gpu_ceilings import ORDERS, PRECISIONS, SIZES, measure_gpu_ceilings
from nncompile.bench.results import BenchReport, Row
from nncompile.bench.runner import run
from nncompile.bench.timing import Schedule
from nncompile_runtime.bootstrap import Estimate, median_estimate

_OURS = ("nncompile-tuned", "nncompile")
_SMALL_PEERS = ("onnxruntime", "eager", "cuda-graph", REDUCE_OVERHEAD, "nncompile-tuned")
_LARGE_PEERS = ("onnxruntime", "eager", MAX_AUTOTUNE, "nncompile-tuned")
_DRY_PEERS = ("onnxruntime", "eager")


@dataclass(frozen=True)
class Target:
    """What is to be reached.

    Attributes:
        network: Its name.
        peer: The engine that it is compared with.
        least: How many times as fast as the peer, at least.
    """

    network: str
    peer: str
    least: float


SMALL = tuple(
    Target(network, peer, least)
    for network in ("lenet5", "net", "mlp")
    for peer, least in ((REDUCE_OVERHEAD, 1.0), ("onnxruntime", 3.0))
)
LARGE = (Target("resnet18", MAX_AUTOTUNE, 1.0),)


def ceilings(context: Context) -> Iterator[Finding]:
    """Bandwidth, matrix rate by precision, and the shortest call."""
    orders, sizes = (ORDERS, SIZES) if context.on_gpu else (ORDERS[:1], SIZES[:3])
    for precision in PRECISIONS if context.on_gpu else PRECISIONS[:1]:
        found = measure_gpu_ceilings(context.device, precision, orders, sizes)
        yield Finding(
            f"matrix rate, {precision}", "told", f"{found.flops / 1e12:,.1f} TFLOP/s ({found.product})"
        )
    fastest = max(found.rungs, key=lambda rung: rung.rate)
    said = f"{found.memory / 1e9:,.0f} GB/s; {fastest.rate / 1e9:,.0f} GB/s at {fastest.size >> 20} MiB"
    yield Finding("bandwidth of a copy", "told", said)
    said = f"{found.launch * 1e6:.1f} µs; each launch after the first {found.further * 1e6:.1f} µs"
    yield Finding("shortest call", "told", said)


def small(context: Context) -> Iterator[Finding]:
    """The small networks at batch 1 in float32."""
    with warmed(context, REDUCE_OVERHEAD) as late:
        yield from _reached(context, SMALL, "float32", 1, _SMALL_PEERS, REDUCE_OVERHEAD, late)


def resnet18(context: Context) -> Iterator[Finding]:
    """ResNet-18 in float16, channels last, a batch of 256."""
    with warmed(context, MAX_AUTOTUNE) as late:
        batch = 256 if context.on_gpu else 1
        yield from _reached(context, LARGE, "float16", batch, _LARGE_PEERS, MAX_AUTOTUNE, late)


def _reached(
    context: Context,
    targets: Sequence[Target],
    precision: str,
    batch: int,
    peers: Sequence[str],
    compiler: str,
    late: Mapping[str, str],
) -> Iterator[Finding]:
    """Time a file against peers: without the `compiler` where it is `late`, by network, with the reason."""
    names = [name for name in dict.fromkeys(t.network for t in targets) if name in context.networks]
    if not names:
        raise NotRunError("none of its networks was chosen")
    for name in names:
        exported = context.exported(name, precision)
        left_out = {compiler: late[name]} if name in late else {}
        report = run(
            context.file(name, precision),
            (batch,),
            [peer for peer in peers if peer not in left_out] if context.on_gpu else _DRY_PEERS,
            module=context.module(name),
            schedule=Schedule(seconds=context.seconds, minimum_calls=3),
            device=context.device,
            transfers="none",
            exported=exported if exported.exists() else None,
        )
        for target in targets:
            if target.network == name:
                yield judged(report, target, batch, left_out) if context.on_gpu else _not_here(target)
        yield from _told(report, name, batch)


def judged(
    report: BenchReport, target: Target, batch: int, late: Mapping[str, str] = MappingProxyType({})
) -> Finding:
    """Whether a target was reached: by the tuned plan where it was timed, else by the default one.

    Args:
        report: What was measured.
        target: What is to be reached.
        batch: Of the calls.
        late: Peers that were left out, and why.
    """
    what = f"{target.network}, batch {batch}: at least {target.least:g} x {target.peer}"
    reasons = {a.engine: a.reason for a in report.absent} | {
        r.engine: f"it {r.reason}" for r in report.rejected
    }
    reasons |= late
    ours = next((row for name in _OURS if (row := report.row(name, batch))), None)
    theirs = report.row(target.peer, batch)
    if ours is None:
        return Finding.of(what, False, f"nncompile was not timed: {reasons.get('nncompile', 'unknown')}")
    if theirs is None:
        reason = reasons.get(target.peer, "it is no engine of this device")
        return Finding(what, "not run", f"{target.peer} was not timed: {reason}")
    found = faster(ours, theirs)
    said = (
        f"{ours.engine} is {found.value:.2f} [{found.low:.2f}, {found.high:.2f}] times as fast: "
        f"{ours.latency.p50:,.1f} µs against {theirs.latency.p50:,.1f} µs"
    )
    return Finding.of(what, found.value >= target.least, said)


def _not_here(target: Target) -> Finding:
    return Finding(
        f"{target.network}: at least {target.least:g} x {target.peer}", "not run", "it is for a GPU"
    )


def faster(ours: Row, theirs: Row) -> Estimate:
    """How many times as fast, from the medians of each round."""
    return median_estimate(np.array(theirs.medians) / np.array(ours.medians))


def _told(report: BenchReport, name: str, batch: int) -> Iterator[Finding]:
    """Every engine's time, and its share of what the device allows."""
    for row in report.rows:
        said = f"p50 {row.latency.p50:,.1f} µs, p99 {row.latency.p99:,.1f} µs{_shares(row)}"
        yield Finding(f"{name}, batch {batch}: {row.engine}", "told", said)
    if report.roofline is None:
        yield Finding(
            f"{name}, batch {batch}: the roofline", "not run", "onnx and onnx-ir count its operations"
        )
        return
    for limit in report.roofline.limits:
        said = f"{limit.seconds * 1e6:,.2f} µs, by its {limit.bound}"
        yield Finding(f"{name}, batch {batch}: the limit", "told", said)


def _shares(row: Row) -> str:
    """The share of the limit that an engine reaches, and on a GPU that of each line of the roofline."""
    if row.share is None:
        return ""
    said = f"; {percent(row.share)} of the limit"
    if row.shares is None:
        return said
    launched = (
        f"{row.launches} launches {percent(row.shares.launch)}" if row.launches else "launches not counted"
    )
    return f"{said}: FLOPs {percent(row.shares.compute)}, bytes {percent(row.shares.bandwidth)}, {launched}"
