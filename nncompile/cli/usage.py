"""Wrong usage: what no file and no machine could make right; exit code 2, as for an unknown option."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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


def check_folder(path: Path, remedy: str = "Choose another -o.") -> None:
    """Fail before the work, not after it, where `path` cannot be written.

    Raises:
        NncompileError: Its folder is missing or not writable.
    """
    if not path.parent.is_dir():
        raise NncompileError(f"There is no folder {path.parent}.", remedy="Create it, or choose another -o.")
    if not os.access(path.parent, os.W_OK):
        raise NncompileError(f"The folder {path.parent} is not writable.", remedy=remedy)


def check_file(option: str, path: Path) -> None:
    """Fail before the work, not after it, where a report cannot become that file.

    Raises:
        UsageError: The path is a folder, or in none.
        NncompileError: The folder is not writable.
    """
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise UsageError(f"{option} {path} cannot be written.", remedy="Name a file in a folder that exists.")
    check_folder(path, remedy=f"Choose another {option}.")


def whole_numbers(text: str, option: str, example: str) -> tuple[int, ...]:
    """Batch sizes from a comma-separated list.

    Raises:
        UsageError: It is none, or a number is below 1.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and int(part) > 0 for part in parts):
        raise UsageError(f"{option} {text!r} is no list of batch sizes.", remedy=f"For example: {example}.")
    return tuple(map(int, parts))
