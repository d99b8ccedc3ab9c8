"""What overlaps is told from the times of the parts; a stream that is slower than its calls is found."""

from __future__ import annotations

from functools import partial

import pytest

from models.gpu_check import overlap
from nncompile import Predictor
from nncompile_runtime.race import race


def rounds(stream, calls, copies, computing):
    spread = (0.999, 1.0, 1.001) * 4
    ways = {"stream": stream, "calls": calls, "copies": copies, "computing": computing}
    return {way: [seconds * s for s in spread] for way, seconds in ways.items()}


@pytest.mark.parametrize(
    ("times", "verdict", "share"),
    [
        ((6.0, 10.0, 4.0, 6.0), "told", "100%"),
        ((8.0, 10.0, 4.0, 6.0), "told", "50%"),
        ((10.0, 10.0, 4.0, 6.0), "told", "0%"),
        ((10.1, 10.0, 4.0, 6.0), "told", "-2%"),  # within noise
        ((12.0, 10.0, 4.0, 6.0), "failed", "-50%"),
    ],
)
def test_the_share_is_of_the_shorter_part(times, verdict, share):
    found = overlap.judged("a network", rounds(*(seconds * 1e-3 for seconds in times)))
    assert found.verdict == verdict
    assert found.said.startswith(f"{share} of the shorter part")


@pytest.mark.parametrize(("late", "verdict"), [(0.2, "failed"), (0.0, "told")])
def test_a_stream_that_is_slower_than_its_calls_is_found(here, monkeypatch, late, verdict):
    """By a clock of its own: each look takes a millisecond, and a stream what it is late."""
    stream, passed = Predictor.predict_batches, [0.0]

    def clock():
        passed[0] += 1e-3
        return passed[0]

    def streams(self, *args, **options):
        passed[0] += late
        return stream(self, *args, **options)

    monkeypatch.setattr(overlap, "_COUNT", 2)
    monkeypatch.setattr(overlap, "race", partial(race, clock=clock))
    monkeypatch.setattr(Predictor, "predict_batches", streams)
    (found,) = overlap.overlap(here)
    assert found.verdict == verdict
    assert f"the stream took {1 + late * 1e3:.2f} ms" in found.said
