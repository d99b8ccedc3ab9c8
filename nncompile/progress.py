"""Phases of a long job: how long each took, and a line on stderr while it runs."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.status import Status


class Phases:
    """A context manager that names and times what is going on."""

    def __init__(self, *, shown: bool = False) -> None:
        """Show the phases on stderr where `shown` and stderr is a terminal."""
        self.seconds: dict[str, float] = {}
        self._shown = shown and sys.stderr.isatty()
        self._status: Status | None = None
        self._current = ""
        self._since = 0.0

    def start(self, name: str) -> None:
        """End the current phase and begin another."""
        self._end()
        self._current, self._since = name, time.perf_counter()
        if self._status is not None:
            self._status.update(f"{name} ...")

    def _end(self) -> None:
        if self._current:
            took = time.perf_counter() - self._since
            self.seconds[self._current] = self.seconds.get(self._current, 0.0) + took
            self._current = ""

    def __enter__(self) -> Phases:
        """Begin showing."""
        if self._shown:
            from rich.console import Console

            self._status = Console(stderr=True).status("")
            self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the last phase and clear the line."""
        self._end()
        if self._status is not None:
            self._status.stop()
