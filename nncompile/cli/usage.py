"""Wrong usage: what no file and no machine could make right; exit code 2, as for an unknown option."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from nncompile_runtime.errors import NncompileError


class UsageError(NncompileError):
    """An option has a value that is not offered or does not parse, or contradicts another option."""


@contextmanager
def wrong_usage() -> Iterator[None]:
    """Whatever is refused inside is an option's value.

    Raises:
        UsageError: Something was refused, for its reason and with its remedy.
    """
    try:
        yield
    except NncompileError as error:
        raise UsageError(error.problem, remedy=error.remedy) from error
