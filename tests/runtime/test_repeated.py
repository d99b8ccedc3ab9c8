"""A call that is repeated on values that stay: its answer, and that a call is nothing but the run."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper

from nncompile.passes.fuse_linear_relu import Linear, measured
from nncompile_runtime import container
from nncompile_runtime.errors import DeviceError, InputError, OutOfMemoryError
from nncompile_runtime.plan import Plan
from nncompile_runtime.repeated import RepeatedCall, repeated_call

from .fake_gpu import FakeGpu, gpu
from .gpu_nets import reference
from .graphs import build, conv_net, floats, manifest, spec

__all__ = ["gpu"]
PLANS = (Plan(), Plan(provider="cuda"), Plan(provider="cuda", cuda_graph=True))


def repeated(plan: Plan, rows: int = 3, columns: int | None = None, **about: Any) -> RepeatedCall:
    """The convolutional network on seeded rows; the answer is to come to an array full of NaN."""
    model, inputs, outputs = conv_net()
    data = container.append_manifest(model.SerializeToString(), manifest(inputs, outputs, **about))
    y = np.full((rows, columns or int(outputs[0].shape[1])), np.nan, np.float32)
    feed = {inputs[0].name: floats(rows, 1, 8, 8, seed=rows)}
    return repeated_call(container.parse(data, "net.onnx"), plan, feed, {outputs[0].name: y})


@pytest.mark.parametrize("plan", PLANS, ids=str)
@pytest.mark.parametrize("rows", [1, 3])
def test_its_answer_is_that_of_predict(gpu: FakeGpu, plan: Plan, rows: int) -> None:
    call = repeated(plan, rows)
    for _ in range(3):
        call()
    (y,) = call.answer()
    np.testing.assert_allclose(y, reference(floats(rows, 1, 8, 8, seed=rows)), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("plan", PLANS[1:], ids=str)
def test_a_call_is_the_run_and_the_wait_for_it(gpu: FakeGpu, plan: Plan) -> None:
    call = repeated(plan)
    call()
    before = len(gpu.cuda.calls)
    call()
    made = set(gpu.cuda.calls[before:])
    assert "cuStreamSynchronize" in made
    assert not any(name.startswith(("cuMem", "cuEvent")) for name in made)
    assert len(gpu.runs) == 2
    assert gpu.runs[0] == gpu.runs[1]


def test_only_a_plan_with_cuda_graphs_captures_and_once(gpu: FakeGpu) -> None:
    for plan in PLANS[1:]:
        call = repeated(plan)
        call()
        call()
    assert [options.get("enable_cuda_graph") for options in gpu.created] == [None, "1"]
    assert gpu.captures == [False]


@pytest.mark.parametrize(("precision", "rounds"), [("float32", "0"), ("tf32", "1")])
def test_it_computes_in_the_files_precision(gpu: FakeGpu, precision: str, rounds: str) -> None:
    repeated(PLANS[1], precision=precision)
    assert gpu.created[0]["use_tf32"] == rounds


def test_it_is_gone_with_its_session_and_memory(gpu: FakeGpu) -> None:
    call = repeated(PLANS[1])
    call()
    del call
    assert gpu.alive == 0
    assert not gpu.cuda.blocks


@pytest.mark.parametrize("plan", PLANS[:1], ids=str)
def test_an_output_of_another_shape(plan: Plan) -> None:
    with pytest.raises(InputError, match="could not run this input"):
        repeated(plan, columns=7)()


def test_too_little_memory_is_said_so(gpu: FakeGpu) -> None:
    call = repeated(PLANS[1])
    gpu.failures = [RuntimeError("Failed to allocate memory for requested buffer of size 1048576")]
    with pytest.raises(OutOfMemoryError, match=r"1\.0 MiB at once"):
        call()


def test_values_that_belong_on_the_host_are_refused(gpu: FakeGpu) -> None:
    """Bound on the GPU they would be copied once, and the answers be those of the first call."""
    gpu.on_host = {"x": "Cpu"}
    model = build([helper.make_node("Neg", ["x"], ["y"])], [spec("x", 2)], [spec("y", 2)])
    file = container.parse(model.SerializeToString(), "neg.onnx")
    with pytest.raises(DeviceError, match=r"neg\.onnx takes or returns values .* on the host"):
        repeated_call(file, PLANS[1], {"x": floats(2)}, {"y": floats(2)})


def test_a_layer_that_finds_no_memory_is_not_measured(gpu: FakeGpu) -> None:
    gpu.cuda.limit = 1
    found = measured.__wrapped__(Linear(8, 4, transposed=True), "float32", "cuda:0")
    assert (found.faster, found.said) == (False, "nothing was measured: CUDA failure 2: out of memory")
