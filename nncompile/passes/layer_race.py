"""Whether a layer runs faster as another graph: both are raced on a device.

They run on batches of 1 and of 64, and on a GPU each batch is launched node by node and as a CUDA graph: a
compile knows neither the batches nor the plan that its file will be run with. What is timed is a
`RepeatedCall`.

The other graph is faster where the geometric mean of these ratios is above 1 and none of them is below 1,
both beyond the noise. The interval of the mean reaches from the mean of the lower ends to that of the upper
ends, which is wider than all rounds together would make it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from nncompile_runtime import container, cuda, devices
from nncompile_runtime.answers import difference
from nncompile_runtime.bootstrap import Estimate
from nncompile_runtime.container import ModelFile
from nncompile_runtime.driver import CudaError
from nncompile_runtime.errors import NncompileError
from nncompile_runtime.inputs import Array
from nncompile_runtime.manifest import Argument, Manifest, Precision, Signature, TensorSpec, Verification
from nncompile_runtime.plan import Plan
from nncompile_runtime.race import Entrant, race
from nncompile_runtime.repeated import repeated_call
from nncompile_runtime.session import onnxruntime
from nncompile_runtime.structure import TensorLeaf

_BATCHES = (1, 64)
_SECONDS = 0.2  # of the race on one batch
_SEED = 20240501


class Setting(NamedTuple):
    """What the graphs are raced on.

    Attributes:
        rows: The batch.
        captured: Whether it is replayed as a CUDA graph.
    """

    rows: int
    captured: bool

    def __str__(self) -> str:
        """`batch 1`, or `batch 1 as a CUDA graph`."""
        return f"batch {self.rows}" + " as a CUDA graph" * self.captured


@dataclass(frozen=True)
class Verdict:
    """Which of two graphs to take.

    Attributes:
        faster: Whether the other one is faster, beyond the noise.
        said: The figures, or why there are none.
    """

    faster: bool
    said: str


def compare(
    graphs: Callable[[], Mapping[str, bytes]], columns: tuple[int, int], precision: Precision, device: str
) -> Verdict:
    """Measure the two graphs of a layer, in about a second; where that fails, the other is not faster.

    Args:
        graphs: Makes both, serialised, by name: what the layer is, and what it may become. Their one input is
            `x`, their one output `y`, both float32 (batch, columns).
        columns: Of input and output.
        precision: What a session is to compute in.
        device: `cpu`, `cuda:0`, ...
    """
    try:
        where = devices.candidates(device)[0]
        if where.provider == "cuda":
            cuda.require(onnxruntime(), where.number)  # before the graphs are made, which takes memory
        manifest = _manifest(columns, precision)
        files = [replace(container.parse(data, name), manifest=manifest) for name, data in graphs().items()]
        ratios = {setting: _ratio(files, columns, where, setting) for setting in _settings(where)}
    except NncompileError as error:
        return Verdict(False, f"nothing was measured: {error.problem.rstrip('.')}")
    except CudaError as error:
        return Verdict(False, f"nothing was measured: {error}")
    return judge(f"{files[1].name} is", ratios, f"{files[0].name} on {device}")


def judge(what: str, ratios: Mapping[Setting, Estimate], than: str) -> Verdict:
    """The verdict on how many times as fast one graph is as the other in each setting."""
    mean = Estimate(*(_mean([getattr(r, end) for r in ratios.values()]) for end in ("value", "low", "high")))
    faster = mean.low > 1 and all(ratio.high >= 1 for ratio in ratios.values())
    each = ", ".join(f"{ratio.value:.2f} at {setting}" for setting, ratio in ratios.items())
    interval = f"{mean.low:.2f} to {mean.high:.2f}"
    return Verdict(faster, f"{what} {mean.value:.2f} times as fast as {than} ({interval}): {each}")


def _mean(values: list[float]) -> float:
    """The geometric mean."""
    return float(np.exp(np.mean(np.log(values))))


def _settings(device: devices.Device) -> Iterator[Setting]:
    for rows in _BATCHES:
        yield Setting(rows, captured=False)
        if device.provider == "cuda":
            yield Setting(rows, captured=True)


def _ratio(
    files: Sequence[ModelFile], columns: tuple[int, int], device: devices.Device, setting: Setting
) -> Estimate:
    """How many times as fast the second graph is.

    Raises:
        NncompileError: It answers otherwise, or cannot be run.
    """
    plan = Plan(provider=device.provider, device_id=device.number, cuda_graph=setting.captured)
    x = np.random.default_rng(_SEED).standard_normal((setting.rows, columns[0]), dtype=np.float32)
    entrants: dict[str, Entrant] = {}
    answers: dict[str, list[Array]] = {}
    for file in files:
        call = repeated_call(file, plan, {"x": x}, {"y": np.empty((setting.rows, columns[1]), np.float32)})
        call()
        entrants[file.name] = Entrant(call)
        answers[file.name] = call.answer()
    base, other = entrants
    fault = difference(answers[base], answers[other], files[0].precision)
    if fault is not None:
        raise NncompileError(
            f"{other} answers otherwise than {base} on {device} at {setting}: {fault}.",
            remedy="Update ONNX Runtime and the libraries of CUDA.",
        )
    return race(entrants, [base], _SECONDS).ratio(base, other)


def _manifest(columns: tuple[int, int], precision: Precision) -> Manifest:
    """What tells a session its precision."""
    leaf = TensorLeaf(index=0)
    x, y = (
        TensorSpec(name=name, dtype="float32", shape=("n", size))
        for name, size in zip("xy", columns, strict=True)
    )
    return Manifest(
        producer={},
        model_name="layer",
        signature=Signature(
            arguments=(Argument(name="x", structure=leaf),), inputs=(x,), outputs=(y,), result=leaf, batch="n"
        ),
        precision=precision,
        verification=Verification(status="skipped"),
    )
