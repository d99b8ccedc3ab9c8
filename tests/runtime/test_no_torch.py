"""What a fresh interpreter loads: the serving side needs neither PyTorch nor the compiler's packages."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

COMPILER = ("torch", "onnx", "onnx_ir", "onnxscript", "sympy", "typer", "rich", "PIL")
HEAVY = (*COMPILER, "onnxruntime", "numpy", "pydantic")


def run(code: str, **environment: str) -> Any:
    """The JSON that the code prints, from an interpreter of its own."""
    env = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env | environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_importing_loads_nothing_heavy_and_turns_telemetry_off() -> None:
    loaded, telemetry, names = run(
        "import json, os, sys, nncompile\n"
        "print(json.dumps([list(sys.modules), os.environ['ORT_DISABLE_TELEMETRY'], dir(nncompile)]))"
    )
    assert [name for name in HEAVY if name in loaded] == []
    assert telemetry == "1"
    assert {"compile", "load", "Predictor", "InputError", "__version__"} <= set(names)


def test_the_users_own_telemetry_setting_is_kept() -> None:
    code = "import json, os, nncompile; print(json.dumps(os.environ['ORT_DISABLE_TELEMETRY']))"
    assert run(code, ORT_DISABLE_TELEMETRY="0") == "0"


def test_loading_and_predicting_loads_no_compiler(artifact: Path) -> None:
    loaded, shapes, refused = run(
        "import json, sys, nncompile, numpy as np\n"
        f"net = nncompile.load({str(artifact)!r}, device='cpu')\n"
        "x = np.ones((3, 1, 8, 8), np.float32)\n"
        "shapes = [net(x).shape, *[y.shape for y in net.predict_batches(x, batch_size=2)]]\n"
        "try: net(x[0])\n"
        "except nncompile.InputError as error: refused = str(error)\n"
        "print(json.dumps([list(sys.modules), shapes, refused]))"
    )
    assert [name for name in COMPILER if name in loaded] == []
    assert shapes == [[3, 5], [2, 5], [1, 5]]
    assert "x[None]" in refused


def test_without_torch_compile_says_what_to_install() -> None:
    message = run(
        "import json, sys\n"
        "sys.modules['torch'] = None\n"
        "import nncompile\n"
        "try: nncompile.compile\n"
        "except nncompile.NncompileError as error: print(json.dumps(str(error)))"
    )
    assert "torch" in message
    assert "pip install 'nncompile[compile" in message
