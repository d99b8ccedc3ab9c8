"""What a benchmark measures while its engines are open."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from nncompile.bench.distance import Distance
from nncompile.bench.disturbance import Disturbance, Watch
from nncompile.bench.engines import EngineError, Feed, Subject
from nncompile.bench.inputs import fixed_batch, make_feed
from nncompile.bench.launches import launches
from nncompile.bench.overhead import Overhead, measure_overhead
from nncompile.bench.results import Absent, Cold, Method
from nncompile.bench.roofline import Roofline
from nncompile.bench.sampling import Blocks, Calls, Samples, Serve, sample
from nncompile.bench.scenarios import Scenario, measure_server
from nncompile.bench.sessions import Sessions
from nncompile.bench.steps import Progress, Steps


@dataclass(frozen=True)
class Task:
    """What is asked for.

    Attributes:
        subject: What is benchmarked.
        feeds: Inputs by graph input name, by batch.
        sizes: Sizes of free dimensions other than the batch, by symbol.
        scenario: What to make of the latencies besides.
        cold: Whether to start each engine in a fresh process too.
        compile_seconds: How long compiling the file took; None where it is not known.
        load: The load average before.
        roofline: What the machine allows, where it is to be told where the rest of the time goes.
    """

    subject: Subject
    feeds: Mapping[int, Feed]
    sizes: Mapping[str, int] | None
    scenario: Scenario | None
    cold: bool
    compile_seconds: float | None
    load: float
    roofline: Roofline | None

    @property
    def server(self) -> Scenario | None:
        """The scenario, where it has queries of its own."""
        return self.scenario if self.scenario is not None and self.scenario.name == "server" else None


@dataclass(frozen=True)
class Found:
    """What was measured.

    Attributes:
        samples: Latencies of every engine.
        overhead: Cost of `predict` over the bare session call.
        cold: What engines cost before they are warm.
        not_cold: Engines whose fresh process failed.
        distances: Where the time goes, by batch, where that was asked for.
        disturbance: What else ran while engines were timed; None where the system does not tell.
        launches: On a GPU, how often a call of each batch and engine has it begin something; None where that
            does not show.
    """

    samples: Samples
    overhead: Overhead
    cold: tuple[Cold, ...]
    not_cold: tuple[Absent, ...]
    distances: tuple[Distance, ...]
    disturbance: Disturbance | None
    launches: Mapping[tuple[int, str], int | None]


def measured(sessions: Sessions, task: Task, method: Method, progress: Progress | None) -> Found:
    """Time the engines, then `predict` over its session's call and where its time goes, then fresh processes.

    Args:
        sessions: The engines.
        task: What is asked for.
        method: How to measure.
        progress: Told of each step.

    Raises:
        EngineError: An engine cannot be opened again.
    """
    count, schedule = len(sessions.engines), method.schedule
    blocks = (len(task.feeds) + (task.server is not None)) * count * schedule.rounds
    limits = task.roofline.limits if task.roofline else ()
    steps, watch = Steps(progress, blocks + 1 + len(limits) + task.cold * count), Watch()
    serve = _serving(task.server, method) if task.server else None
    samples = sample(
        sessions,
        task.feeds,
        schedule,
        method.reference,
        task.subject.precision,
        serve=serve,
        steps=steps,
        watch=watch,
    )
    overhead = _overhead(task, method, steps)
    distances = tuple(_distances(task, task.roofline, steps)) if task.roofline else ()
    counted = _launches(sessions, task, samples)  # when all is timed: a profiler may leave something behind
    started, failed = _cold(sessions, task, method.seed, steps) if task.cold else ([], [])
    seen = watch.seen(task.load, task.subject.threads)
    return Found(samples, overhead, tuple(started), tuple(failed), distances, seen, counted)


def _serving(scenario: Scenario, method: Method) -> Serve:
    def serve(calls: Calls, rounds: Sequence[int], told: Callable[[str], None]) -> Blocks:
        return measure_server(calls, scenario, method.schedule, method.seed, rounds, on_block=told)

    return serve


def _launches(sessions: Sessions, task: Task, samples: Samples) -> dict[tuple[int, str], int | None]:
    if task.subject.device == "cpu":
        return {}
    return {
        (batch, name): launches(partial(sessions.engines[name].run, task.feeds[batch]), task.subject.device)
        for batch, taken in samples.taken.items()
        for name in taken
    }


def _overhead(task: Task, method: Method, steps: Steps) -> Overhead:
    subject, schedule = task.subject, method.schedule
    least = fixed_batch(subject.signature) or 1
    steps.next(f"batch {least}", "overhead of predict")
    feed = make_feed(subject.signature, least, task.sizes, method.seed)
    return measure_overhead(subject.predictor, feed, least, seconds=schedule.seconds, warmup=schedule.warmup)


def _distances(task: Task, roofline: Roofline, steps: Steps) -> Iterator[Distance]:
    from nncompile.bench.attribution import Network, measure_distance  # needs onnx, as a roofline does

    network, ends = Network.of(task.subject), (min(task.feeds), max(task.feeds))
    for limit in roofline.limits:
        steps.next(f"batch {limit.batch}", "where the time goes")
        feed, layers = task.feeds[limit.batch], limit.batch in ends
        yield measure_distance(network, feed, limit, roofline.ceilings, layers=layers)


def _cold(sessions: Sessions, task: Task, seed: int, steps: Steps) -> tuple[list[Cold], list[Absent]]:
    # Not at the top: what is run as __main__ should not have been imported by its package.
    from nncompile.bench.cold import measure_cold, write_request

    started: list[Cold] = []
    failed: list[Absent] = []
    feed = {"batch": min(task.feeds), "sizes": dict(task.sizes or {}), "seed": seed}
    write_request(task.subject, feed)
    for name in sessions.engines:
        steps.next("a fresh process", name)
        seconds = task.compile_seconds if name == "nncompile" else sessions.compile_seconds(name)
        try:
            started.append(measure_cold(name, seconds, task.subject))
        except EngineError as error:
            failed.append(Absent(name, str(error)))
    return started, failed
