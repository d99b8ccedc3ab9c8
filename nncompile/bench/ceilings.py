"""How fast this machine computes and reads at best: the two measured lines of the roofline model.

The peak is the best rate of a square single-precision matrix product, the kernel that comes nearest to the
processor's multiply-adds a cycle, on as many threads as the engines use. Of ONNX Runtime's and, where it is
loaded, torch's, the faster one counts.

Bandwidth is the best rate at which arrays of one size are read, on as many threads. Above the last-level
cache STREAM's Copy and Add count as well, with the bytes that STREAM counts: each array once, whatever the
caches move besides. A network that is called again and again finds weights that fit into a cache there, so
the rate is measured for a ladder of sizes.

Sources: S. Williams, A. Waterman, D. Patterson, "Roofline", CACM 52(4), 2009; J. McCalpin, "Memory
Bandwidth and Machine Balance in Current High Performance Computers", 1995 (STREAM); A. Ilic, F. Pratas, L.
Sousa, "Cache-aware Roofline model", IEEE CAL 13(1), 2014.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nncompile_runtime.session import onnxruntime

_ORDERS = (512, 1024)  # of the matrices: they and the blocks that kernels pack fit into caches
_SECONDS = 0.15  # for each kernel and size
_SMALLEST, _STEP, _LARGEST = 128 << 10, 4, 256 << 20  # bytes
_READ_AT_ONCE = 16 << 20  # bytes a thread: short against a time slice, long against handing out work
_SHIFTS = {"": 0, "K": 10, "M": 20, "G": 30}
_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Rung:
    """How fast arrays of one size are read.

    Attributes:
        size: Bytes of the arrays of all threads together.
        rate: Bytes a second.
    """

    size: int
    rate: float


@dataclass(frozen=True)
class Ceilings:
    """What the machine does at best.

    Attributes:
        threads: Threads that it was measured with.
        flops: Single-precision operations a second, a multiply-add counting as two.
        product: Whose matrix product was the fastest, and its order.
        rungs: Bandwidths by size, the smallest first; the last one is main memory's.
    """

    threads: int
    flops: float
    product: str
    rungs: tuple[Rung, ...]

    @property
    def memory(self) -> float:
        """Bandwidth of main memory in bytes a second."""
        return self.rungs[-1].rate

    def bandwidth(self, size: int) -> float:
        """Bytes a second at which `size` bytes can be read over and over, at most.

        It is the rate of the next smaller size that was measured, or of a larger one that came out faster,
        so that a time computed with it is a lower bound.
        """
        known = [rung for rung in self.rungs if rung.size <= size] or self.rungs[:1]
        return max(rung.rate for rung in self.rungs if rung.size >= known[-1].size)


@lru_cache(maxsize=4)
def measure_ceilings(threads: int) -> Ceilings:
    """Measure this machine, once a process: about two seconds.

    Args:
        threads: As many as the engines compute with.

    Raises:
        ModelLoadError: ONNX Runtime is not installed.
    """
    flops, product = max(_products(threads))
    sizes = ladder(last_level_cache())
    with ThreadPoolExecutor(threads) as pool:
        rungs = [Rung(size, _read_rate(pool, size, threads)) for size in sizes]
        stream = _stream_rate(pool, sizes[-1], threads)
    rungs[-1] = Rung(sizes[-1], max(rungs[-1].rate, stream))
    return Ceilings(threads, flops, product, tuple(rungs))


def ladder(cache: int) -> tuple[int, ...]:
    """The sizes to measure in bytes: the last one is four times the last-level cache, or more."""
    sizes = [_SMALLEST]
    while sizes[-1] * _STEP < _LARGEST:
        sizes.append(sizes[-1] * _STEP)
    return (*sizes, max(_LARGEST, _STEP * cache))


def last_level_cache(caches: Path = _CACHES) -> int:
    """Bytes of the largest cache of the first processor; 0 where the system does not say."""
    texts = (file.read_text(encoding="ascii").strip() for file in caches.glob("index*/size"))
    sizes = filter(None, (re.fullmatch(r"(\d+)([KMG]?)", text) for text in texts))
    return max((int(number) << _SHIFTS[unit] for number, unit in map(re.Match.groups, sizes)), default=0)


def _products(threads: int) -> Iterator[tuple[float, str]]:
    """Operations a second of every product that is at hand, with its name."""
    generator = np.random.default_rng(0)
    for order in _ORDERS:
        a, b = (generator.standard_normal((order, order), dtype=np.float32) for _ in range(2))
        for name, seconds in (_onnxruntime_product(a, b, threads), _torch_product(a, b, threads)):
            yield 2 * order**3 / seconds, f"{name}, {order} x {order}"


def _onnxruntime_product(a: Floats, b: Floats, threads: int) -> tuple[str, float]:
    ort = onnxruntime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(_product_model(b), options, providers=["CPUExecutionProvider"])
    return f"ONNX Runtime {ort.__version__}", _best(lambda: session.run(None, {"a": a}))


def _torch_product(a: Floats, b: Floats, threads: int) -> tuple[str, float]:
    """Where torch is not loaded it is not loaded for this: it takes forever."""
    torch = sys.modules.get("torch")
    if torch is None:
        return "torch", float("inf")
    with _torch_threads(torch, threads):
        left, right = torch.from_numpy(a), torch.from_numpy(b)
        out = torch.empty_like(left)
        return f"torch {torch.__version__}", _best(lambda: torch.mm(left, right, out=out))


def _product_model(b: Floats) -> bytes:
    """`c = a @ b` as an ONNX model."""
    import onnx
    from onnx import helper, numpy_helper

    shape = list(b.shape)
    ports = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name in "ac"]
    node = helper.make_node("MatMul", ["a", "b"], ["c"])
    graph = helper.make_graph([node], "product", ports[:1], ports[1:], [numpy_helper.from_array(b, "b")])
    opset = [helper.make_opsetid("", 20)]
    serialised: bytes = helper.make_model(graph, opset_imports=opset, ir_version=10).SerializeToString()
    return serialised


@contextmanager
def _torch_threads(torch: Any, threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _read_rate(pool: ThreadPoolExecutor, size: int, threads: int) -> float:
    """Bytes a second of reading arrays of `size` bytes in all, each thread its own."""
    arrays = [np.ones(size // 4 // threads, np.float32) for _ in range(threads)]
    times = max(1, _READ_AT_ONCE // arrays[0].nbytes)
    # An array of stride 0 over itself: one call of a compiled loop reads it `times` times.
    views = [np.broadcast_to(array, (times, array.size)) for array in arrays]
    read = times * sum(array.nbytes for array in arrays)
    return read / _best(lambda: _together(pool, (view.max for view in views)))


def _stream_rate(pool: ThreadPoolExecutor, size: int, threads: int) -> float:
    """Bytes a second of STREAM's Copy and Add, the better one, over three arrays of `size` bytes in all."""
    elements = size // 4 // 3 // threads
    sets = [np.ones((3, elements), np.float32) for _ in range(threads)]
    array_bytes = elements * 4 * threads

    def copy() -> None:
        _together(pool, (partial(np.copyto, c, a) for a, _, c in sets))

    def add() -> None:
        _together(pool, (partial(np.add, a, b, out=c) for a, b, c in sets))

    return max(2 * array_bytes / _best(copy), 3 * array_bytes / _best(add))


def _together(pool: ThreadPoolExecutor, calls: Iterable[Callable[[], Any]]) -> None:
    """One call a thread; numpy's loops let go of Python's lock."""
    for future in [pool.submit(call) for call in calls]:
        future.result()


def _best(call: Callable[[], Any]) -> float:
    """Seconds of the fastest of many calls, after one that is not counted."""
    call()
    fastest, end = float("inf"), time.perf_counter() + _SECONDS
    while True:
        start = time.perf_counter()
        call()
        stop = time.perf_counter()
        fastest = min(fastest, stop - start)
        if stop >= end:
            return fastest
