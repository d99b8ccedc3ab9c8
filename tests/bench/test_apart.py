"""What a process started ends with it, whether it was through, failed or was given up."""

import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from nncompile.bench.apart import apart
from nncompile.bench.cold import measure_cold
from nncompile.bench.engines import EngineError

_STARTS_ANOTHER = (
    "import os, subprocess; other = subprocess.Popen(['sleep', '60'], stdout=-3, stderr=-3); "
    "open(os.environ['STARTED'], 'w').write(str(other.pid))"
)


def ended(number: int) -> bool:
    """Whether a process is gone, or is about to be."""
    for _ in range(100):
        try:
            state = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state in "ZX":  # nobody has asked how it ended
            return True
        time.sleep(0.1)
    return False


@pytest.mark.parametrize("then", ["pass", "os._exit(3)", "import time; time.sleep(60)"])
def test_nothing_is_left_running(tmp_path, then):
    started = tmp_path / "started"
    command = [sys.executable, "-c", f"{_STARTS_ANOTHER}; {then}"]
    with apart(command, os.environ | {"STARTED": str(started)}) as process:
        while not (started.exists() and started.read_text()) and process.poll() is None:
            time.sleep(0.01)
        other = int(started.read_text())
        if "sleep" not in then:
            assert process.wait(30) == (3 if "3" in then else 0)
        assert Path(f"/proc/{other}").exists()
    assert ended(other)
    assert process.returncode is not None


def test_an_error_in_the_block_ends_it_too():
    with pytest.raises(ValueError, match="mine"), apart(["sleep", "60"], os.environ) as process:
        raise ValueError("mine")
    assert process.returncode == -9


def test_compilers_of_a_process_that_is_given_up_do_not_go_on(tmp_path, monkeypatch):
    (tmp_path / "nncompile").mkdir()  # takes the place of what the process would import
    program = f"{_STARTS_ANOTHER}; import time; time.sleep(60)"
    (tmp_path / "nncompile" / "__init__.py").write_text(program)
    monkeypatch.setenv("STARTED", str(tmp_path / "started"))
    monkeypatch.chdir(tmp_path)  # where `python -m` looks first
    with pytest.raises(EngineError, match=r"takes longer than 5 s"):
        measure_cold("onnxruntime", 0.0, SimpleNamespace(folder=tmp_path), patience=5)
    assert ended(int((tmp_path / "started").read_text()))
