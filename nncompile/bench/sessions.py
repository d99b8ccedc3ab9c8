"""The engines of a benchmark, opened anew for each session where that is cheap.

Which physical pages a session's memory gets decides which of its lines share a set in the second- and
third-level caches, for as long as it lives (R. Kessler, M. Hill, "Page Placement Algorithms for Large
Real-Indexed Caches", ACM TOCS 10(4), 1992). One session of each engine compares their luck as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager

from nncompile.bench.engines import Engine, EngineError
from nncompile.bench.results import Absent

Openers = Mapping[str, Callable[[], AbstractContextManager[Engine]]]


class Sessions:
    """Engines that are open.

    Attributes:
        engines: By name; those of this session.
        absent: Engines that could not be had.
    """

    def __init__(self, openers: Openers) -> None:
        """Prepare to open engines."""
        self.engines: dict[str, Engine] = {}
        self.absent: list[Absent] = []
        self._openers = openers
        self._stacks: dict[str, ExitStack] = {}
        self._compile_seconds: dict[str, float] = {}

    def open(self) -> None:
        """Open every engine; those that cannot be had become absent."""
        for name in self._openers:
            try:
                self._open(name)
            except EngineError as error:
                self.absent.append(Absent(name, str(error)))

    def renew(self) -> None:
        """Open engines anew, where they can be, and close the ones that they take the place of.

        Raises:
            EngineError: One that could be had before cannot any more.
        """
        for name in [name for name, engine in self.engines.items() if engine.reopens]:
            before = self._stacks[name]
            self._open(name)
            before.close()

    def compile_seconds(self, name: str) -> float:
        """What was spent on an engine once: opening it again finds what the first one made."""
        return self._compile_seconds.get(name, self.engines[name].compile_seconds)

    def close(self) -> None:
        """Close every engine, the last one first."""
        with ExitStack() as all_stacks:
            for stack in self._stacks.values():
                all_stacks.push(stack)

    def _open(self, name: str) -> None:
        with ExitStack() as stack:
            engine = stack.enter_context(self._openers[name]())
            if name in self.engines:
                self._compile_seconds.setdefault(name, self.engines[name].compile_seconds)
            self.engines[name] = engine
            self._stacks[name] = stack.pop_all()


@contextmanager
def opened(openers: Openers) -> Iterator[Sessions]:
    """Engines, open while the context is."""
    with ExitStack() as stack:
        sessions = Sessions(openers)
        stack.callback(sessions.close)
        sessions.open()
        yield sessions
