"""The stress test of kernels/tests under the address and undefined-behaviour sanitizers."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

KERNELS = Path(__file__).parents[2] / "kernels"
BUILD = KERNELS / "build" / "sanitized"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("cmake") is None, reason="needs cmake"),
    pytest.mark.skipif(shutil.which("c++") is None, reason="needs a C++ compiler"),
]


def run(*command):
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return done.stdout


@pytest.mark.timeout(900)
@pytest.mark.parametrize("build", ["portable", "avx2"], indirect=True)  # avx512: as avx2, and slow to compile
def test_random_programs(build):
    """What an earlier run built of unchanged sources is used again."""
    run("cmake", "-S", KERNELS, "-B", BUILD, "-DNNCOMPILE_TESTS=ON", "-DSANITIZE=address,undefined")
    run("cmake", "--build", BUILD, "--parallel", os.cpu_count() or 1, "--target", f"stress_{build}")
    assert "0 of 200 programs failed" in run(BUILD / "tests" / f"stress_{build}", 200)
