"""Sessions: many threads on one, many one after the other."""

import ctypes
import gc
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from regions import Region, assert_close, run, session

from nncompile.passes.region_program import Kind


def network(channels=16):
    """Two convolutions, one of them with Winograd's algorithm, and a linear layer."""
    random = np.random.default_rng(0)
    region = Region((3, 12, 12))
    y = region.conv(0, random.standard_normal((channels, 3, 3, 3)) / 5)
    y = region.activation(y, Kind.RELU)
    y = region.conv(y, random.standard_normal((channels, channels, 3, 3)) / channels)
    y = region.flatten(region.max_pool(y, (2, 2), (2, 2)))
    return region.output(region.linear(y, random.standard_normal((10, 16 * channels)) / channels))


@pytest.mark.parametrize("threads", [1, 2])
def test_eight_callers_of_one_session(build, threads):
    region = network()
    running = session(region.model(), build, threads=threads, exact=True)
    cases = [region.random_inputs(batch, seed) for seed, batch in enumerate((1, 2, 3, 8, 17, 33, 40, 64))]
    wanted = [run(running, case)[0] for case in cases]
    for case, want in zip(cases, wanted, strict=True):
        assert_close([want], region.eager(*case))

    def call(i):
        return all((run(running, cases[i])[0] == wanted[i]).all() for _ in range(30))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(call, range(8)))


def test_two_regions_in_one_process(build):
    first, second = network(), network(channels=5)
    inputs = first.random_inputs(4)
    sessions = [session(region.model(), build, exact=True) for region in (first, second)]
    for _ in range(2):
        for region, running in zip((first, second), sessions, strict=True):
            assert_close(run(running, inputs), region.eager(*inputs))


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
def test_five_hundred_sessions_leave_nothing_behind(build):
    """A session of this network holds more than 700 kB: transformed weights and an arena.

    In a process of its own, whose heap no other test has torn to pieces.
    """
    script = f"import test_region_sessions as it; print(it.growth({build!r}, 500))"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=Path(__file__).parent, capture_output=True, text=True, check=True
    )
    assert float(done.stdout) < 20e6


def growth(build, count):
    """By how many bytes `count` sessions, one after the other, make this process grow."""
    region = network(channels=64)
    model, inputs = region.model(), region.random_inputs(2)

    def resident_after(count):
        for _ in range(count):
            run(session(model, build), inputs)
        gc.collect()
        getattr(ctypes.CDLL(None), "malloc_trim", int)(0)  # glibc keeps what is free: that is not left behind
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    before = resident_after(100)
    return resident_after(count) - before
