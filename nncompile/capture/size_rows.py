"""Rows of sizes: the longest one around a typical size that a question allows, and where it ends."""

from __future__ import annotations

import math
from collections.abc import Callable

from nncompile_runtime.manifest import FreeSize

_REACH = 64  # sizes above the typical one after which a row counts as without end
_LARGEST_STEP = 256
_FARTHEST = 2**20
_TRIES = 16  # of small sizes that eager refuses, before none below the typical one is taken
_LONG_S = 0.2  # a call after which no larger one is tried


def longest_row(typical: int, allowed: Callable[[int], bool]) -> FreeSize:
    """The longest row of allowed sizes around the typical one; of several without end the densest."""
    best = FreeSize(least=typical, most=typical, typical=typical)
    longest = 1
    for step in range(1, _LARGEST_STEP + 1):
        least = most = typical
        while least > step and allowed(least - step):
            least -= step
        while most < typical + _REACH * step and allowed(most + step):
            most += step
        if most == typical + _REACH * step:
            return FreeSize(least=least, step=step, most=_end(most, step, allowed), typical=typical)
        if (most - least) // step + 1 > longest:
            longest = (most - least) // step + 1
            best = FreeSize(least=least, step=step, most=most, typical=typical)
    return best


def where_eager_answers(row: FreeSize, seconds: Callable[[int], float | None]) -> FreeSize:
    """The part of a row that the module itself takes: a table of positions without a guard ends it, say.

    Args:
        row: What the traced graph allows.
        seconds: How long the module takes at a size; None where it refuses, infinity where it is too large
            to be asked. Twice as large a size is tried until one takes long.
    """
    tried = range(row.least, min(row.typical, row.least + _TRIES * row.step), row.step)
    least = next((size for size in tried if seconds(size) is not None), row.typical)
    most, largest = row.most, row.typical
    while (size := largest + row.step * max(1, largest // row.step)) <= min(_FARTHEST, row.most or math.inf):
        took = seconds(size)
        if took is None:
            most = _last(largest, size, row.step, lambda n: seconds(n) is not None)
        if took is None or took > _LONG_S:
            break
        largest = size
    return FreeSize(least=least, step=row.step, most=most, typical=row.typical)


def _end(most: int, step: int, allowed: Callable[[int], bool]) -> int | None:
    """The last allowed size of a row that goes on beyond `most`; None where none was found."""
    while most < _FARTHEST:
        beyond = most + step * (most // step)
        if not allowed(beyond):
            return _last(most, beyond, step, allowed)
        most = beyond
    return None


def _last(allowed_at: int, refused_at: int, step: int, allowed: Callable[[int], bool]) -> int:
    """The last allowed size between two, by halving."""
    while refused_at - allowed_at > step:
        middle = allowed_at + (refused_at - allowed_at) // step // 2 * step
        allowed_at, refused_at = (middle, refused_at) if allowed(middle) else (allowed_at, middle)
    return allowed_at
