"""How fast this machine computes and reads at best: the two measured lines of the roofline model.

The peak is the best rate of a square single-precision matrix product, the kernel that comes nearest to the
processor's multiply-adds a cycle. As many threads as the engines use multiply at the same time, each for
itself by ONNX Runtime's kernel on one thread, and the best rate of each is added up: so the peak is seen even
where something else keeps a processor busy for a while.

Bandwidth is the best rate at which arrays of one size are read, by as many threads. A network that is called
again and again finds weights that fit into a cache there, so it is measured for a ladder of sizes; within the
last-level cache the threads' best rates are added up, like those of the products. Beyond it the threads share
the memory, and only what they reach together counts; STREAM's Copy and Add count there as well, with the
bytes that STREAM counts: each array once, whatever the caches move besides.

Sources: S. Williams, A. Waterman, D. Patterson, "Roofline", CACM 52(4), 2009; J. McCalpin, "Memory
Bandwidth and Machine Balance in Current High Performance Computers", 1995 (STREAM); A. Ilic, F. Pratas, L.
Sousa, "Cache-aware Roofline model", IEEE CAL 13(1), 2014.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from nncompile_runtime.session import onnxruntime

_ORDERS = (256, 512, 1024)  # of the matrices: long against a call, and in reach of a cache
_SECONDS = 0.15  # for each kernel and size
_SMALLEST, _STEP, _LARGEST = 128 << 10, 4, 256 << 20  # bytes
_READ_AT_ONCE = 16 << 20  # bytes a thread: short against a time slice, long against handing out work
_SHIFTS = {"": 0, "K": 10, "M": 20, "G": 30}
_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")

T = TypeVar("T")
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
        product: Of what: whose matrix product, and the order that was the fastest.
        rungs: Bandwidths by size, the smallest first; the last one is main memory's.
        launch: Seconds of the shortest call of a GPU; 0 for processors.
        further: Seconds that each launch after the first takes at least; 0 for processors.
        device: The GPU's name; empty for processors.
    """

    threads: int
    flops: float
    product: str
    rungs: tuple[Rung, ...]
    launch: float = 0.0
    further: float = 0.0
    device: str = ""

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
    cache = last_level_cache()
    sizes = ladder(cache)
    with ThreadPoolExecutor(threads) as pool:
        flops, order = max((_product_rate(pool, order, threads), order) for order in _ORDERS)
        rungs = [Rung(size, _read_rate(pool, size, threads, shared=size > cache)) for size in sizes]
        stream = _stream_rate(pool, sizes[-1], threads)
    rungs[-1] = Rung(sizes[-1], max(rungs[-1].rate, stream))
    product = f"ONNX Runtime {onnxruntime().__version__}, {order} x {order}"
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


def _product_rate(pool: ThreadPoolExecutor, order: int, threads: int) -> float:
    """Operations a second of all threads, each of which multiplies matrices of its own."""
    generator = np.random.default_rng(0)
    a, b = (generator.standard_normal((order, order), dtype=np.float32) for _ in range(2))
    ort = onnxruntime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(_product_model(b), options, providers=["CPUExecutionProvider"])
    lefts = [a.copy() for _ in range(threads)]
    calls = (partial(_best, partial(session.run, None, {"a": left})) for left in lefts)
    return sum(2 * order**3 / seconds for seconds in _together(pool, calls))


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


def _read_rate(pool: ThreadPoolExecutor, size: int, threads: int, *, shared: bool) -> float:
    """Bytes a second of reading arrays of `size` bytes in all, each thread its own.

    Args:
        pool: As many threads.
        size: Bytes.
        threads: How many.
        shared: Whether the threads are timed together, because they share what they read from.
    """
    arrays = [np.ones(size // 4 // threads, np.float32) for _ in range(threads)]
    times = max(1, _READ_AT_ONCE // arrays[0].nbytes)
    # An array of stride 0 over itself: one call of a compiled loop reads it `times` times.
    views = [np.broadcast_to(array, (times, array.size)) for array in arrays]
    read = times * arrays[0].nbytes
    if shared:
        return threads * read / _best(lambda: _together(pool, (view.max for view in views)))
    return sum(read / seconds for seconds in _together(pool, (partial(_best, view.max) for view in views)))


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


def _together(pool: ThreadPoolExecutor, calls: Iterable[Callable[[], T]]) -> list[T]:
    """One call a thread, and their results; numpy's loops and ONNX Runtime let go of Python's lock."""
    return [future.result() for future in [pool.submit(call) for call in calls]]


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
