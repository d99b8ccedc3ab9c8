"""A process of its own that leaves nothing running: what it started, such as compilers, ends with it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from typing import Any


@contextlib.contextmanager
def apart(
    command: Sequence[str], environment: Mapping[str, str], **options: Any
) -> Iterator[subprocess.Popen[Any]]:
    """Start a process; at the end of the block it and all processes that it started are killed.

    Args:
        command: The program and its arguments.
        environment: Its variables.
        options: More of `subprocess.Popen`.

    Yields:
        The process, which leads a session of its own.
    """
    with subprocess.Popen(command, env=environment, start_new_session=True, **options) as process:  # noqa: S603
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
