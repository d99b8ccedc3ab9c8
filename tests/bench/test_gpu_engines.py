"""The engines of `--device cuda`: refused by name where there is no GPU; their own code on PyTorch's CPU."""

import contextlib
import dataclasses
import shutil
from functools import partial

import numpy as np
import pytest
import torch
from opening import tensors

from nncompile.bench.correctness import rejected
from nncompile.bench.engines import (
    ON_CUDA,
    EngineError,
    check_names,
    cuda_graph,
    cuda_torch_compile,
    names_on,
    on_gpu,
    on_host,
    open_engine,
)
from nncompile.bench.inputs import make_feed
from nncompile_runtime import NncompileError, cuda
from nncompile_runtime.session import onnxruntime

CPU = torch.device("cpu")
without_gpu = pytest.mark.skipif(
    torch.cuda.is_available() or not cuda.examine(onnxruntime()).fault, reason="there is a GPU"
)


@pytest.fixture
def on_the_cpu(monkeypatch):
    """PyTorch's engines take its CPU for the GPU."""
    monkeypatch.setattr(on_gpu, "gpu_of", lambda subject: CPU)
    monkeypatch.setattr(cuda_torch_compile, "refuse_without_triton", lambda: None)
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))


@without_gpu
@pytest.mark.parametrize("name", ON_CUDA)
def test_without_a_gpu_each_engine_says_why_it_cannot_be_had(name, subject):
    with pytest.raises(EngineError) as caught, open_engine(name, subject):
        pass
    ours = name in ("nncompile", "nncompile-tuned", "onnxruntime")
    assert ("cuda:0 cannot be had" if ours else "PyTorch") in caught.value.problem
    assert caught.value.remedy
    assert "\n" not in str(caught.value)


def test_each_device_has_its_engines(subject):
    assert names_on("cuda:1") == tuple(ON_CUDA)
    check_names(list(ON_CUDA), "cuda")
    with pytest.raises(NncompileError, match=r"no engine 'openvino' on cuda.*cuda-graph"):
        check_names(["openvino"], "cuda")
    with pytest.raises(NncompileError, match="no engine 'cuda-graph'"):
        check_names(["cuda-graph"])


@pytest.mark.parametrize(
    ("version", "gpus", "device", "problem"),
    [
        (None, 0, "cuda", "is built without CUDA"),
        ("13.0", 0, "cuda", "finds 0 GPUs, and cuda is not among them"),
        ("13.0", 1, "cuda:1", "finds 1 GPUs, and cuda:1 is not among them"),
    ],
)
def test_pytorch_says_which_gpu_it_lacks(subject, monkeypatch, version, gpus, device, problem):
    monkeypatch.setattr(torch.version, "cuda", version)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    with pytest.raises(EngineError, match=problem):
        on_gpu.gpu_of(dataclasses.replace(subject, device=device))


def test_a_gpu_that_is_there_is_taken(subject, monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert on_gpu.gpu_of(subject) == torch.device("cuda", 0)
    assert on_gpu.gpu_of(dataclasses.replace(subject, device="cuda:1")) == torch.device("cuda", 1)


@pytest.mark.usefixtures("on_the_cpu")
@pytest.mark.parametrize("name", ["eager", "torch-compile-reduce-overhead", "torch-compile-max-autotune"])
@pytest.mark.parametrize("precision", ["float32", "float16", "bfloat16"])
def test_pytorchs_engines_answer_in_the_precision_of_the_file(name, precision, subject, lenet):
    subject = dataclasses.replace(subject, precision=precision)
    feed = make_feed(subject.signature, 3, seed=3)
    with torch.no_grad():
        expected = lenet.module.eval()(torch.from_numpy(feed["x"])).numpy()
    with open_engine(name, subject) as engine:
        assert engine.name == name
        assert precision in engine.description
        (got,), (stayed,) = engine.run(feed), engine.run(tensors(feed))
    assert isinstance(stayed, torch.Tensor)
    np.testing.assert_array_equal(got, on_host(stayed))
    assert got.dtype == np.float32
    share = {"float32": 1e-6, "float16": 1e-2, "bfloat16": 8e-2}[precision]
    error = np.abs(got - expected).max() / np.abs(expected).max()
    assert error <= share
    assert precision == "float32" or error > 1e-6  # it was cast
    assert not any(p.dtype != torch.float32 for p in lenet.module.parameters())


@pytest.mark.usefixtures("on_the_cpu")
@pytest.mark.parametrize(
    ("module", "precision", "last"),
    [
        (torch.nn.Conv2d(1, 4, 3), "float16", True),
        (torch.nn.Conv2d(1, 4, 3).half(), "float32", True),
        (torch.nn.Conv2d(1, 4, 3), "float32", False),
        (None, "float16", False),  # LeNet5 calls x.view, which refuses channels that are last
    ],
)
def test_narrow_modules_have_their_channels_last_where_they_run_so(module, precision, last, subject, lenet):
    example = subject.example
    if module is not None and module.weight.dtype is torch.float16:
        example = {"x": example["x"].astype(np.float16)}
    subject = dataclasses.replace(
        subject, module=module or lenet.module, precision=precision, example=example
    )
    with on_gpu.module_on_gpu(subject) as placed:
        assert ("channels last" in placed.how) is last
        wide = [p for p in placed.module.parameters() if p.dim() == 4]
        assert all(p.is_contiguous(memory_format=torch.channels_last) for p in wide) or not last
        assert isinstance(placed.module, on_gpu.Adapted) is (last or precision != "float32")
    assert (module or lenet.module) is subject.module
    assert subject.module is not placed.module


def test_images_come_with_their_channels_last():
    class Layout(torch.nn.Module):
        def forward(self, x):
            return torch.tensor(x.is_contiguous(memory_format=torch.channels_last)), x.dtype

    x = torch.zeros(2, 3, 4, 4)
    for last in (True, False):
        came, dtype = on_gpu.Adapted(Layout(), torch.float16, channels_last=last)(x)
        assert (bool(came), dtype) == (last, torch.float16)


@pytest.mark.parametrize("precision", ["float32", "tf32"])
def test_tf32_is_allowed_where_the_file_allows_it(precision):
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    with on_gpu.tf32_as_in(precision):
        allowed = precision == "tf32"
        assert torch.get_float32_matmul_precision() == ("high" if allowed else "highest")
        assert torch.backends.cudnn.allow_tf32 is allowed
    assert before == (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32)


@pytest.mark.usefixtures("on_the_cpu")
def test_a_call_on_tensors_ends_when_its_outputs_are_there(subject, monkeypatch):
    order = []
    compute = on_gpu.OnGpu.compute
    monkeypatch.setattr(on_gpu, "wait", lambda device: order.append(device))
    monkeypatch.setattr(
        on_gpu.OnGpu, "compute", lambda self, inputs: order.append("computed") or compute(self, inputs)
    )
    feed = make_feed(subject.signature, 2)
    with open_engine("eager", subject) as engine:
        engine.run(tensors(feed))
        assert order == ["computed", CPU]
        engine.run(feed)  # copying the outputs to the host waits for them
        assert order == ["computed", CPU, "computed"]


@pytest.mark.usefixtures("on_the_cpu")
def test_compiling_is_timed_once_a_shape(subject):
    with open_engine("torch-compile-reduce-overhead", subject) as engine:
        assert engine.compile_seconds == 0
        engine.run(make_feed(subject.signature, 2))
        once = engine.compile_seconds
        assert once > 0
        engine.run(make_feed(subject.signature, 2, seed=1))
        assert engine.compile_seconds == once
        engine.run(make_feed(subject.signature, 3))
        assert engine.compile_seconds > once


def test_torch_compile_says_what_it_lacks_for_a_gpu(monkeypatch):
    monkeypatch.setattr(cuda_torch_compile, "find_spec", lambda name: None)
    with pytest.raises(EngineError, match="needs Triton"):
        cuda_torch_compile.refuse_without_triton()
    monkeypatch.setattr(cuda_torch_compile, "find_spec", lambda name: name)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(EngineError, match="needs a C compiler"):
        cuda_torch_compile.refuse_without_triton()
    monkeypatch.setenv("CC", "my-cc")
    cuda_torch_compile.refuse_without_triton()


@pytest.mark.usefixtures("on_the_cpu")
def test_a_graph_is_captured_for_each_shape_and_reads_new_inputs(subject, monkeypatch):
    """The calling contract of CUDA graphs: a replay reads and writes only what was captured."""

    class Graph:
        def __init__(self):
            self.replays = 0

        def replay(self):
            self.replays += 1
            captured = next(c for c in engine._captured.values() if c.graph is self)
            for own, new in zip(captured.outputs, engine._call(captured.inputs), strict=True):
                own.copy_(new)

    class Stream:
        def __init__(self, device=None):
            self.waited = []

        def wait_stream(self, other):
            self.waited.append(other)

    current = Stream()
    for name, stand_in in (
        ("CUDAGraph", Graph),
        ("Stream", Stream),
        ("current_stream", lambda device: current),
        ("stream", contextlib.nullcontext),
        ("graph", contextlib.nullcontext),
    ):
        monkeypatch.setattr(torch.cuda, name, stand_in)
    feeds = [make_feed(subject.signature, batch, seed=seed) for batch, seed in ((2, 0), (2, 1), (3, 2))]
    with open_engine("eager", subject) as eager, open_engine("cuda-graph", subject) as engine:
        for feed in feeds:
            np.testing.assert_array_equal(engine.run(feed)[0], eager.run(feed)[0])
        assert sorted(c.graph.replays for c in engine._captured.values()) == [1, 2]
        assert all(c.inputs[0] is not feed["x"] for c in engine._captured.values() for feed in feeds)
    assert len(current.waited) == 2  # what was called before the capture is done by then
    assert cuda_graph.Replayed.__mro__[1] is on_gpu.OnGpu


def test_an_engine_is_held_to_the_precision_that_it_computes_in():
    class Off:
        def __init__(self, by, precision=None):
            self._by = by
            if precision:
                self.precision = precision

        def run(self, feed):
            return [feed["x"] * np.float32(1 + self._by)]

    feed = {"x": np.full((1, 4), 100, np.float32)}
    engines = {"eager": Off(0), "strict": Off(3e-3), "tf32": Off(3e-3, "tf32"), "wrong": Off(3e-2, "tf32")}
    assert [r.engine for r in rejected(engines, "eager", feed, 1)] == ["strict", "wrong"]
