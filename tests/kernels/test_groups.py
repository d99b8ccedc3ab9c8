"""How the kernels cut a batch: kernels/tests/groups.cpp tries all ways."""

import shutil
import subprocess
from pathlib import Path

import pytest

KERNELS = Path(__file__).parents[2] / "kernels"


@pytest.mark.skipif(shutil.which("c++") is None, reason="needs a C++ compiler")
def test_the_cheapest_groups_and_equal_pieces(tmp_path):
    sources = KERNELS / "tests" / "groups.cpp", KERNELS / "src" / "groups.cpp"
    flags = "-std=c++17", "-O1", "-fsanitize=undefined", "-fno-sanitize-recover=all"
    program = tmp_path / "groups"
    subprocess.run(["c++", *flags, *sources, "-o", program], check=True)
    done = subprocess.run([program], capture_output=True, text=True, check=False)
    assert done.stdout == "0 failures\n"
    assert done.returncode == 0
