"""The stress test of kernels/tests under memcheck and sanitizers: addresses, undefined behaviour, threads."""

import fcntl
import os
import shutil
import subprocess
from contextlib import contextmanager
from pathlib import Path

import pytest

KERNELS = Path(__file__).parents[2] / "kernels"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(shutil.which("cmake") is None, reason="needs cmake"),
    pytest.mark.skipif(shutil.which("c++") is None, reason="needs a C++ compiler"),
]


def run(*command):
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return done.stdout


@contextmanager
def alone_in(folder):
    """One process builds there at a time; the others wait, and find what it has built."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def stress(build, sanitizers=""):
    """The program; what an earlier run built of unchanged sources is used again."""
    folder = KERNELS / "build" / (sanitizers.replace(",", "-") or "plain")
    with alone_in(folder):
        run("cmake", "-S", KERNELS, "-B", folder, "-DNNCOMPILE_TESTS=ON", f"-DSANITIZE={sanitizers}")
        run("cmake", "--build", folder, "--parallel", os.cpu_count() or 1, "--target", f"stress_{build}")
    return folder / "tests" / f"stress_{build}"


def unmoved():
    """A prefix for ThreadSanitizer, which older compilers' cannot start where addresses are very random."""
    prefix = ["setarch", "-R"]
    allowed = shutil.which("setarch") and subprocess.run([*prefix, "true"], capture_output=True, check=False)
    return prefix if allowed and allowed.returncode == 0 else []


def test_random_programs(build):
    assert "0 of 200 programs failed" in run(stress(build, "address,undefined"), 200)


@pytest.mark.parametrize("build", ["avx2"], indirect=True)  # the smallest that has samples in lanes
def test_threads(build):
    """Two calls at once, each on one to four threads, in arenas and scratch that others left."""
    assert "0 of 100 programs failed" in run(*unmoved(), stress(build, "thread"), 100)


@pytest.mark.parametrize("build", ["avx2"], indirect=True)  # valgrind does not know AVX-512
def test_memory_that_nobody_wrote(build, program):
    """What no sanitizer sees: an answer that depends on memory nobody wrote. And what is left behind."""
    valgrind = program("valgrind", package="valgrind")
    memcheck = [valgrind, "--quiet", "--error-exitcode=1", "--leak-check=full", "--errors-for-leak-kinds=all"]
    assert "0 of 60 programs failed" in run(*memcheck, stress(build), 60)
