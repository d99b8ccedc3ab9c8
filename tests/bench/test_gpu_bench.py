"""A benchmark on a GPU: what is counted, what limits it, what memory it takes. Run here on PyTorch's CPU."""

import contextlib
import csv
import ctypes
import dataclasses
import io
import os
import types

import numpy as np
import pytest
import torch

from nncompile.bench import cold, engines, gpu_ceilings, launches, measuring, roofline, run, runner
from nncompile.bench.ceilings import Ceilings, Rung
from nncompile.bench.engines import Subject, on_gpu
from nncompile.bench.gpu_memory import GpuMemory
from nncompile.bench.inputs import check_placement, placed
from nncompile.bench.report import as_csv, as_json, as_markdown, as_rows
from nncompile.bench.results import Absent, Cold
from nncompile.bench.roofline import Limit, Roofline, least_seconds
from nncompile.bench.sections import cold_section, sections
from nncompile.bench.sentences import ceilings_line
from nncompile_runtime import DeviceError, NncompileError, cuda
from nncompile_runtime import load as load_file

GPU = Ceilings(1, 6e13, "a product", (Rung(1 << 20, 3e12), Rung(1 << 30, 2e12)), 8e-6, 2e-6, "A GPU")


@pytest.fixture
def gpu_here(monkeypatch):
    """The CPU stands in for the GPU: in loading, in PyTorch's engines, in ONNX Runtime's provider."""
    handed = []

    def there(feed, device, transfers):
        assert device == "cuda"
        feed = placed(feed, "cpu", transfers)
        handed.append(transfers)
        return {n: torch.from_numpy(x) for n, x in feed.items()} if transfers == "none" else feed

    for module in (runner, engines):
        monkeypatch.setattr(module, "load", lambda path, device: load_file(path, device="cpu"))
    monkeypatch.setattr(runner, "placed", there)
    monkeypatch.setattr(on_gpu, "gpu_of", lambda subject: torch.device("cpu"))
    monkeypatch.setattr(measuring, "launches", lambda call, device: launches.launches(call, "cpu"))
    monkeypatch.setattr(cuda, "PROVIDER", "CPUExecutionProvider")
    monkeypatch.setattr(cuda, "require", lambda *_: None)
    monkeypatch.setattr(roofline, "measure_gpu_ceilings", lambda device, precision: GPU)
    return handed


def measured(lenet, instant, transfers):
    return run(lenet.path, (1, 2), module=lenet.module, schedule=instant, device="cuda", transfers=transfers)


def test_tensors_stay_on_the_device_and_nothing_is_counted(gpu_here, lenet, instant, monkeypatch):
    kinds = set()
    compute = on_gpu.OnGpu.run

    def watched(self, feed):
        outputs = compute(self, feed)
        kinds.update(map(type, (*feed.values(), *outputs)))
        return outputs

    monkeypatch.setattr(on_gpu.OnGpu, "run", watched)
    report = measured(lenet, instant, "none")
    assert kinds == {torch.Tensor}
    assert (report.device, report.transfers) == ("cuda", "none")
    assert not report.rejected
    assert [e.name for e in report.engines] == ["nncompile", "onnxruntime", "eager"]
    assert set(gpu_here) == {"none"}
    columns, rows = as_rows(report)
    assert columns[2] == "transfers"
    assert {row[2] for row in rows} == {"none"}
    assert all(len(row) == len(columns) for row in rows)
    page = as_markdown(report)
    assert "inputs and outputs stay on cuda, no transfer is counted" in page
    assert "threads" not in page.split("Machine:")[0]
    assert as_json(report)["transfers"] == "none"
    (line, *_) = csv.DictReader(io.StringIO(as_csv(report)))
    assert (line["device"], line["transfers"]) == ("cuda", "none")


def test_arrays_are_handed_over_where_transfers_count(gpu_here, lenet, instant):
    report = measured(lenet, instant, "in-out")
    assert report.transfers == "in-out"
    assert set(gpu_here) == {"in-out"}
    assert not report.rejected
    assert "numpy in, numpy out, so transfers to and from cuda are counted" in as_markdown(report)


def test_a_report_of_the_cpu_has_no_such_column(lenet, instant):
    report = run(lenet.path, (1,), ("onnxruntime",), schedule=instant)
    assert (report.device, report.transfers) == ("cpu", "")
    assert "transfers" not in as_rows(report)[0]
    assert "numpy in, numpy out." in as_markdown(report)


@pytest.mark.usefixtures("gpu_here")
def test_a_wrong_engine_on_a_gpu_gets_no_time(lenet, instant, monkeypatch):
    monkeypatch.setattr(on_gpu.OnGpu, "compute", lambda self, inputs: [torch.zeros(len(inputs[0]), 10)])
    report = measured(lenet, instant, "none")
    assert {r.engine for r in report.rejected} == {"nncompile", "onnxruntime"}  # eager is the reference
    columns, rows = as_rows(report)
    assert all(len(row) == len(columns) for row in rows)


@pytest.mark.usefixtures("gpu_here")
def test_an_engine_that_writes_into_tensors_gets_no_time(lenet, instant, monkeypatch):
    compute = on_gpu.OnGpu.compute

    def writes(self, inputs):
        outputs = compute(self, inputs)
        inputs[0].add_(1)
        return outputs

    monkeypatch.setattr(on_gpu.OnGpu, "compute", writes)
    report = measured(lenet, instant, "none")
    assert {(r.engine, "writes into its inputs" in r.reason) for r in report.rejected} == {("eager", True)}


@pytest.mark.parametrize(
    ("device", "transfers", "kind", "problem"),
    [
        ("auto", "none", DeviceError, "does not say what is measured"),
        ("tpu", "none", DeviceError, "Unknown device"),
        ("cuda", "in", NncompileError, "transfers='in' is not offered"),
    ],
)
def test_no_place_for_a_benchmark(device, transfers, kind, problem):
    with pytest.raises(kind, match=problem) as caught:
        check_placement(device, transfers)
    assert caught.value.remedy


def test_feeds_of_the_host_are_left_alone():
    feed = {"x": np.zeros(3, np.float32)}
    assert placed(feed, "cpu", "none") is feed
    assert placed(feed, "cuda", "in-out") is feed


def test_no_call_is_shorter_than_a_launch():
    assert least_seconds(1, 1, GPU) == (8e-6, "launch")
    assert least_seconds(6 * 10**13, 1, GPU) == (1.0, "compute")
    assert least_seconds(1, 10**13, GPU) == (5.0, "bandwidth")
    processors = Ceilings(2, 6e13, "a product", GPU.rungs)
    assert least_seconds(1, 1, processors)[1] != "launch"


@pytest.mark.parametrize(
    ("launched", "expected"),
    [(1, 8e-6 / 2e-5), (4, 14e-6 / 2e-5), (None, None)],
    ids=["graph", "kernels", "unseen"],
)
def test_each_line_of_the_roofline_has_a_share(launched, expected):
    limit = Limit(8, 6 * 10**8, 3 * 10**6, True, 1e-5, "compute")
    shares = Roofline(GPU, (limit,)).shares(8, 20.0, launched)
    assert shares.compute == pytest.approx(6e8 / 6e13 / 2e-5)
    assert shares.bandwidth == pytest.approx(3e6 / 3e12 / 2e-5)
    assert shares.launch == (expected if expected is None else pytest.approx(expected))
    assert Roofline(GPU, (limit,)).shares(1, 20.0, launched) is None


def event(name):
    return types.SimpleNamespace(name=name)


@pytest.mark.parametrize(
    ("names", "count"),
    [
        (
            [
                "cudaLaunchKernel",
                "cudaLaunchKernelExC_v11060",
                "cuLaunchKernelEx",
                "cudaLaunchCooperativeKernel",
            ],
            4,
        ),
        (["cudaGraphLaunch", "gemm_kernel", "gemm_kernel"], 1),
        (
            ["cudaMemcpyAsync", "cudaMemsetAsync", "cudaLaunchHostFunc", "cudaGraphInstantiate", "aten::mm"],
            None,
        ),
    ],
)
def test_launches_are_counted(monkeypatch, names, count):
    """Of the second profile on: the first of a process starts CUPTI."""
    profiles, calls = [], []

    @contextlib.contextmanager
    def profile(activities):
        assert (os.environ["TEARDOWN_CUPTI"], os.environ["DISABLE_CUPTI_LAZY_REINIT"]) == ("0", "1")
        profiles.append(names if profiles else ["cudaLaunchKernel"] * 9)
        yield types.SimpleNamespace(events=lambda: map(event, profiles[-1]))

    monkeypatch.setattr(torch.profiler, "profile", profile)
    for name in launches._CUPTI_STAYS:
        monkeypatch.setenv(name, "")
    launches._start.cache_clear()
    assert launches.launches(lambda: calls.append(1), "cpu") == count
    assert launches.launches(lambda: calls.append(1), "cpu") == count
    launches._start.cache_clear()
    assert (len(profiles), len(calls)) == (3, 2)


@pytest.mark.usefixtures("gpu_here")
def test_a_report_tells_launches_and_the_share_of_each_line(lenet, instant, monkeypatch):
    counted = []

    def count(call, device):
        counted.append((device, len(call())))
        return {1: 1, 2: 7, 3: None}[len(counted)]

    monkeypatch.setattr(measuring, "launches", count)
    report = run(lenet.path, (1,), module=lenet.module, schedule=instant, device="cuda")
    assert counted == [("cuda", 1)] * 3
    assert [row.launches for row in report.rows] == [1, 7, None]
    for row in report.rows:
        assert row.shares == report.roofline.shares(1, row.latency.p50, row.launches)
    (section,) = sections(report)
    assert section.columns == ["engine", "batch", "launches", "by FLOPs", "by bytes", "by launches"]
    assert [cells[2] for cells in section.rows] == ["1", "7", "-"]
    assert section.rows[-1][-1] == "-"
    assert f"### {section.title}" in as_markdown(report)
    assert as_json(report)["rows"][1]["shares"]["launch"] > 0


def test_processors_are_launched_nothing_on(lenet, instant):
    report = run(lenet.path, (1,), ("onnxruntime",), schedule=instant)
    assert {(row.launches, row.shares) for row in report.rows} == {(None, None)}
    assert not sections(report)


def test_the_ceilings_of_a_gpu_name_it():
    said = "a call of A GPU takes 8.0 µs at least, each launch after its first 2.0 µs."
    assert ceilings_line(GPU).endswith(f"up to 3,000 GB/s from caches; {said}")
    assert ceilings_line(Ceilings(2, 6e13, "a product", GPU.rungs)).endswith("from caches; 2 threads.")


def test_ceilings_are_those_of_the_gpu_that_was_asked_for(monkeypatch):
    """Events and graphs are of the current GPU, whatever the tensors are on."""
    chosen = []

    @contextlib.contextmanager
    def choose(device):
        chosen.append(device)
        yield
        chosen.append("released")

    monkeypatch.setattr(on_gpu, "chosen", choose)
    monkeypatch.setattr(gpu_ceilings, "matrix_rate", lambda *_: chosen.append("measured") or 1.0)
    gpu_ceilings.measure_gpu_ceilings("cpu", "tf32", (16,), (1 << 10,))
    assert chosen == [torch.device("cpu"), "measured", "released"]


class Recorded:
    """A CUDA graph that keeps what was called while it was captured."""

    capturing = None

    def __init__(self):
        self.calls, self.replays = [], 0

    def replay(self):
        self.replays += 1
        for call in self.calls:
            call()

    @classmethod
    @contextlib.contextmanager
    def capture(cls, graph):
        cls.capturing = graph
        yield
        cls.capturing = None


def test_many_copies_are_one_launch(monkeypatch):
    """A rate that counted Python's launches would be too low within the cache, and shares would flatter."""
    done, eager = [], []

    def copy():
        kept = Recorded.capturing
        (kept.calls if kept else eager).append(lambda: done.append(1))

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Recorded)
    monkeypatch.setattr(torch.cuda, "graph", Recorded.capture)
    monkeypatch.setattr(on_gpu, "wait", lambda device: None)
    replay = gpu_ceilings.launched(copy, torch.device("cuda"), 7)
    assert (len(eager), len(done)) == (1, 0)
    replay()
    assert (len(eager), len(done)) == (1, 7)


@pytest.mark.parametrize(("size", "copies"), [(1 << 20, 256), (1 << 24, 64), (1 << 30, 1), (1 << 31, 1)])
def test_the_rate_of_a_copy_counts_every_copy_of_a_launch(monkeypatch, size, copies):
    counts = []
    monkeypatch.setattr(gpu_ceilings, "launched", lambda call, device, count: counts.append(count))
    monkeypatch.setattr(gpu_ceilings, "seconds_of", lambda call, device: 0.5)
    monkeypatch.setattr(torch, "zeros", lambda *shape, **_: torch.empty(1))
    assert gpu_ceilings.copy_rate(torch.device("cpu"), size) == size * copies / 0.5
    assert counts == [copies]


def test_a_further_launch_is_the_shorter_of_a_kernel_and_a_graph(monkeypatch):
    taken = iter((3e-6, 2e-6, 2.5e-6, 4e-6))
    monkeypatch.setattr(gpu_ceilings, "seconds_of", lambda call, device: next(taken))
    assert [gpu_ceilings.further_launch(torch.device("cpu")) for _ in range(2)] == [2e-6, 2.5e-6]


@pytest.mark.parametrize("precision", gpu_ceilings.PRECISIONS)
def test_ceilings_are_measured_by_precision(precision):
    found = gpu_ceilings.measure_gpu_ceilings("cpu", precision, (32, 64), (1 << 12, 1 << 16))
    assert found is gpu_ceilings.measure_gpu_ceilings("cpu", precision, (32, 64), (1 << 12, 1 << 16))
    assert f"{precision}, " in found.product
    assert [rung.size for rung in found.rungs] == [1 << 12, 1 << 16]
    assert all(1e6 < rung.rate < 1e13 for rung in found.rungs)
    assert 1e5 < found.flops < 1e14
    assert 0 < found.launch < 1e-2
    assert 0 < found.further < 1e-2
    assert found.device == "cpu"


class Driver:
    """The functions of libcuda that are asked, with their contracts: a pushed context is popped."""

    def __init__(self, fails=""):
        self.fails, self.taken, self.pushed = fails, 3 << 20, 0

    def __getattr__(self, name):
        function = object.__getattribute__(self, f"_{name}")
        return lambda *arguments: 2 if name == self.fails else function(*arguments) or 0

    def _cuInit(self, flags):
        assert flags == 0

    def _cuDeviceGet(self, out, number):
        out._obj.value = number + 40

    def _cuDevicePrimaryCtxRetain(self, out, device):
        assert device.value == 41
        out._obj.value = 7

    def _cuCtxPushCurrent_v2(self, context):
        assert context.value == 7
        self.pushed += 1

    def _cuMemGetInfo_v2(self, free, total):
        assert self.pushed == 1
        free._obj.value, total._obj.value = (80 << 30) - self.taken, 80 << 30

    def _cuCtxPopCurrent_v2(self, out):
        assert isinstance(out._obj, ctypes.c_void_p)
        self.pushed -= 1


def test_the_driver_tells_what_is_taken():
    driver = Driver()
    memory = GpuMemory(1, lambda name: driver)
    assert memory.used() == 3 << 20
    driver.taken = 5 << 30
    assert memory.used() == 5 << 30
    assert driver.pushed == 0


@pytest.mark.parametrize("function", ["cuInit", "cuDeviceGet", "cuDevicePrimaryCtxRetain", "cuMemGetInfo_v2"])
def test_a_driver_that_refuses_is_an_error(function):
    driver = Driver(function)
    with pytest.raises(DeviceError, match=f"{function} fails with CUDA error 2") as caught:
        GpuMemory(1, lambda name: driver).used()
    assert "doctor" in caught.value.remedy
    assert driver.pushed == 0


def test_no_driver_is_an_error():
    def load(name):
        raise OSError(name)

    with pytest.raises(DeviceError, match="no NVIDIA driver"):
        GpuMemory(0, load)


@pytest.mark.usefixtures("gpu_here")
def test_memory_of_the_gpu_is_a_column_of_the_fresh_processes(lenet, instant):
    cold = (Cold("nncompile", 1, None, 0.1, 0.001, 300.0, 412.4), Cold("eager", 1, 0.0, 0.1, 0.001, 900.0))
    failed = (Absent("onnxruntime", "It fails."),)
    report = dataclasses.replace(measured(lenet, instant, "none"), cold=cold, not_cold=failed)
    section = cold_section(report)
    assert section.columns[-1] == "GPU MiB"
    assert [cells[-1] for cells in section.rows] == ["412", "-", "-"]
    assert all(len(cells) == len(section.columns) for cells in section.rows)
    assert as_json(report)["cold"][0]["gpu_mib"] == 412.4


@pytest.mark.usefixtures("gpu_here")
def test_a_fresh_process_tells_what_it_takes_of_the_gpu(lenet, tmp_path, monkeypatch):
    class Memory:
        def __init__(self, number):
            assert number == 1
            self.answers = iter((100 << 20, 350 << 20))

        def used(self):
            return next(self.answers)

    monkeypatch.setattr(cold, "GpuMemory", Memory)
    signature = load_file(lenet.path, device="cpu").signature
    subject = Subject(str(lenet.path), signature, lenet.module, 1, {}, tmp_path, "cuda:1", "float16")
    cold.write_request(subject, {"batch": 1})
    opened = []
    monkeypatch.setattr(cold, "open_engine", lambda name, s: opened.append(s) or engines.open_engine(name, s))
    found = cold.start("eager", tmp_path)
    assert found.gpu_mib == 250
    assert (opened[0].device, opened[0].precision, opened[0].module is None) == ("cuda:1", "float16", False)
