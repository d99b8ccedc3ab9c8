"""The wheel on a machine that serves: `[cpu]` alone, in a venv with nothing else."""

import json
import os
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import pytest
import torch

import nncompile
from nncompile_runtime import container

ROOT = Path(__file__).parents[2]
SCRIPT = """
import json, sys
import nncompile
after_import = sorted({"torch", "onnx", "onnxruntime", "numpy"} & set(sys.modules))
import numpy as np
model = nncompile.load(sys.argv[1])
y = model.predict(np.load(sys.argv[2]))
import nncompile.integrations.ray, nncompile.integrations.triton
np.save(sys.argv[3], y)
compiler = ""
try:
    nncompile.compile
except nncompile.NncompileError as error:
    compiler = str(error)
loaded = sorted({"torch", "onnx", "onnx_ir", "onnxscript"} & set(sys.modules))
print(json.dumps({"after_import": after_import, "loaded": loaded, "compiler": compiler}))
"""


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """The Python of a venv that holds the wheel with `[cpu]` and nothing else."""
    place = tmp_path_factory.mktemp("bare")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    subprocess.run(
        [*pip, "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", place, ROOT], check=True, cwd=place
    )
    wheel = next(place.glob("nncompile-*.whl"))
    venv.create(place / "venv", with_pip=True)
    python = place / "venv" / "bin" / "python"
    constraints = ["-c", str(ROOT / "constraints.txt")]
    subprocess.run(
        [python, "-m", "pip", "--disable-pip-version-check", "install", "-q", *constraints, f"{wheel}[cpu]"],
        check=True,
        cwd=place,
    )
    return python


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    place = tmp_path_factory.mktemp("artifact")
    layers = torch.nn.Conv2d(1, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 3, 3), torch.nn.Flatten()
    net = torch.nn.Sequential(*layers).eval()
    nncompile.compile(net, torch.randn(2, 1, 6, 6)).save(place / "model.onnx")
    x = np.random.default_rng(0).normal(size=(4, 1, 6, 6)).astype("f4")
    np.save(place / "x.npy", x)
    with torch.no_grad():
        np.save(place / "expected.npy", net(torch.from_numpy(x)).numpy())
    return place


def test_load_and_predict_without_torch(bare, artifact, tmp_path):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    finished = subprocess.run(
        [bare, "-c", SCRIPT, artifact / "model.onnx", artifact / "x.npy", tmp_path / "y.npy"],
        check=True,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
    )
    found = json.loads(finished.stdout)
    assert found["after_import"] == []
    assert found["loaded"] == []
    assert "pip install 'nncompile[compile" in found["compiler"]
    np.testing.assert_allclose(
        np.load(tmp_path / "y.npy"), np.load(artifact / "expected.npy"), rtol=1e-5, atol=1e-6
    )


PLAIN = """
import sys
import numpy as np, onnxruntime
assert not any(name.startswith("nncompile") for name in sys.modules)
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
np.save(sys.argv[3], session.run(None, {session.get_inputs()[0].name: np.load(sys.argv[2])})[0])
"""


def test_a_fused_region_in_plain_onnx_runtime(bare, artifact, tmp_path):
    """Without our packages ONNX Runtime inlines the region's function: the same answers."""
    operators = container.read(artifact / "model.onnx").facts.operators
    assert operators["FusedRegion"] == 1
    subprocess.run(
        [bare, "-I", "-c", PLAIN, artifact / "model.onnx", artifact / "x.npy", tmp_path / "y.npy"],
        check=True,
        cwd=tmp_path,
    )
    np.testing.assert_allclose(
        np.load(tmp_path / "y.npy"), np.load(artifact / "expected.npy"), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["doctor"], 0, "torch is not installed: fine for serving"),
        (["doctor"], 0, "nncompile-kernels is not installed: fused regions run at plain speed"),
        (["inspect", "model.onnx"], 0, "float32[batch, 1, 6, 6]"),
        (["predict", "model.onnx", "x.npy"], 0, '"input": "x.npy"'),
        (["export", "x.py:Net", "-s", "1x1", "-o", "y.onnx"], 1, "pip install 'nncompile[compile"),
        (["verify", "model.onnx", "x.py:Net"], 1, "pip install 'nncompile[compile"),
    ],
)
def test_the_command_line_without_torch(bare, artifact, arguments, code, text):
    program = bare.parent / "nncompile"
    finished = subprocess.run(
        [program, *arguments], capture_output=True, text=True, cwd=artifact, check=False
    )
    assert finished.returncode == code
    assert text in finished.stdout + finished.stderr
    assert "Traceback" not in finished.stderr


def test_the_templates_of_pages_are_in_the_wheel(bare):
    code = (
        "from importlib.resources import files; "
        "print(*sorted(file.name for file in files('nncompile.bench').joinpath('templates').iterdir()))"
    )
    finished = subprocess.run([bare, "-I", "-c", code], check=True, capture_output=True, text=True)
    assert finished.stdout.split() == ["report.css", "report.html.j2"]
