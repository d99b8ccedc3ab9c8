import weakref
from contextlib import nullcontext

import numpy as np
import pytest

from nncompile.bench import sampling
from nncompile.bench.correctness import rejected
from nncompile.bench.sampling import sample
from nncompile.bench.sessions import opened
from nncompile.bench.steps import Steps
from nncompile.bench.timing import Schedule

FEEDS = {2: {"x": np.ones((2, 3), np.float32)}, 1: {"x": np.ones((1, 3), np.float32)}}
SCHEDULE = Schedule(rounds=5, seconds=0, warmup=0, pause=0, minimum_calls=1, sessions=3)


class Doubling:
    """Answers 2 x, in the given sessions something else."""

    compile_seconds = 0.0

    def __init__(self, name, number, wrong=(), reopens=True):
        self.name, self.number, self.reopens = name, number, reopens
        self.off = number in wrong
        self.batches = []

    def run(self, feed):
        self.batches.append(len(feed["x"]))
        return [feed["x"] * 2 + (self.off and len(feed["x"]) == 2)]


@pytest.fixture
def made():
    return []


@pytest.fixture
def openers(made):
    def make(**engines):
        def opener(name, options):
            def open_it():
                number = sum(one.name == name for one in made)
                made.append(Doubling(name, number, **options))
                return nullcontext(made[-1])

            return open_it

        return {name: opener(name, options) for name, options in engines.items()}

    return make


def test_every_session_times_its_own_engines_for_its_own_rounds(openers, made):
    with opened(openers(a={}, b={"reopens": False})) as sessions:
        found = sample(sessions, FEEDS, SCHEDULE, "a")
    assert [(one.name, one.number) for one in made] == [("a", 0), ("b", 0), ("a", 1), ("a", 2)]
    for batch in FEEDS:
        assert {name: len(rounds) for name, rounds in found.taken[batch].items()} == {"a": 5, "b": 5}
    # On each batch a check, and in each round a call of warm-up and a timed one: 1, 2 and 2 rounds.
    assert [one.batches.count(2) for one in made if one.name == "a"] == [3, 5, 5]
    assert next(one for one in made if one.name == "b").batches.count(1) == 3 + 2 * 5
    assert found.rejected == ()
    assert found.served == {}


@pytest.mark.parametrize("session", [0, 1, 2])
def test_what_is_wrong_in_any_session_has_no_time_on_that_batch(openers, session):
    with opened(openers(a={}, b={"wrong": (session,)})) as sessions:
        found = sample(sessions, FEEDS, SCHEDULE, "a")
    assert [(one.engine, one.batch) for one in found.rejected] == [("b", 2)]
    assert "disagrees with a" in found.rejected[0].reason
    assert {batch: sorted(own) for batch, own in found.taken.items()} == {2: ["a"], 1: ["a", "b"]}
    assert len(found.taken[1]["b"]) == SCHEDULE.rounds


def test_a_server_is_measured_in_every_session_at_the_smallest_batch(openers):
    seen = []

    def serve(calls, rounds, told):
        for name in calls:
            told(name)
        seen.append((list(rounds), [call()[0].shape for call in calls.values()]))
        return {name: tuple(np.array([number]) for number in rounds) for name in calls}

    with opened(openers(a={}, b={})) as sessions:
        found = sample(sessions, FEEDS, SCHEDULE, "a", serve=serve)
    assert seen == [([0], [(1, 3)] * 2), ([1, 2], [(1, 3)] * 2), ([3, 4], [(1, 3)] * 2)]
    assert {name: [int(r[0]) for r in rounds] for name, rounds in found.served.items()} == {
        "a": [0, 1, 2, 3, 4],
        "b": [0, 1, 2, 3, 4],
    }


@pytest.mark.parametrize("wrong", [(), (0,), (1,), (2,)])
def test_steps_add_up_whoever_is_rejected_when(openers, wrong):
    told = []
    total = 2 * 2 * SCHEDULE.rounds + 1
    steps = Steps(lambda *step: told.append(step), total)
    with opened(openers(a={}, b={"wrong": wrong})) as sessions:
        sample(sessions, FEEDS, SCHEDULE, "a", steps=steps)
    steps.next("the", "end")
    assert told[-1] == ("the: end", total - 1, total)
    assert told[0][::2] == ("batch 2: a", total)


def test_a_session_that_is_over_is_let_go(openers, made, monkeypatch):
    """Two of a large network in memory at once would be one too many."""
    seen, alive = [], []

    def checked(engines, *args):
        alive.append(sum(one() is not None for one in seen))
        seen.append(weakref.ref(engines["a"]))
        made.clear()
        return rejected(engines, *args)

    monkeypatch.setattr(sampling, "rejected", checked)
    with opened(openers(a={})) as sessions:
        sample(sessions, {1: FEEDS[1]}, SCHEDULE, "a")
    assert alive == [0, 0, 0]
