from contextlib import contextmanager

import pytest

from nncompile.bench.engines import EngineError
from nncompile.bench.results import Absent
from nncompile.bench.sessions import opened


class Peer:
    """An engine that notes when it is opened and closed."""

    def __init__(self, name, number, reopens):
        self.name, self.number, self.reopens = name, number, reopens
        self.compile_seconds = 7.0 if number == 1 else 0.0


@pytest.fixture
def log():
    return []


@pytest.fixture
def opener(log):
    def make(name, reopens=True, fails_at=None):
        count = 0

        @contextmanager
        def open_it():
            nonlocal count
            count += 1
            if count == fails_at:
                raise EngineError(f"No {name}.", remedy="Do without.")
            log.append(f"open {name}{count}")
            own = count
            try:
                yield Peer(name, own, reopens)
            finally:
                log.append(f"close {name}{own}")

        return open_it

    return make


def test_engines_are_opened_anew_before_the_old_ones_are_closed(opener, log):
    with opened({"a": opener("a"), "b": opener("b", reopens=False), "c": opener("c")}) as sessions:
        sessions.renew()
        assert {name: engine.number for name, engine in sessions.engines.items()} == {"a": 2, "b": 1, "c": 2}
        assert list(sessions.engines) == ["a", "b", "c"]
    opening, renewing, closing = log[:3], log[3:7], log[7:]
    assert opening == ["open a1", "open b1", "open c1"]
    assert renewing == ["open a2", "close a1", "open c2", "close c1"]
    assert closing == ["close c2", "close b1", "close a2"]


def test_what_was_spent_once_is_remembered(opener):
    with opened({"a": opener("a"), "b": opener("b", reopens=False)}) as sessions:
        assert [sessions.compile_seconds(name) for name in "ab"] == [7.0, 7.0]
        sessions.renew()
        sessions.renew()
        assert sessions.engines["a"].compile_seconds == 0
        assert [sessions.compile_seconds(name) for name in "ab"] == [7.0, 7.0]
        sessions.engines["b"].compile_seconds = 9.0  # torch compiles on later calls too
        assert sessions.compile_seconds("b") == 9.0


def test_an_engine_that_cannot_be_had_is_absent(opener, log):
    with opened({"a": opener("a", fails_at=1), "b": opener("b")}) as sessions:
        sessions.renew()
        assert list(sessions.engines) == ["b"]
        assert sessions.absent == [Absent("a", "No a. Do without.")]
    assert log == ["open b1", "open b2", "close b1", "close b2"]


def test_an_engine_that_cannot_be_opened_again_ends_it_and_all_are_closed(opener, log):
    with (
        pytest.raises(EngineError, match="No b"),
        opened({"a": opener("a"), "b": opener("b", fails_at=2)}) as sessions,
    ):
        sessions.renew()
    assert log[-2:] == ["close b1", "close a2"]
    assert sorted(one[6:] for one in log if one.startswith("close")) == ["a1", "a2", "b1"]


def test_an_error_that_is_no_engines_closes_what_is_open(opener, log):
    def broken():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), opened({"a": opener("a"), "b": broken}):
        pass
    assert log == ["open a1", "close a1"]
