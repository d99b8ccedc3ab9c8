"""What else kept the machine busy while it was measured: a benchmark beside a build says little."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

_STAT = Path("/proc/stat")
_IDLE = slice(3, 5)  # idle and iowait: https://man7.org/linux/man-pages/man5/proc_stat.5.html
_TIMES = slice(0, 8)  # what follows, guests' time, is counted in user already
_NEGLIGIBLE = 0.1  # processors' worth of time that any system takes for itself


@dataclass(frozen=True)
class Disturbance:
    """What else ran.

    Attributes:
        load: The load average of the minute before: tasks that ran or waited for a processor.
        others: Processors that other processes, or another guest of the machine, kept busy meanwhile.
        processors: Processors of the machine, all of which these numbers count.
        threads: Threads that the benchmark computes with.
    """

    load: float
    others: float
    processors: int
    threads: int

    @property
    def warning(self) -> str | None:
        """What is to be said about it; None where the machine was quiet."""
        told = []
        if self.load > self.processors:
            told.append(f"the load average was {self.load:.1f} when it began")
        if self.others > self.processors - self.threads + _NEGLIGIBLE:
            told.append(f"others kept {self.others:.1f} processors busy meanwhile")
        if not told:
            return None
        return (
            f"The machine of {self.processors} processors was not quiet: {' and '.join(told)}. "
            "Times are too long, and ratios may be wrong: some engines lose more by it than others."
        )


def load_average() -> float:
    """The load average of the last minute; 0 where the system does not tell."""
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):
        return 0.0


class Watch:
    """Looks at the processors' times whenever it is entered and left.

    To be entered while nothing but engines runs: compilers that an engine keeps as processes of its own
    would count as others.
    """

    def __init__(self, stat: Path = _STAT) -> None:
        """Begin with nothing seen."""
        self._stat = stat
        self._others: float | None = None
        self._seconds = 0.0
        self._entered: tuple[float | None, float, float] = (None, 0.0, 0.0)

    def __enter__(self) -> None:
        """Begin to look."""
        self._entered = (_busy_seconds(self._stat), _own_seconds(), time.perf_counter())

    def __exit__(self, *_: object) -> None:
        """Add what was seen since."""
        (before, own, begin), busy = self._entered, _busy_seconds(self._stat)
        if before is not None and busy is not None:
            self._others = (self._others or 0.0) + busy - before - (_own_seconds() - own)
            self._seconds += time.perf_counter() - begin

    def seen(self, load: float, threads: int) -> Disturbance | None:
        """What else ran meanwhile; None where the system does not tell.

        Args:
            load: The load average before.
            threads: Threads that the benchmark computes with.
        """
        if self._others is None or not self._seconds:
            return None
        others = max(0.0, self._others) / self._seconds
        return Disturbance(load, others, os.cpu_count() or threads, threads)


def _busy_seconds(stat: Path) -> float | None:
    try:
        times = [int(word) for word in stat.read_text(encoding="ascii").split("\n")[0].split()[1:]]
    except (OSError, ValueError):
        return None
    if len(times) < _TIMES.stop:
        return None
    return (sum(times[_TIMES]) - sum(times[_IDLE])) / os.sysconf("SC_CLK_TCK")


def _own_seconds() -> float:
    """Processor time of this process and of those it started and waited for."""
    own = os.times()
    return own.user + own.system + own.children_user + own.children_system
