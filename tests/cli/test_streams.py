"""stdout and stderr as they are outside of a terminal: full, closed, cut off, in another encoding."""

import os
import shutil
import subprocess
import sys

import pytest

NNCOMPILE = [sys.executable, "-c", "from nncompile.cli import main; main()"]


def shell(line, **environment):
    """`line` in a shell, where `$@` is the command."""
    call = ["bash", "-o", "pipefail", "-c", line, "bash", *NNCOMPILE]
    return subprocess.run(call, env=os.environ | environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("arguments", ["--version", "doctor --json"])
def test_a_full_disk_is_one_error(arguments, unbuffered):
    done = shell(f'"$@" {arguments} > /dev/full', PYTHONUNBUFFERED=unbuffered)
    assert done.returncode == 1
    assert done.stderr.startswith("error: The output cannot be written: No space left on device.\n  fix: ")
    assert len(done.stderr.splitlines()) == 2


def test_a_closed_stdout_is_one_error():
    done = shell('"$@" --version >&-')
    assert done.returncode == 1
    assert done.stderr.startswith("error: stdout is closed.\n  fix: ")


def test_a_closed_stderr_is_none():
    assert shell('"$@" inspect missing.onnx 2>&-').returncode == 1
    assert shell('"$@" --version 2>&-').returncode == 0


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_has_enough_hears_no_complaint(unbuffered):
    done = shell('"$@" --version | true', PYTHONUNBUFFERED=unbuffered)
    assert done.stderr == ""


def test_a_character_that_the_encoding_lacks_is_escaped(exported, tmp_path):
    shutil.copy(exported.model, tmp_path / "modèle.onnx")
    done = shell(f'"$@" inspect {tmp_path}/modèle.onnx', PYTHONIOENCODING="ascii")
    assert done.returncode == 0
    assert "mod\\xe8le.onnx: Small" in done.stdout
