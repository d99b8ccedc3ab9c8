"""ONNX Runtime's real CUDA provider, its host code at least: options, captures, waits, the words of errors.

It runs without a GPU on a CUDA that computes nothing, so no answer here means anything.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from . import stand_in
from .graphs import Specs, build, floats, spec

pytestmark = pytest.mark.skipif(
    not stand_in.can_be_built(), reason="there is no CUDA provider, or no C compiler"
)


def linear() -> onnx.ModelProto:
    nodes = [helper.make_node("Gemm", ["x", "w", "b"], ["t"]), helper.make_node("Relu", ["t"], ["y"])]
    weights = {"w": floats(4, 3), "b": floats(3)}
    return build(nodes, [spec("x", "batch", 4)], [spec("y", "batch", 3)], weights)


def test_every_option_and_value_is_known_to_the_provider(cuda_library: Path, tmp_path: Path) -> None:
    program = """
from nncompile_runtime.cuda_options import provider_options
from nncompile_runtime.plan import Plan
plans = [Plan(provider="cuda", gpu_memory_limit=2**30), Plan(
    provider="cuda", cudnn_search="heuristic", cudnn_max_workspace=False, channels_last=True, fuse_bias=True,
    arena_strategy="kSameAsRequested", gpu_memory_limit=2**21)]
def opened(options):
    session = ort().InferenceSession(
        model, providers=["CUDAExecutionProvider"], provider_options=[options], enable_fallback=0)
    return session.get_provider_options()["CUDAExecutionProvider"]
for plan, precision in zip(plans, ("float32", "tf32")):
    options = provider_options(plan, precision, 0xABC, capture=True)
    taken = opened(options)
    say({name: (value, taken[name]) for name, value in options.items()})
    for name in options:
        try:
            opened({**options, name: "rubbish"})
            say(f"{name} takes anything")
        except Exception:
            pass
"""
    said = stand_in.run(cuda_library, tmp_path, linear(), program).said
    assert len(said) == 2
    for options in said:
        assert {name for name, (given, taken) in options.items() if given != taken} <= {"user_compute_stream"}
        assert int(options["user_compute_stream"][1], 0) == 0xABC


def test_float32_gets_no_tf32(cuda_library: Path, tmp_path: Path) -> None:
    modes = set()
    for precision in ("float32", "tf32"):
        program = f"""
from nncompile_runtime import container
from nncompile_runtime.cuda_options import provider_options
from nncompile_runtime.plan import Plan
made = ort().InferenceSession(model, providers=["CUDAExecutionProvider"],
    provider_options=[provider_options(Plan(provider="cuda"), {precision!r})], enable_fallback=0)
made.run(None, {{"x": np.ones((2, 4), np.float32)}})
"""
        calls = stand_in.run(cuda_library, tmp_path, linear(), program).calls
        modes.add((precision, "math mode 3" in calls))  # CUBLAS_TF32_TENSOR_OP_MATH
    assert modes == {("float32", False), ("tf32", True)}


@pytest.mark.parametrize(("precision", "exact"), [("float32", True), ("tf32", False)])
def test_fused_convolutions_of_float32_get_no_tf32(
    cuda_library: Path, tmp_path: Path, precision: str, exact: bool
) -> None:
    program = f"""
from nncompile_runtime.cuda_options import provider_options
from nncompile_runtime.plan import Plan
made = ort().InferenceSession(model, providers=["CUDAExecutionProvider"],
    provider_options=[provider_options(Plan(provider="cuda"), {precision!r})], enable_fallback=0)
made.run(None, {{"x": np.ones((2, 1, 8, 8), np.float32)}})
"""
    specs = [spec("x", "batch", 1, 8, 8)], [spec("y", "batch", 4, 6, 6)]
    calls = stand_in.run(cuda_library, tmp_path, fused(*specs), program).calls
    assert ("convolution math 3" in calls) is exact  # CUDNN_FMA_MATH


@pytest.mark.parametrize(("precision", "plans"), [("float32", 2), ("float16", 1)])
def test_float16_keeps_tensor_cores(cuda_library: Path, tmp_path: Path, precision: str, plans: int) -> None:
    """All engines need them: where they were struck out, the provider asks again and takes them all."""
    weights = {"w": floats(8, 4, 3, 3).astype(np.float16)}
    node = helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])
    specs = [spec("x", "n", 4, 8, 8, dtype="float16")], [spec("y", "n", 8, 8, 8, dtype="float16")]
    program = f"""
from nncompile_runtime.cuda_options import provider_options
from nncompile_runtime.plan import Plan
made = ort().InferenceSession(model, providers=["CUDAExecutionProvider"],
    provider_options=[provider_options(Plan(provider="cuda"), {precision!r})], enable_fallback=0)
made.run(None, {{"x": np.ones((2, 4, 8, 8), np.float16)}})
"""
    calls = stand_in.run(cuda_library, tmp_path, build([node], *specs, weights), program).calls
    assert calls.count("engines asked for") == plans
    assert calls.count("convolution") == 1


def test_a_call_waits_for_its_answer_alone(cuda_library: Path, tmp_path: Path) -> None:
    program = """
predictor = load()
x = np.ones((2, 4), np.float32)
predictor(x)
before = len(calls())
predictor(x)
say(calls()[before:])
"""
    (calls,) = stand_in.run(cuda_library, tmp_path, linear(), program).said
    assert "product" in calls
    assert [call for call in calls if call.startswith(("wait", "answer"))] == ["answer"]
    assert not any(call.startswith("copy") for call in calls)  # none of ONNX Runtime's own
    assert sum(call.startswith("driver copy") for call in calls) == 2


def test_the_first_call_captures_and_the_next_ones_only_launch(cuda_library: Path, tmp_path: Path) -> None:
    program = """
predictor = load(cuda_graph=True)
for _ in range(3):
    before = len(calls())
    predictor(np.ones((2, 4), np.float32))
    say(calls()[before:])
"""
    first, *others = stand_in.run(cuda_library, tmp_path, linear(), program).said
    (capture,) = [call for call in first if call.startswith("capture")]
    assert capture.endswith("mode 0")  # global: see driver.Gpu.current
    assert sum(call == "product" for call in first) == 3  # twice before, once into the graph
    for calls in others:
        assert "product" not in calls
        launches = [at for at, call in enumerate(calls) if call.startswith("launch")]
        assert len(launches) == 1
        assert [call for call in calls if call.startswith(("wait", "answer"))] == ["answer"]
        copies = [at for at, call in enumerate(calls) if call.startswith("driver copy")]
        assert len(copies) == 2  # from pinned memory and to it
        assert copies[0] < launches[0] < copies[1]
        assert "order" not in calls


def test_threads_capture_beside_others_that_open_close_and_run(cuda_library: Path, tmp_path: Path) -> None:
    program = """
predictor, plain = load(cuda_graph=True), load()
wrong = []
def call(number):
    try:
        for rows in (1, 2, 4):
            predictor(np.ones((rows, 4), np.float32))
            plain(np.ones((rows + 7 * number, 4), np.float32))
            load()(np.ones((rows, 4), np.float32))
    except Exception as error:
        wrong.append(repr(error))
threads = [threading.Thread(target=call, args=(number,)) for number in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
say(wrong)
"""
    told = stand_in.run(cuda_library, tmp_path, linear(), program)
    assert told.said == [[]]
    assert [call for call in told.calls if call.startswith("BROKEN")] == []
    assert sum(call.startswith("capture") for call in told.calls) == 12  # each thread, each bucket


def test_graphs_of_threads_that_are_gone_go_with_the_session(cuda_library: Path, tmp_path: Path) -> None:
    """And not with the thread: ONNX Runtime keeps them, which is why threads that come and go are few."""
    program = """
import logging
from nncompile_runtime import captured
logging.disable()
predictor, x = load(cuda_graph=True), np.ones((2, 4), np.float32)
def count(what):
    return sum(call.startswith(what) for call in calls())
def gone(times):
    thread = threading.Thread(target=lambda: [predictor(x) for _ in range(times)])
    thread.start(); thread.join()
    say([count("capture"), count("graph gone")])
for _ in range(captured.MOST_THREADS):
    gone(1)
gone(captured._PATIENCE)
gone(captured._PATIENCE + 3)
"""
    told = stand_in.run(cuda_library, tmp_path, linear(), program)
    assert told.said == [*([number, 0] for number in range(1, 9)), [8, 0], [9, 8]]
    assert [call for call in told.calls if call.startswith("BROKEN")] == []


def test_the_stand_in_tells_what_would_break_a_capture(cuda_library: Path, tmp_path: Path) -> None:
    """The test above can fail."""
    program = """
import ctypes
cuda = ctypes.CDLL("libcuda.so.1")
cuda.cudaStreamBeginCapture(ctypes.c_size_t(77), 0)
thread = threading.Thread(target=lambda: load())
thread.start(); thread.join()
"""
    calls = stand_in.run(cuda_library, tmp_path, linear(), program).calls
    assert "BROKEN by cudaDeviceSynchronize" in calls
    assert "BROKEN by cudaMalloc" not in calls  # in our threads' mode it is no harm


def test_a_capture_that_breaks_gives_way_to_plain_runs(cuda_library: Path, tmp_path: Path) -> None:
    program = """
import logging
logging.basicConfig(level=logging.ERROR)
predictor = load(cuda_graph=True)
os.environ["STAND_IN_END"] = "901"
say(predictor(np.ones((2, 4), np.float32)).shape)
del os.environ["STAND_IN_END"]
say(predictor(np.ones((2, 4), np.float32)).shape)
"""
    told = stand_in.run(cuda_library, tmp_path, linear(), program)
    assert told.said == [[2, 3], [2, 3]]
    assert not any(call.startswith("launch") for call in told.calls)


ERRORS = """
predictor = load()
x = np.ones((2, 4), np.float32)
def failed(variable, value, run):
    os.environ[variable] = value
    try:
        run()
    except NncompileError as error:
        say([type(error).__name__, str(error)])
    del os.environ[variable]
    say(predictor(x).shape)
large = {"x": np.ones((2**20, 4), np.float32)}
failed("STAND_IN_FULL", "1000000", lambda: predictor.session.run(large))
failed("STAND_IN_BLAS", "3", lambda: predictor(x))
failed("STAND_IN_BLAS", "13", lambda: predictor(x))
failed("STAND_IN_LAST", "700", lambda: predictor(x))
failed("STAND_IN_FULL", "1", lambda: load())
predictor = load(gpu_memory_limit=2**22)
failed("NOTHING", "", lambda: predictor.session.run(large))
"""


def test_errors_are_told_apart(cuda_library: Path, tmp_path: Path) -> None:
    """As ONNX Runtime words them; after each the next call is answered."""
    said = stand_in.run(cuda_library, tmp_path, linear(), ERRORS).said
    assert said[1::2] == [[2, 3]] * 6
    kinds = [kind for kind, _ in said[::2]]
    full, broken = "OutOfMemoryError", "DeviceError"
    assert kinds == [full, full, broken, broken, full, full]
    assert "16.0 MiB at once" in said[0][1]
    assert "16.0 MiB at once" in said[10][1]
    assert said[4][1].startswith("cuda:0 failed: CUBLAS failure 13: CUBLAS_STATUS_EXECUTION_FAILED. Start")
    assert said[6][1].startswith("cuda:0 failed: CUDA failure 700")


def test_an_input_that_the_cpu_reads_is_not_bound(cuda_library: Path, tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Reshape", ["x", "shape"], ["r"]),
        helper.make_node("Relu", ["r"], ["y"]),
        helper.make_node("Shape", ["x"], ["sizes"]),
    ]
    inputs = [spec("x", "n", 4), spec("shape", 2, dtype="int64")]
    outputs = [spec("y", "a", "b"), spec("sizes", 2, dtype="int64")]
    program = """
predictor = load()
native = predictor.session.native
say([info.name for info in (*native.get_input_memory_infos(), *native.get_output_memory_infos())])
for shape in ([4, 2], [2, 4], [8, 1]):
    y, sizes = predictor(np.ones((2, 4), np.float32), np.array(shape))
    say([y.shape, sizes.tolist()])
binding = native.io_binding()
s = np.array([4, 2])
before = len(calls())
binding.bind_input("shape", "cuda", 0, np.int64, s.shape, s.ctypes.data)
say(calls()[before:])
"""
    said = stand_in.run(cuda_library, tmp_path, build(nodes, inputs, outputs), program).said
    assert said[0] == ["Cuda", "Cpu", "Cuda", "Cpu"]
    assert said[1:4] == [[[4, 2], [2, 4]], [[2, 4], [2, 4]], [[8, 1], [2, 4]]]
    assert said[4] == ["copy 16 kind 2"]  # when it is bound, and never again


def test_a_fused_convolution_is_captured_and_breaks_nothing(cuda_library: Path, tmp_path: Path) -> None:
    program = """
predictor = load(cuda_graph=True)
say(predictor.session.binds)
for _ in range(2):
    predictor(np.ones((2, 1, 8, 8), np.float32))
"""
    specs = [spec("x", "batch", 1, 8, 8)], [spec("y", "batch", 4, 6, 6)]
    told = stand_in.run(cuda_library, tmp_path, fused(*specs), program)
    assert told.said == [True]
    assert [call.split()[0] for call in told.calls if call[:6] in ("captur", "launch", "BROKEN")] == [
        "capture",
        "launch",
        "launch",
    ]


def fused(inputs: Specs, outputs: Specs) -> onnx.ModelProto:
    """A convolution with bias and Relu as ONNX Runtime's own operator."""
    node = helper.make_node("FusedConv", ["x", "w", "b"], ["y"], domain="com.microsoft", activation="Relu")
    weights = {"w": floats(4, 1, 3, 3), "b": floats(4)}
    return build([node], inputs, outputs, weights, domains=["com.microsoft"])
