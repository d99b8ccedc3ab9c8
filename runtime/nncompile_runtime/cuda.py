"""What running on an NVIDIA GPU takes, looked at before ONNX Runtime is asked: alone, it would take the CPU.

The driver's functions are those of https://docs.nvidia.com/cuda/cuda-driver-api.
"""

from __future__ import annotations

import ctypes
import re
from dataclasses import dataclass
from typing import Any

from nncompile_runtime import cuda_libraries
from nncompile_runtime.cuda_libraries import Load
from nncompile_runtime.errors import DeviceError
from nncompile_runtime.shape_nodes import shape_nodes

PROVIDER = "CUDAExecutionProvider"
_DRIVER = "libcuda.so.1"
_FFT = "cufft"  # opened by Fourier transforms alone
_FAILURE = re.compile(
    r"\b(CUDA|CUDNN|CUDNN_FE|CUBLAS|CUFFT|CURAND) (failure|error)[^;]*"
    r"|(Failed to initialize|OP not supported by) CUDNN Frontend[^;{]*"
    r"|cuDNN is (not available|unavailable)[^;]*"
)
_OUT_OF_MEMORY = ("out of memory", "alloc_failed", "out_of_memory", "memoryallocation")
_NO_GPU = "Install an NVIDIA driver, or give the container its GPU (docker run --gpus all)."
# What helps against errors of cuInit (CUresult in the driver's API).
_OF_DRIVER = {
    3: "CUDA does not work in a child that was forked after its parent had used it: start workers with "
    "multiprocessing's spawn or forkserver.",
    802: "Start nvidia-fabricmanager, which GPUs behind an NVSwitch need, or wait until it is ready.",
    803: "Restart the machine if its driver was updated, and remove a libcuda.so.1 of the container's own.",
}


@dataclass(frozen=True)
class Cuda:
    """What there is of CUDA.

    Attributes:
        built_for: The CUDA version that ONNX Runtime was built for; None where it was built without.
        driver: The newest CUDA version that the driver serves, such as `13.0`; None without a driver.
        gpus: How many GPUs the driver shows to this process.
        libraries: Name of each library that the provider needs (cuFFT only for Fourier transforms) -> the
            file, or None where none was found.
        fault: Why nothing can run on a GPU; empty where something can.
        remedy: What to do about it.
    """

    built_for: str | None
    driver: str | None
    gpus: int
    libraries: dict[str, str | None]
    fault: str
    remedy: str


def examine(onnxruntime: Any, load: Load = ctypes.CDLL) -> Cuda:
    """Look for driver, provider and libraries. Those that are found stay loaded.

    Args:
        onnxruntime: The module.
        load: Opens a shared library by name, or raises OSError.
    """
    built_for = (getattr(onnxruntime, "cuda_version", "") or None) if _has_provider(onnxruntime) else None
    driver, gpus, fault, remedy = _ask_driver(load)
    names = cuda_libraries.names_of(built_for) if built_for else ()
    libraries = cuda_libraries.load_all(onnxruntime, names, load) if names else {}
    missing = [name for name, file in libraries.items() if file is None and _FFT not in name]
    if not _has_provider(onnxruntime):
        install = "pip uninstall -y onnxruntime, then pip install 'nncompile[gpu]'."
        also = "" if driver else ", and there is no NVIDIA driver either"
        fault = f"the installed ONNX Runtime has no {PROVIDER}{also}"
        remedy = f"Run: {install}" if driver else f"On a machine with an NVIDIA GPU and its driver: {install}"
    elif not fault and built_for and driver and _major(driver) < _major(built_for):
        fault = f"{PROVIDER} is built for CUDA {built_for}, and the NVIDIA driver serves CUDA {driver}"
        remedy = f"Update the driver, or install an onnxruntime-gpu that is built for CUDA {_major(driver)}."
    elif not fault and missing:
        looked = ", ".join(map(str, cuda_libraries.folders())) or "no package nvidia or torch"
        fault = (
            f"{PROVIDER} needs {', '.join(missing)}, which cannot be loaded from where the system looks "
            f"(LD_LIBRARY_PATH), nor from Python's packages ({looked})"
        )
        remedy = "Run: pip install 'onnxruntime-gpu[cuda,cudnn]'."
    return Cuda(built_for, driver, gpus, libraries, fault, remedy if fault else "")


def require(onnxruntime: Any, number: int, load: Load = ctypes.CDLL) -> None:
    """Refuse where a GPU cannot be used.

    Args:
        onnxruntime: The module.
        number: Index of the GPU.
        load: Opens a shared library by name, or raises OSError.

    Raises:
        DeviceError: The provider, the driver, a library (named) or this GPU is missing, or the driver is old.
    """
    cuda = examine(onnxruntime, load)
    if cuda.fault:
        raise DeviceError(f"cuda:{number} cannot be had: {cuda.fault}.", remedy=cuda.remedy)
    if number >= cuda.gpus:
        raise DeviceError(
            f"cuda:{number} cannot be had: the driver shows {cuda.gpus} GPU{'s' * (cuda.gpus != 1)}.",
            remedy=f"Choose from cuda:0 to cuda:{cuda.gpus - 1}, or check CUDA_VISIBLE_DEVICES.",
        )


def at_fault(error: Exception) -> bool:
    """Whether ONNX Runtime failed for the GPU's sake (its memory, its libraries), not the model's."""
    return any(word in str(error).lower() for word in ("cuda", "cudnn", "cublas"))


def failure(error: Exception) -> str | None:
    """What CUDA or one of its libraries failed with, as ONNX Runtime words that; None for any other error.

    The name alone says nothing: it is part of the path of each of the provider's source files.
    """
    found = _FAILURE.search(str(error))
    return found[0].strip()[:400] if found else None


def missing_memory(error: Exception) -> int | None:
    """How many bytes a GPU did not have: 0 where the error does not tell; None for any other error.

    ONNX Runtime's arena names the bytes (core/framework/bfc_arena.cc), in one text where the GPU is full and
    in another where `gpu_mem_limit` is reached; CUDA, cuBLAS and cuDNN only say that they are out of memory.
    """
    text = str(error)
    asked = re.search(r"(?:requested buffer of size|smaller than requested bytes of) (\d+)", text)
    if asked:
        return int(asked[1])
    return 0 if any(sign in text.lower() for sign in _OUT_OF_MEMORY) else None


def refuse_nodes_on_the_cpu(session: Any, name: str, data: bytes) -> None:
    """Refuse a graph that ONNX Runtime would run in part on the CPU; arithmetic on shapes belongs there.

    Which nodes that is says `shape_nodes`.

    Args:
        session: An InferenceSession that recorded the assignment (`session.record_ep_graph_assignment_info`).
        name: The model, for the message.
        data: The model, as a serialised ModelProto.

    Raises:
        DeviceError: Nodes, named, have no CUDA kernel.
    """
    elsewhere = [
        (node.op_type, node.name)
        for part in session.get_provider_graph_assignment_info()
        if part.ep_name != PROVIDER
        for node in part.get_nodes()
    ]
    if not elsewhere:
        return
    left = [f"{operator} {name!r}" for operator, name in shape_nodes(data).of_data(elsewhere)]
    if left:
        more = f" and {len(left) - 5} more" if len(left) > 5 else ""
        raise DeviceError(
            f"ONNX Runtime has no CUDA kernel for {', '.join(left[:5])}{more} of {name}, and would run "
            f"{'it' if len(left) == 1 else 'them'} on the CPU.",
            remedy="Choose device='cpu', or compile a module without these operators.",
        )


def placement(session: Any) -> dict[str, dict[str, int]]:
    """Execution provider -> operator -> how many nodes of it ONNX Runtime assigned to that.

    Args:
        session: An InferenceSession that recorded the assignment (`session.record_ep_graph_assignment_info`).
    """
    placed: dict[str, dict[str, int]] = {}
    for part in session.get_provider_graph_assignment_info():
        counts = placed.setdefault(part.ep_name, {})
        for node in part.get_nodes():
            counts[node.op_type] = counts.get(node.op_type, 0) + 1
    return placed


def _has_provider(onnxruntime: Any) -> bool:
    return PROVIDER in onnxruntime.get_available_providers()


def _ask_driver(load: Load) -> tuple[str | None, int, str, str]:
    """The driver's CUDA version, the number of GPUs, what is wrong with it, and what to do about that."""
    try:
        driver = load(_DRIVER)
    except OSError:
        return None, 0, f"{PROVIDER} needs an NVIDIA driver, and there is none ({_DRIVER})", _NO_GPU
    number, count = ctypes.c_int(), ctypes.c_int()
    driver.cuDriverGetVersion(ctypes.byref(number))
    version = f"{number.value // 1000}.{number.value % 1000 // 10}"
    status = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    if status or not count.value:
        fault = f"the NVIDIA driver shows no GPU (CUDA error {status or 100})"
        return version, 0, fault, _OF_DRIVER.get(status, _NO_GPU)
    return version, count.value, "", ""


def _major(version: str) -> int:
    return int(version.partition(".")[0])
