"""What tuning tries on a GPU, and a whole tuning on one that is not there."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from nncompile import Plan
from nncompile_runtime import container
from nncompile_runtime.container import ModelFile
from nncompile_runtime.cuda_candidates import variations, ways
from nncompile_runtime.errors import InputError
from nncompile_runtime.predictor import Predictor
from nncompile_runtime.trial import Subject, Trial

from .fake_gpu import FakeGpu, gpu, on_gpu
from .graphs import build, conv_net, floats, manifest, predictor, spec

__all__ = ["gpu"]
GRAPH = Plan(provider="cuda", cuda_graph=True)


def conv(precision: str) -> ModelFile:
    model, inputs, outputs = conv_net()
    about = manifest(inputs, outputs, precision=precision)
    return container.parse(container.append_manifest(model.SerializeToString(), about), "net.onnx")


def with_operators(*operators: str) -> ModelFile:
    """A float16 file that no session is opened on."""
    nodes = [
        helper.make_node(name, ["x", "x"], [f"y{n}"], domain="com.microsoft" if name == "FusedConv" else "")
        for n, name in enumerate(operators)
    ]
    inputs, outputs = [spec("x", "batch", 4)], [spec("y0", "batch", 4)]
    model = build(nodes, inputs, outputs, domains=["com.microsoft"])
    about = manifest(inputs, outputs, precision="float16")
    return container.parse(container.append_manifest(model.SerializeToString(), about), "net.onnx")


def test_kernels_one_by_one_or_as_a_graph() -> None:
    plain = Plan(provider="cuda", native=False)
    assert ways(plain, 256, cut=False) == [plain.model_copy(update={"cuda_graph": True})]
    assert ways(plain, 257, cut=False) == []


@pytest.mark.parametrize(
    ("batch", "tried"),
    [
        (1, [(None, True)]),
        (63, [(32, False), (None, True), (32, True)]),
        (256, [(128, False), (64, False), (None, True), (128, True), (64, True)]),
        (2048, [(1024, False), (512, False)]),
        (1024, [(512, False), (256, False), (256, True)]),
    ],
)
def test_large_batches_in_pieces(batch: int, tried: list[tuple[int | None, bool]]) -> None:
    """Of which one crosses while another is computed."""
    found = ways(Plan(provider="cuda"), batch, cut=True)
    assert [(plan.micro_batch, plan.cuda_graph) for plan in found] == tried


@pytest.mark.parametrize(
    ("precision", "half"), [("float16", True), ("tf32", True), ("float32", False), ("bfloat16", False)]
)
def test_channels_last_only_on_tensor_cores(precision: str, half: bool) -> None:
    tried = variations(GRAPH, conv(precision))
    assert any(plan.channels_last for plan in tried) is half
    assert any(plan.fuse_bias for plan in tried) is half
    assert all(plan.cudnn_max_workspace for plan in tried)  # which Conv does not heed
    assert {plan.cudnn_search for plan in tried} == {"exhaustive", "heuristic"}
    assert {plan.arena_strategy for plan in tried} == {"kNextPowerOfTwo", "kSameAsRequested"}
    assert all(plan.cuda_graph for plan in tried)
    assert GRAPH not in tried


def test_where_channels_are_last_the_others_are_tried_too() -> None:
    last = GRAPH.model_copy(update={"channels_last": True})
    tried = variations(last, conv("float16"))
    ways = {(plan.channels_last, plan.fuse_bias, plan.cudnn_search) for plan in tried}
    layouts = [(False, False), (True, False), (True, True)]
    assert ways == {(*way, search) for way in layouts for search in ("exhaustive", "heuristic")}
    assert last not in tried
    assert len(set(tried)) == len(tried) == 6  # one more for the arena


def test_a_transposed_convolution_fuses_no_bias() -> None:
    tried = variations(GRAPH, with_operators("Conv", "ConvTranspose"))
    assert any(plan.channels_last for plan in tried)
    assert not any(plan.fuse_bias for plan in tried)


def test_a_file_from_elsewhere_is_taken_for_float32() -> None:
    model = container.parse(conv_net()[0].SerializeToString(), "net.onnx")
    assert not any(plan.channels_last for plan in variations(GRAPH, model))


def test_channels_last_never_with_fused_conv() -> None:
    tried = variations(GRAPH, with_operators("FusedConv", "Add"))
    assert not any(plan.channels_last for plan in tried)
    assert any(plan.cudnn_search == "heuristic" for plan in tried)
    assert any(not plan.cudnn_max_workspace for plan in tried)
    assert any(plan.channels_last for plan in variations(GRAPH, with_operators("Conv")))


def test_without_convolutions_there_is_no_search() -> None:
    (only,) = variations(GRAPH, with_operators("Add"))
    assert only == GRAPH.model_copy(update={"arena_strategy": "kSameAsRequested"})


def test_every_candidate_is_a_valid_plan() -> None:
    """A copy of a plan is not checked when it is made."""
    for plan in [*ways(Plan(provider="cuda"), 128, cut=True), *variations(GRAPH, conv("float16"))]:
        assert Plan.model_validate(plan.model_dump()) == plan


@pytest.mark.usefixtures("without_rest")
def test_a_whole_tuning(gpu: FakeGpu) -> None:
    model, inputs, outputs = conv_net()
    loaded = predictor(model, manifest(inputs, outputs), device="cuda")
    found = loaded.tune(0.2, batches=(1, 3))
    tried = [one.plan for regime in found.regimes for one in regime.tried]
    assert {plan.cuda_graph for plan in tried} == {True, False}
    assert {plan.cudnn_search for plan in tried} == {"exhaustive", "heuristic"}
    assert {plan.provider for plan in tried} == {"cuda"}
    for rows in (1, 2, 3, 5):
        x = floats(rows, 1, 8, 8)
        answer = predictor(model).predict(x)
        np.testing.assert_allclose(loaded.predict(x), answer, rtol=1e-6, atol=1e-6)


@pytest.mark.usefixtures("without_rest")
def test_a_tuning_of_float16_races_both_layouts_whole(gpu: FakeGpu) -> None:
    model, inputs, outputs = conv_net()
    about = manifest(inputs, outputs, precision="float16")
    loaded = predictor(model, about, device="cuda")
    (regime,) = loaded.tune(0.2, batches=(64,)).regimes
    tried = [one.plan for one in regime.tried]
    assert not tried[0].channels_last  # plain ONNX Runtime
    assert {plan.channels_last for plan in tried if not plan.cuda_graph} == {False, True}
    last = {(plan.micro_batch, plan.cuda_graph) for plan in tried if plan.channels_last}
    assert last == {(None, False), (32, False), (None, True), (32, True)}  # all ways to share the work
    assert any(plan.fuse_bias for plan in tried)


@pytest.mark.usefixtures("without_rest")
def test_tuning_on_what_lies_there_copies_nothing_to_time_it(gpu: FakeGpu) -> None:
    model, inputs, outputs = conv_net()
    loaded = predictor(model, manifest(inputs, outputs), device="cuda")
    gpu.cuda.streams.clear()
    loaded.tune(0.2, batches=(2,), like=on_gpu(floats(1)))
    assert not {"host to gpu", "gpu to host"} & gpu.cuda.streams.keys()
    x = floats(2, 1, 8, 8)
    np.testing.assert_allclose(loaded.predict(x), predictor(model).predict(x), rtol=1e-6, atol=1e-6)
    assert {"host to gpu", "gpu to host"} <= gpu.cuda.streams.keys()


def queued(gpu: FakeGpu) -> bool:
    """Whether work was given to the GPU that it has not done."""
    return any(queue.done < len(queue.work) for queue in gpu.cuda.queues.values())


def test_a_call_that_is_timed_ends_when_its_answer_is_there(gpu: FakeGpu) -> None:
    model, inputs, outputs = conv_net()
    loaded = predictor(model, manifest(inputs, outputs), device="cuda")
    plan = loaded.plan
    subject = Subject(
        loaded._file, loaded.signature, plan, plan, 1, True,
        lambda _, session: Predictor(loaded._file, plan=plan, session=session).predict,
        loaded.flatten_result, on_gpu(floats(1)),
    )  # fmt: skip
    call = Trial(subject, {}).call(plan, 2)
    assert not queued(gpu)
    call()
    assert not queued(gpu)
    loaded.predict(on_gpu(floats(2, 1, 8, 8)))
    assert queued(gpu)


@pytest.mark.parametrize("like", [floats(1), "x", 1])
def test_tuning_on_what_does_not_lie_there(gpu: FakeGpu, like: object) -> None:
    model, inputs, outputs = conv_net()
    about = manifest(inputs, outputs)
    with pytest.raises(InputError, match=rf"like is {type(like).__name__}, and the model runs on cuda:0"):
        predictor(model, about, device="cuda").tune(0.1, like=like)
    with pytest.raises(InputError, match="the model runs on cpu"):
        predictor(model, about).tune(0.1, like=on_gpu(floats(1)))
