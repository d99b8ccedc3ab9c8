"""Random networks: no pass dropped, every pass that fires compared, and all equal to eager PyTorch.

`make test` tries a few; `make fuzz` as many as FUZZ_EXAMPLES and FUZZ_MINUTES allow.
`--hypothesis-show-statistics` counts the passes.
"""

from __future__ import annotations

import os
import time
from typing import Any
from unittest import mock

import numpy as np
import onnx_ir as ir
import onnxruntime
import torch
from hypothesis import HealthCheck, event, given, note, settings
from random_networks import Made, networks

import nncompile
from nncompile import compiler, passes
from nncompile.capture import capture
from nncompile.options import CompileOptions
from nncompile.passes import fuse_linear_relu
from nncompile.passes.layer_race import Verdict
from nncompile.stages import CapturedModel

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "20"))
STOP = time.monotonic() + 60 * float(os.environ.get("FUZZ_MINUTES", "inf"))
findings: list[Exception] = []  # once there is one, hypothesis must see it again, out of time or not
TOLERANCE = {"rtol": 1e-3, "atol": 1e-4}  # of the largest value; verification inside compile is stricter


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize="FUZZ_EXAMPLES" not in os.environ,
    suppress_health_check=list(HealthCheck),
)
@given(networks())
def test_a_random_network(made: Made):
    if time.monotonic() > STOP and not findings:
        event("not tried: out of time")
        return
    note(f"{made.network}\non {made.shapes}, second input before {made.network.second}")
    try:
        fired = check(made)
    except Exception as error:
        findings.append(error)
        raise
    for name in fired:
        event(name)


def _faster(*_: object) -> Verdict:
    """In place of measurements: without a GPU, no linear layer would be fused."""
    return Verdict(True, "")


@mock.patch.object(fuse_linear_relu, "measured", _faster)
def check(made: Made) -> set[str]:
    """Compile for each target that has passes of its own; the names of the passes that changed something."""
    captured = capture(made.network, made.inputs(2), None, CompileOptions())
    for target in ("portable", "cuda"):
        with mock.patch.object(compiler, "capture", return_value=captured):
            model = nncompile.compile(made.network, None, target=target)
        assert model.report.verification.dropped_passes == ()
        _compare_with_eager(made, model)
    return _compare_after_each_pass(made, captured)


def _compare_with_eager(made: Made, model: nncompile.CompiledModel) -> None:
    """As it will run, and each node as it stands."""
    plain = _without_optimisers(model._file.data)
    for batch in (1, 5):
        inputs = made.inputs(batch, seed=batch)
        expected = _eager(made, inputs)
        got = model.predict(*inputs)
        _assert_close([part.numpy() for part in (got if isinstance(got, tuple) else (got,))], expected)
        _assert_close(_run(plain, inputs), expected)


def _compare_after_each_pass(made: Made, captured: CapturedModel) -> set[str]:
    """Each pass that changes something keeps the answers, also those of inputs that hold NaN or infinity.

    A finite answer stays what it is, and NaN stays NaN; only where an input is infinite, algebra may turn
    inf - inf into something else.
    """
    fired = set()
    model = captured.graph.clone()
    start = _without_optimisers(_serialized(model))
    feeds = [made.inputs(3), *(_with(made.inputs(3), value) for value in (np.nan, np.inf, -np.inf))]
    feeds = [inputs for inputs in feeds if _alike(_run(start, inputs), _eager(made, inputs))]
    for step in passes.selected(CompileOptions(target="cuda")):
        if step.run(model).changes:
            fired.add(step.name)
            session = _without_optimisers(_serialized(model))
            for inputs in feeds:
                got, expected = _run(session, inputs), _run(start, inputs)
                _assert_close(got, expected, f"after {step.name}")
                if any(x.isnan().any() for x in inputs):
                    assert _alike(got, expected), f"NaN is lost after {step.name}"
    return fired


def _alike(got: list[np.ndarray], expected: list[np.ndarray]) -> bool:
    """Whether two engines agree on which answers are NaN and which infinite."""
    return all(
        np.array_equal(np.where(np.isfinite(a), 0, a), np.where(np.isfinite(b), 0, b), equal_nan=True)
        for a, b in zip(got, expected, strict=True)
    )


def _serialized(model: ir.Model) -> bytes:
    data: bytes = ir.to_proto(model).SerializeToString()
    return data


def _with(inputs: tuple[torch.Tensor, ...], value: float) -> tuple[torch.Tensor, ...]:
    """One element of the second row of each input replaced."""
    for x in inputs:
        x[1].view(-1)[x[1].numel() // 2] = value
    return inputs


def _eager(made: Made, inputs: tuple[torch.Tensor, ...]) -> list[np.ndarray]:
    with torch.no_grad():
        outputs = made.network(*inputs)
    return [part.numpy() for part in (outputs if isinstance(outputs, tuple) else (outputs,))]


def _run(session: onnxruntime.InferenceSession, inputs: tuple[torch.Tensor, ...]) -> list[np.ndarray]:
    names = [value.name for value in session.get_inputs()]
    return session.run(None, {name: x.numpy() for name, x in zip(names, inputs, strict=True)})


def _assert_close(got: list[Any], expected: list[np.ndarray], when: str = "") -> None:
    for one, wanted in zip(got, expected, strict=True):
        assert (one.shape, one.dtype) == (wanted.shape, wanted.dtype), when
        finite = np.isfinite(wanted)
        scale = max(1.0, float(np.abs(wanted[finite]).max(initial=0)))
        np.testing.assert_allclose(one[finite] / scale, wanted[finite] / scale, **TOLERANCE, err_msg=when)


def _without_optimisers(model: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
