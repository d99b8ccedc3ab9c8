"""What a benchmark found: plain frozen data, ready for JSON."""

from __future__ import annotations

from dataclasses import dataclass

from nncompile.bench.correctness import Rejected
from nncompile.bench.distance import Distance
from nncompile.bench.disturbance import Disturbance
from nncompile.bench.overhead import Overhead
from nncompile.bench.roofline import Roofline, Shares
from nncompile.bench.scenarios import ScenarioReport
from nncompile.bench.statistics import Latency, Spread
from nncompile.bench.timing import Schedule
from nncompile_runtime.bootstrap import Estimate
from nncompile_runtime.machine import Machine


@dataclass(frozen=True)
class EngineInfo:
    """An engine that took part.

    Attributes:
        name: What it is chosen by.
        description: One line: which version runs which graph, and how.
        threads: Threads that compute; None where that cannot be told.
        sessions: How often it was opened; one that is kept open throughout has only one placement in
            memory, whose luck its intervals do not cover.
    """

    name: str
    description: str
    threads: int | None
    sessions: int = 1


@dataclass(frozen=True)
class Absent:
    """An engine that could not be had.

    Attributes:
        engine: Its name.
        reason: Why, in one line.
    """

    engine: str
    reason: str


@dataclass(frozen=True)
class Row:
    """One engine on one batch.

    Attributes:
        engine: Its name.
        batch: Samples in one call.
        calls: How many calls were timed.
        latency: Microseconds a call.
        samples_per_second: Throughput of calls one after another.
        ratio: How many times faster than the yardstick; None where that was rejected on this batch.
        by_session: How far the sessions' median calls are apart.
        medians: Median microseconds of a call in each round, for ratios between any two engines.
        share: Part of the attainable speed that the median call reaches; None where that is not known.
        launches: How often a call has the GPU begin something; None on the CPU, and where that does not show.
        shares: On a GPU, what each line of the roofline takes of the median call; None where it is not known.
    """

    engine: str
    batch: int
    calls: int
    latency: Latency
    samples_per_second: float
    ratio: Estimate | None
    by_session: Spread
    share: float | None = None
    medians: tuple[float, ...] = ()
    launches: int | None = None
    shares: Shares | None = None


@dataclass(frozen=True)
class Cold:
    """One engine in a process that did nothing before.

    Attributes:
        engine: Its name.
        batch: Samples in the first call.
        compile_seconds: What is done once a model: exporting, converting, compiling, tuning; None where it
            was done before the benchmark.
        load_seconds: From the start of its first import until it can be called.
        first_call_seconds: The first call, with what the engine puts off until then (OpenVINO plans for the
            shapes), but not what counts as compiling.
        peak_mib: The most memory that the process held, in MiB, Python and numpy included.
        gpu_mib: What it took of the GPU's memory besides the context, in MiB; engines keep what they once
            reached. None on the CPU.
    """

    engine: str
    batch: int
    compile_seconds: float | None
    load_seconds: float
    first_call_seconds: float
    peak_mib: float
    gpu_mib: float | None = None


@dataclass(frozen=True)
class Method:
    """How it was measured.

    Attributes:
        schedule: Rounds, times and pauses.
        seed: Seed of the inputs.
        reference: The engine that answers are compared with.
        yardstick: The engine that ratios are relative to.
    """

    schedule: Schedule
    seed: int
    reference: str
    yardstick: str


@dataclass(frozen=True)
class BenchReport:
    """Everything that `run` found.

    Attributes:
        model: File name of the model.
        network: Class name of the module; empty where the file does not say.
        inputs: The inputs with dtype and shape.
        machine: Where it was measured.
        versions: Package -> version; those that are not installed are left out.
        method: How it was measured.
        batches: The batches, in the order asked for.
        engines: Engines that took part.
        rows: One for each engine and batch, but for those rejected.
        rejected: Engines with wrong answers, which were not timed.
        absent: Engines that could not be had.
        overhead: Cost of `predict` over the bare session call.
        scenario: What a scenario of MLPerf amounts to, where one was asked for.
        cold: What engines cost before they are warm, where that was asked for.
        not_cold: Engines whose fresh process failed.
        roofline: What this machine allows; None where onnx and onnx-ir, which count, are not installed.
        distances: Where nncompile's time goes, by batch, where that was asked for.
        disturbance: What else kept the machine busy; None where the system does not tell.
        device: Where it ran: `cpu`, `cuda`, `cuda:1`.
        transfers: On a GPU, `none` where inputs and outputs stay there and `in-out` where they are numpy
            arrays, whose copies count; empty on the CPU.
    """

    model: str
    network: str
    inputs: tuple[str, ...]
    machine: Machine
    versions: dict[str, str]
    method: Method
    batches: tuple[int, ...]
    engines: tuple[EngineInfo, ...]
    rows: tuple[Row, ...]
    rejected: tuple[Rejected, ...]
    absent: tuple[Absent, ...]
    overhead: Overhead
    scenario: ScenarioReport | None = None
    cold: tuple[Cold, ...] = ()
    not_cold: tuple[Absent, ...] = ()
    roofline: Roofline | None = None
    distances: tuple[Distance, ...] = ()
    disturbance: Disturbance | None = None
    device: str = "cpu"
    transfers: str = ""

    def row(self, engine: str, batch: int) -> Row | None:
        """The row of an engine on a batch; None where it was not timed."""
        return next((r for r in self.rows if (r.engine, r.batch) == (engine, batch)), None)
