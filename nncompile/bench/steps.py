"""How far a benchmark is, for whoever wants to be told."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Told what is done next, the blocks done, and the blocks in all."""


class Steps:
    """Counts blocks."""

    def __init__(self, progress: Progress | None = None, total: int = 0) -> None:
        """Prepare to tell `progress` of `total` blocks."""
        self._progress, self._done, self._total = progress, 0, total

    def next(self, where: str, what: str) -> None:
        """Tell of a block before it begins."""
        if self._progress is not None:
            self._progress(f"{where}: {what}", self._done, self._total)
        self._done += 1

    def skip(self, blocks: int) -> None:
        """Count blocks that are left out as done."""
        self._done += blocks
