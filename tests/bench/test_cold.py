import json
import subprocess
import sys

import pytest
import torch

from nncompile.bench import run
from nncompile.bench.cold import measure_cold, write_request
from nncompile.bench.engines import EngineError, Subject, open_engine
from nncompile.bench.inputs import make_feed
from nncompile_runtime import load


@pytest.fixture
def subject(lenet, tmp_path):
    signature = load(lenet.path).signature
    made = Subject(str(lenet.path), signature, lenet.module, 1, make_feed(signature, 2), tmp_path)
    write_request(made, {"batch": 1, "sizes": {}, "seed": 0})
    return made


def test_engines_start_in_a_process_of_their_own(lenet, instant):
    report = run(lenet.path, (1,), module=lenet.module, schedule=instant, cold=True, compile_seconds=1.5)
    assert report.not_cold == ()
    cold = {found.engine: found for found in report.cold}
    assert set(cold) == {"nncompile", "onnxruntime", "eager"}
    for found in cold.values():
        assert found.batch == 1
        assert found.load_seconds > 0
        assert found.first_call_seconds > 0
        assert found.peak_mib > 10
    assert cold["nncompile"].compile_seconds == 1.5
    assert cold["onnxruntime"].compile_seconds > 0.01  # exporting, in this process
    assert cold["eager"].compile_seconds == 0
    # A server with ONNX Runtime has no torch in memory.
    assert cold["nncompile"].peak_mib < cold["eager"].peak_mib
    assert cold["onnxruntime"].peak_mib < cold["eager"].peak_mib


def test_the_process_prints_json_and_imports_no_torch_for_an_exported_file(subject):
    with open_engine("onnxruntime", subject):
        pass
    code = (
        "import sys; from pathlib import Path; from nncompile.bench.cold import start; "
        f"found = start('onnxruntime', Path({str(subject.folder)!r})); "
        "assert 'torch' not in sys.modules; assert found.compile_seconds == 0"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    command = [sys.executable, "-m", "nncompile.bench.cold", "onnxruntime", str(subject.folder)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True)
    assert json.loads(printed.stdout)["engine"] == "onnxruntime"
    assert printed.stderr == ""


def test_the_parents_memory_is_not_the_childs(subject):
    held = torch.ones(2**28 // 4)  # 256 MiB
    assert measure_cold("nncompile", 0.0, subject).peak_mib < held.nbytes / 2**20


def test_a_process_that_fails_says_why(subject):
    (subject.folder / "module.pt").unlink()
    with pytest.raises(EngineError, match=r"fresh process with it fails: FileNotFoundError"):
        measure_cold("eager", 0.0, subject)


def test_a_process_that_takes_too_long_is_given_up(subject):
    with pytest.raises(EngineError, match=r"takes longer than 0 s"):
        measure_cold("onnxruntime", 0.0, subject, patience=0.01)


def test_a_module_of_a_class_that_no_other_process_finds_is_listed(lenet, instant):
    class Local(type(lenet.module)):
        pass

    module = Local()
    module.load_state_dict(lenet.module.state_dict())
    report = run(lenet.path, (1,), ("eager",), module=module, schedule=instant, cold=True)
    assert [found.engine for found in report.cold] == ["nncompile"]
    assert [a.engine for a in report.not_cold] == ["eager"]
    assert "The module cannot be pickled" in report.not_cold[0].reason
