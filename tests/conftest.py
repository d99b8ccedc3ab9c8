"""How many tests run at once, as `make test` says it (`pytest -n auto`); programs that some need."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from nncompile_runtime import race
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


@pytest.fixture
def without_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tuning hardly pauses between plans, for tests to which its times do not matter."""
    monkeypatch.setattr(race, "_PAUSE", 1e-3)


@pytest.fixture(scope="session")
def program() -> Callable[..., str]:
    """`program(*names, package=...)`: the first there is; else the test is skipped, and under CI fails."""

    def find(*names: str, package: str) -> str:
        found = next(filter(None, map(shutil.which, names)), None)
        if found is None:
            stop = pytest.fail if os.environ.get("CI") else pytest.skip
            stop(f"no {names[0]} is installed (Debian: apt-get install {package})")
        return found

    return find
