"""How many tests run beside one another: `pytest -n auto`, as `make test` says it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nncompile_runtime.machine import available_processors

MOST = 4  # each process holds torch and what it compiled, about a GiB
NO_TOPOLOGY = Path(
    os.devnull
)  # hardware threads of one core count: tests compute less than they wait for memory


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """A process for each processor that may be used, by affinity and quota; on one, this process alone."""
    processes = min(available_processors(topology=NO_TOPOLOGY), MOST)
    return processes if processes > 1 else 0
