"""What a compiled network takes of memory, with the native kernels and without.

Each is measured in a process of its own, which is this file run with a model; it loads no torch.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nncompile.bench.figures import markdown_table

STATM = Path("/proc/self/statm")


@dataclass(frozen=True)
class Memory:
    """Resident memory of a process in MiB, less what its imports took.

    Attributes:
        loaded: With the model loaded.
        used: After one call.
    """

    loaded: float
    used: float


def measure(model: bytes, batch: int, *, native: bool) -> Memory | None:
    """Load an artifact in a new process and call it once on zeros.

    Args:
        model: The artifact.
        batch: Samples of the call.
        native: Whether the native kernels may run.

    Returns:
        What it took; None where the system does not tell.

    Raises:
        subprocess.CalledProcessError: The process failed; its message is on stderr.
    """
    if not STATM.exists():
        return None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(model)
        command = [sys.executable, "-m", "models.kernel_memory", str(path), str(batch), str(int(native))]
        root = Path(__file__).parents[1]
        told = subprocess.run(command, cwd=root, check=True, stdout=subprocess.PIPE)  # noqa: S603
    return Memory(**json.loads(told.stdout))


def table(found: Mapping[tuple[str, int], Sequence[Memory]]) -> str:
    """A row for each network and batch: with the native kernels, and without."""
    columns = ["network", "batch", "loaded", "after the call", "plain: loaded", "plain: after the call"]
    rows = [
        [name, str(batch), *(f"{mib:.0f}" for one in both for mib in (one.loaded, one.used))]
        for (name, batch), both in found.items()
    ]
    return markdown_table(columns, rows, [False] + [True] * (len(columns) - 1))


def _child(path: Path, batch: int, *, native: bool) -> Memory:
    import numpy as np
    import onnxruntime  # noqa: F401 - what it takes is not the model's

    from nncompile_runtime.machine import this_machine
    from nncompile_runtime.plan import default_plan
    from nncompile_runtime.predictor import load

    imports = _resident()
    plan = default_plan(this_machine()).model_copy(update={"native": native})
    predictor = load(path, device="cpu", plan=plan)
    loaded = _resident()
    feed = [np.zeros((batch, *spec.shape[1:]), spec.array_dtype) for spec in predictor.inputs]
    predictor.predict(*feed)
    return Memory(loaded - imports, _resident() - imports)


def _resident() -> float:
    return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


if __name__ == "__main__":
    file, samples, kernels = sys.argv[1:]
    print(json.dumps(vars(_child(Path(file), int(samples), native=kernels == "1"))))
