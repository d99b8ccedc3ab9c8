"""What a report says in sentences: the machine, the method, doubts, and what was not measured."""

from __future__ import annotations

from nncompile.bench.ceilings import Ceilings
from nncompile.bench.correctness import TOLERANCES
from nncompile.bench.figures import estimate
from nncompile.bench.results import BenchReport
from nncompile.bench.roofline import Roofline
from nncompile.bench.timing import Schedule, dealt

# How the ratios of rounds become one, in words.
OVER_SESSIONS = (
    "the median over the sessions of each one's median over its rounds; in brackets its 95 % interval, from "
    "a bootstrap of sessions and of the rounds within them"
)


def environment(report: BenchReport) -> str:
    """Machine and versions in one sentence."""
    machine = report.machine
    versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    flags = ", ".join(machine.vector_flags) or "no vector extensions"
    return f"Machine: {machine.cpu} ({flags}), {machine.processors} processors. Versions: {versions}."


def method(report: BenchReport) -> str:
    """How it was measured, in a few sentences."""
    (rtol, atol), own = TOLERANCES["float32"], report.method
    return (
        f"Method: {schedule_line(own.schedule, 'every engine')}; {_handed_over(report)}. "
        f"{_sessions_line(report)}A ratio is {own.yardstick}'s median time over the engine's in the same "
        f"round, {OVER_SESSIONS}. Above 1 is faster than {own.yardstick}. Before it is timed in a session, "
        f"an engine must answer like {own.reference} (float32: rtol {rtol:g}, atol {atol:g})."
    )


def schedule_line(schedule: Schedule, whom: str) -> str:
    """Rounds, sessions and blocks of a schedule, up to what is timed."""
    sessions = len(dealt(range(schedule.rounds), schedule.sessions))
    block = f"{schedule.seconds / schedule.rounds:g} s (at least {schedule.minimum_calls} calls)"
    return (
        f"{schedule.rounds} rounds in one process, in {sessions} session{'s' * (sessions > 1)}. Each round "
        f"gives {whom}, in rotating order, a pause of {schedule.pause:g} s, {schedule.warmup:g} s of calls "
        f"that are not counted, and {block} that are"
    )


def _sessions_line(report: BenchReport) -> str:
    anew = [e.name for e in report.engines if e.sessions > 1]
    kept = [e.name for e in report.engines if e.sessions == 1]
    if not anew:
        return ""
    line = f"Each session opens {', '.join(anew)} anew"
    if kept:
        line += f"; {', '.join(kept)} {'stays' if len(kept) == 1 else 'stay'} open throughout"
    return f"{line}. "


def warnings(report: BenchReport) -> list[str]:
    """What makes the numbers doubtful: a busy machine, engines with different numbers of threads."""
    found = []
    if report.disturbance is not None and report.disturbance.warning:
        found.append(report.disturbance.warning)
    if len({engine.threads for engine in report.engines}) > 1:
        found.append("These engines do not compute with the same number of threads.")
    return found


def not_measured(report: BenchReport) -> list[str]:
    """One sentence for each engine that has no time, on some batch or at all."""
    absent = [f"{a.engine} was not measured: {a.reason}" for a in report.absent]
    return absent + [f"{r.engine} has no time at batch {r.batch}: it {r.reason}." for r in report.rejected]


def _handed_over(report: BenchReport) -> str:
    """What goes into a call and comes out of it, and what of that counts."""
    if report.device == "cpu":
        return "numpy in, numpy out"
    if report.transfers == "none":
        return (
            f"inputs and outputs stay on {report.device}, no transfer is counted, and a call ends when its "
            "outputs are there"
        )
    return f"numpy in, numpy out, so transfers to and from {report.device} are counted"


def remarks(report: BenchReport) -> list[str]:
    """Sentences about the engines, what was not measured, and the limit."""
    on_cpu = report.device == "cpu"
    engines = [f"{e.name}: {e.description}{f', {threads(e.threads)}' * on_cpu}" for e in report.engines]
    o = report.overhead
    overhead = (
        f"predict over the bare session call, batch {o.batch}: {estimate(o.difference, 1)} µs "
        f"({o.predict:.1f} against {o.bare:.1f}, {o.pairs} pairs)"
    )
    limits = [limits_line(report.roofline)] if report.roofline else []
    return [*warnings(report), *engines, *not_measured(report), overhead, *limits]


def limits_line(roofline: Roofline) -> str:
    """What the machine allows, and what a share of it is, in three sentences."""
    complete = all(limit.complete for limit in roofline.limits)
    return (
        f"{ceilings_line(roofline.ceilings)} Of limit: the least time for the network's operations, or for "
        f"its weights, inputs and outputs, over the median time{'' if complete else '; at least, because '}"
        f"{'' if complete else 'not every node can be counted'}."
    )


def ceilings_line(ceilings: Ceilings) -> str:
    """What the machine allows, in one sentence."""
    fastest = max(rung.rate for rung in ceilings.rungs)
    where = (
        f"; a call of {ceilings.device} takes {ceilings.launch * 1e6:.1f} µs at least, each launch after its "
        f"first {ceilings.further * 1e6:.1f} µs"
    )
    return (
        f"Limit: {ceilings.flops / 1e9:,.0f} GFLOP/s ({ceilings.product}); {ceilings.memory / 1e9:,.1f} GB/s "
        f"from memory, up to {fastest / 1e9:,.0f} GB/s from caches"
        f"{where if ceilings.device else f'; {threads(ceilings.threads)}'}."
    )


def threads(count: int | None) -> str:
    """A number of threads in words."""
    return "threads unknown" if count is None else f"{count} thread{'' if count == 1 else 's'}"
