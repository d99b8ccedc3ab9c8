"""What was sampled as the rows of a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from nncompile.bench.results import Method, Row
from nncompile.bench.roofline import Roofline
from nncompile.bench.sampling import Samples
from nncompile.bench.scenarios import Scenario, ScenarioReport, offline, server, single_stream
from nncompile.bench.statistics import latency, paired_ratio, samples_per_second, spread


def rows(
    samples: Samples,
    batches: Sequence[int],
    method: Method,
    roofline: Roofline | None,
    launches: Mapping[tuple[int, str], int | None],
) -> tuple[Row, ...]:
    """A row for each batch and engine that answered right; `launches` by those, on a GPU."""
    found = []
    for batch in batches:
        taken = samples.taken[batch]
        yardstick = taken.get(method.yardstick)
        for name, rounds in taken.items():
            times = latency(rounds)
            key = batch, name
            launched = launches.get(key)
            on_gpu = roofline if key in launches else None
            ratio = paired_ratio(yardstick, rounds, method.schedule.sessions) if yardstick else None
            found.append(
                Row(
                    engine=name,
                    batch=batch,
                    calls=sum(map(len, rounds)),
                    latency=times,
                    samples_per_second=samples_per_second(rounds, batch),
                    ratio=ratio,
                    by_session=spread(rounds, method.schedule.sessions),
                    share=roofline.share(batch, times.p50) if roofline else None,
                    medians=tuple(float(np.median(r)) / 1e3 for r in rounds),
                    launches=launched,
                    shares=on_gpu.shares(batch, times.p50, launched) if on_gpu else None,
                )
            )
    return tuple(found)


def scenario_report(scenario: Scenario, samples: Samples, method: Method) -> ScenarioReport:
    """What a scenario makes of the samples; a server's queries are of the smallest batch."""
    yardstick, sessions = method.yardstick, method.schedule.sessions
    if scenario.name == "single-stream":
        found = single_stream(samples.taken, yardstick, sessions)
    elif scenario.name == "offline":
        found = offline(samples.taken, yardstick, sessions)
    else:
        smallest = min(samples.taken)
        found = server(samples.served, smallest, yardstick, sessions, scenario, method.seed)
    return ScenarioReport(scenario, found)
