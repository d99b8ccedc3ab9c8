"""The latencies of every engine on every batch: session by session, each engine checked, then timed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from nncompile.bench.correctness import Rejected, rejected
from nncompile.bench.disturbance import Watch
from nncompile.bench.engines import Feed
from nncompile.bench.sessions import Sessions
from nncompile.bench.steps import Steps
from nncompile.bench.timing import Latencies, Schedule, dealt, measure

Calls = Mapping[str, Callable[[], Any]]
Blocks = dict[str, tuple[Latencies, ...]]

# The blocks of some rounds, by the calls to time and the numbers of the rounds; told each block's engine.
Serve = Callable[[Calls, Sequence[int], Callable[[str], None]], Blocks]


@dataclass(frozen=True)
class Samples:
    """What was measured.

    Attributes:
        taken: For each batch and engine the nanoseconds of each call, an array a round.
        served: Likewise what `serve` measured at the smallest batch.
        rejected: Engines with wrong answers, in any session; they have no latencies on that batch.
    """

    taken: Mapping[int, Blocks]
    served: Blocks
    rejected: tuple[Rejected, ...]


def sample(
    sessions: Sessions,
    feeds: Mapping[int, Feed],
    schedule: Schedule,
    reference: str,
    precision: str = "float32",
    *,
    serve: Serve | None = None,
    steps: Steps | None = None,
    watch: Watch | None = None,
) -> Samples:
    """Check and time engines on every batch, in each session.

    Args:
        sessions: The engines.
        feeds: Inputs by graph input name, by batch.
        schedule: How long and how often.
        reference: The engine that is right by definition.
        precision: What the model file computes in.
        serve: What else to measure in each session, with the calls of the smallest batch.
        steps: Told of each block.
        watch: Looks on while engines are timed.

    Raises:
        EngineError: An engine cannot be opened again.
    """
    steps, watch = steps or Steps(), watch or Watch()
    taken: dict[int, Blocks] = {batch: {} for batch in feeds}
    served: Blocks = {}
    wrong: dict[tuple[int, str], Rejected] = {}
    for number, rounds in enumerate(dealt(range(schedule.rounds), schedule.sessions)):
        if number:
            sessions.renew()

        def right_calls(batch: int, blocks: int = len(rounds)) -> Calls:
            calls = {
                name: partial(engine.run, feeds[batch])
                for name, engine in sessions.engines.items()
                if (batch, name) not in wrong
            }
            steps.skip((len(sessions.engines) - len(calls)) * blocks)
            return calls

        for batch, feed in feeds.items():
            for found in rejected(sessions.engines, reference, feed, batch, precision):
                wrong.setdefault((batch, found.engine), found)
            told = partial(steps.next, f"batch {batch}")
            with watch:
                _extend(taken[batch], measure(right_calls(batch), schedule, rounds, on_block=told))
        if serve is not None:
            with watch:
                _extend(served, serve(right_calls(min(feeds)), rounds, partial(steps.next, "server")))
    for batch, name in wrong:
        taken[batch].pop(name, None)
        if batch == min(feeds):
            served.pop(name, None)
    return Samples(taken, served, tuple(wrong.values()))


def _extend(blocks: Blocks, more: Blocks) -> None:
    for name, rounds in more.items():
        blocks[name] = (*blocks.get(name, ()), *rounds)
