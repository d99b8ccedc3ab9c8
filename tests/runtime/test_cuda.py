"""What CUDA takes is named where it is missing, and nothing runs on the CPU behind the caller's back."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from onnx import helper

from nncompile import DeviceError
from nncompile_runtime import container, cuda, driver, session
from nncompile_runtime.cuda_session import open_session
from nncompile_runtime.plan import Plan

from .fake_driver import FakeCuda
from .graphs import build, conv_net, manifest, predictor, spec

LIBRARIES = ("libcudart.so.13", "libcublas.so.13", "libcublasLt.so.13", "libcurand.so.10", "libcudnn.so.9")


class Machine:
    """A machine with an NVIDIA GPU, of which parts may be missing: stands in for `ctypes.CDLL`."""

    def __init__(self, gpus: int = 2, missing: tuple[str, ...] = (), status: int = 0) -> None:
        self.gpus, self.missing, self.status = gpus, missing, status

    def __call__(self, name: str) -> Any:
        if name in self.missing:
            raise OSError(f"{name}: cannot open shared object file: No such file or directory")
        return self

    def cuDriverGetVersion(self, out: Any) -> int:
        out._obj.value = 13020
        return 0

    def cuInit(self, flags: int) -> int:
        return self.status

    def cuDeviceGetCount(self, out: Any) -> int:
        out._obj.value = self.gpus
        return 0


def runtime(provider: bool = True, version: str = "13.0") -> Any:
    """ONNX Runtime as far as it is asked; preloading prints and fails, as it does where libraries lack."""

    def preload_dlls() -> None:
        print("Failed to load libcublas.so")
        raise RuntimeError("no such folder")

    providers = [cuda.PROVIDER] * provider + ["CPUExecutionProvider"]
    return SimpleNamespace(
        get_available_providers=lambda: providers, cuda_version=version, preload_dlls=preload_dlls
    )


def test_a_machine_that_has_it_all(capsys: pytest.CaptureFixture[str]) -> None:
    found = cuda.examine(runtime(), Machine())
    assert (found.built_for, found.driver, found.gpus, found.fault, found.remedy) == (
        "13.0",
        "13.2",
        2,
        "",
        "",
    )
    assert set(found.libraries) == {*LIBRARIES, "libcufft.so.12"}
    assert None not in found.libraries.values()
    cuda.require(runtime(), 1, Machine())
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", LIBRARIES)
def test_a_missing_library_is_named(name: str) -> None:
    with pytest.raises(DeviceError, match=f"cuda:0 cannot be had: .*needs {name}, which cannot") as caught:
        cuda.require(runtime(), 0, Machine(missing=(name,)))
    assert "pip install 'onnxruntime-gpu[cuda,cudnn]'" in caught.value.remedy


def test_fourier_transforms_alone_need_cufft() -> None:
    machine = Machine(missing=("libcufft.so.12",))
    assert cuda.examine(runtime(), machine).libraries["libcufft.so.12"] is None
    cuda.require(runtime(), 0, machine)


def test_libraries_of_cuda_12() -> None:
    names = set(cuda.examine(runtime(version="12.8"), Machine()).libraries)
    assert {"libcublas.so.12", "libcufft.so.11", "libcurand.so.10", "libcudnn.so.9"} < names


@pytest.mark.parametrize(
    ("onnxruntime", "machine", "problem", "remedy"),
    [
        (runtime(provider=False), Machine(), f"has no {cuda.PROVIDER}", "'nncompile[gpu]'"),
        (
            runtime(provider=False),
            Machine(missing=("libcuda.so.1",)),
            f"has no {cuda.PROVIDER}, and there is no NVIDIA driver either",
            "On a machine with an NVIDIA GPU",
        ),
        (runtime(), Machine(missing=("libcuda.so.1",)), "there is none", "Install an NVIDIA driver"),
        (
            runtime(version="14.0"),
            Machine(),
            "for CUDA 14.0, and the NVIDIA driver serves CUDA 13.2",
            "for CUDA 13.",
        ),
        (runtime(), Machine(gpus=0), "shows no GPU", "--gpus all"),
        (runtime(), Machine(status=101), r"shows no GPU \(CUDA error 101\)", "--gpus all"),
        (runtime(), Machine(status=3), r"shows no GPU \(CUDA error 3\)", "spawn or forkserver"),
        (runtime(), Machine(status=802), r"shows no GPU \(CUDA error 802\)", "nvidia-fabricmanager"),
        (runtime(), Machine(status=803), r"shows no GPU \(CUDA error 803\)", "Restart the machine"),
        (runtime(provider=False), Machine(status=3), f"has no {cuda.PROVIDER}", "'nncompile[gpu]'"),
        (runtime(), Machine(gpus=1), "the driver shows 1 GPU.", "CUDA_VISIBLE_DEVICES"),
    ],
)
def test_what_else_may_be_missing(onnxruntime: Any, machine: Machine, problem: str, remedy: str) -> None:
    with pytest.raises(DeviceError, match=problem) as caught:
        cuda.require(onnxruntime, 1, machine)
    assert remedy in caught.value.remedy


@pytest.fixture
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[dict[str, Any]]]:
    """Lets a session of a CUDA plan start: ONNX Runtime's own, on the CPU, said to be what `said` names."""
    created: list[dict[str, Any]] = []

    def prepare(said: str) -> list[dict[str, Any]]:
        real = session.onnxruntime()

        class Started(real.InferenceSession):  # type: ignore[misc, name-defined]
            def __init__(self, data: bytes, **options: Any) -> None:
                created.append(dict(options))
                options |= {"providers": ["CPUExecutionProvider"], "provider_options": [{}]}
                super().__init__(data, **options)

            def get_providers(self) -> list[str]:
                return [said]

        fake = SimpleNamespace(**{name: getattr(real, name) for name in dir(real) if name[0] != "_"})
        fake.InferenceSession, fake.__version__ = Started, real.__version__
        monkeypatch.setattr(session, "onnxruntime", lambda: fake)
        monkeypatch.setattr(cuda, "require", lambda *_: None)
        opened = driver.Gpu(0, FakeCuda())
        monkeypatch.setattr(driver, "gpu", lambda number: opened)
        return created

    return prepare


def cuda_session(model: Any, precision: str | None = None) -> session.Session:
    _, inputs, outputs = conv_net()
    data = model.SerializeToString()
    if precision:
        data = container.append_manifest(data, manifest(inputs, outputs, precision=precision))
    return open_session(container.parse(data, "net.onnx"), Plan(provider="cuda"))


def test_nodes_on_the_cpu_are_named(on_the_cpu: Callable[..., Any]) -> None:
    """The real assignment of the real ONNX Runtime; all nodes are on the CPU here."""
    on_the_cpu(cuda.PROVIDER)
    model, *_ = conv_net()
    for node in model.graph.node:
        node.name = f"layer/{node.op_type}"
    with pytest.raises(DeviceError, match=r"no CUDA kernel for Conv 'layer/Conv', .*of net\.onnx") as caught:
        cuda_session(model)
    assert "device='cpu'" in caught.value.remedy


def test_arithmetic_on_shapes_may_be_on_the_cpu(on_the_cpu: Callable[..., Any]) -> None:
    on_the_cpu(cuda.PROVIDER)
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Add", ["s", "s"], ["t"]),
        helper.make_node("Cast", ["t"], ["y"], to=1),
    ]
    assert cuda_session(build(nodes, [spec("x", "n", 3)], [spec("y", 2)])).plan.device == "cuda:0"


def test_a_provider_that_did_not_start_is_an_error(on_the_cpu: Callable[..., Any]) -> None:
    on_the_cpu("CPUExecutionProvider")
    with pytest.raises(DeviceError, match="would have run on the CPU instead"):
        cuda_session(conv_net()[0])


@pytest.mark.parametrize(
    ("precision", "tf32"), [(None, "0"), ("float32", "0"), ("tf32", "1"), ("bfloat16", "1")]
)
def test_the_files_precision_sets_the_providers_options(
    on_the_cpu: Callable[..., Any], precision: str | None, tf32: str
) -> None:
    created = on_the_cpu(cuda.PROVIDER)
    with pytest.raises(DeviceError, match="no CUDA kernel"):
        cuda_session(conv_net()[0], precision)
    assert created[0]["providers"] == [cuda.PROVIDER]
    (options,) = created[0]["provider_options"]
    assert (options["device_id"], options["use_tf32"]) == ("0", tf32)
    assert int(options["user_compute_stream"]) > 0


@pytest.mark.parametrize(
    ("raised", "kind", "problem"),
    [
        ("CUDA failure 2: out of memory", "OutOfMemoryError", "could not be started on cuda:0"),
        (
            "BFCArena: Available memory of 0 is smaller than requested bytes of 1",
            "OutOfMemoryError",
            "BFCArena",
        ),
        ("CUDA failure 999: unknown error", "DeviceError", "could not be started on cuda:0"),
        ("Invalid model", "ModelLoadError", "refuses net.onnx: Invalid model"),
    ],
)
def test_a_provider_that_raises_is_no_reason_to_take_the_cpu(
    on_the_cpu: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    raised: str,
    kind: str,
    problem: str,
) -> None:
    """ONNX Runtime's own constructor prints `EP Error` and starts on the CPU, unless it is told not to."""
    on_the_cpu(cuda.PROVIDER)
    started = session.onnxruntime().InferenceSession

    def fail(self: Any, *_: Any) -> None:
        raise RuntimeError(raised)

    monkeypatch.setattr(started, "_create_inference_session", fail)
    with pytest.raises(Exception, match=problem) as caught:
        cuda_session(conv_net()[0])
    assert type(caught.value).__name__ == kind
    assert capfd.readouterr().out == ""


provider_without_gpu = pytest.mark.skipif(
    cuda.PROVIDER not in session.available_providers() or not cuda.examine(session.onnxruntime()).fault,
    reason="this ONNX Runtime has no CUDA, or a GPU to run on",
)


@provider_without_gpu
def test_real_libraries_behind_a_driver_are_looked_for() -> None:
    class OnlyTheDriver(Machine):
        def __call__(self, name: str) -> Any:
            return self if name == "libcuda.so.1" else ctypes.CDLL(name)

    found = cuda.examine(session.onnxruntime(), OnlyTheDriver())
    assert len(found.libraries) == 6
    for name, file in found.libraries.items():
        if file is None:
            assert name in found.fault or "cufft" in name
            with pytest.raises(OSError, match="cannot open"):
                ctypes.CDLL(name)
        else:
            assert Path(file).is_file()


@provider_without_gpu
def test_the_real_provider_that_does_not_start_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Had nobody looked before, ONNX Runtime would now have a session on the CPU, and say nothing."""
    monkeypatch.setattr(cuda, "require", lambda *_: None)
    opened = driver.Gpu(0, FakeCuda())
    monkeypatch.setattr(driver, "gpu", lambda number: opened)
    with pytest.raises(DeviceError, match="would have run on the CPU instead"):
        predictor(conv_net()[0], device="cuda")


@provider_without_gpu
def test_without_a_driver_there_is_no_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "require", lambda *_: None)
    with pytest.raises(DeviceError, match=r"^cuda:0 cannot be had: libcuda\.so\.1"):
        predictor(conv_net()[0], device="cuda")


@provider_without_gpu
def test_the_real_provider_without_a_gpu_is_refused_quietly(capfd: pytest.CaptureFixture[str]) -> None:
    """ONNX Runtime itself logs in red that a library is missing, and answers from the CPU."""
    with pytest.raises(DeviceError, match="cuda:0 cannot be had"):
        predictor(conv_net()[0], device="cuda")
    printed = capfd.readouterr()
    assert (printed.out, printed.err) == ("", "")
