"""How fast a GPU computes, copies and starts work at best: the measured lines of its roofline.

The matrix rate is the best one of a square product in the precision asked for. Bandwidth is the best rate of
a copy kernel, bytes read and bytes written both counted (STREAM's Copy), for a ladder of sizes, many copies
in one CUDA graph, without Python's launches: what fits into the second-level cache is faster, and a network
that is called again and again finds its weights there.
The shortest call is that of a CUDA graph of one tiny kernel, from its launch until the host has seen it end:
no network can be computed with less than one launch. A further launch takes what one of many in a row does,
which nothing waits for: of that graph, or of its kernel.

Sources: those of `ceilings.py`; CUDA C++ Programming Guide, "CUDA Graphs". Products, copies and launches are
timed by CUDA events around many of them, the shortest call by the host's clock, as engines are.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

from nncompile.bench.ceilings import Ceilings, Rung

if TYPE_CHECKING:
    import torch

PRECISIONS = ("float32", "tf32", "float16", "bfloat16")
ORDERS = (2048, 4096, 8192)
SIZES = tuple(1 << shift for shift in range(20, 31, 2))  # bytes that a copy reads and writes
_REPEATS = 5
# A copy within the cache is shorter than Python takes to launch it: so many are one CUDA graph.
_COPIED = 1 << 30  # bytes
_MOST_COPIES = 256
_BLOCK = 0.02  # seconds of work between two looks at the clock
_MOST_AT_ONCE = 1000
_SHORTEST = 2000  # calls


@lru_cache(maxsize=8)
def measure_gpu_ceilings(
    device: str, precision: str, orders: Sequence[int] = ORDERS, sizes: Sequence[int] = SIZES
) -> Ceilings:
    """Measure a GPU, once a process and precision: about two seconds. PyTorch's CPU does for a trial.

    Args:
        device: As torch names it: `cuda`, `cuda:1`.
        precision: Of the matrix products, from `PRECISIONS`.
        orders: Of the matrices.
        sizes: Of the copies in bytes, the smallest first.
    """
    import torch

    from nncompile.bench.engines.on_gpu import chosen

    place = torch.device(device)
    with torch.inference_mode(), chosen(place):
        flops, order = max((matrix_rate(place, precision, order), order) for order in orders)
        rungs = tuple(Rung(size, copy_rate(place, size)) for size in sizes)
        launch, further = shortest_call(place), further_launch(place)
    product = f"PyTorch {torch.__version__}, {precision}, {order} x {order}"
    return Ceilings(1, flops, product, rungs, launch, further, device_name(place))


def matrix_rate(device: torch.device, precision: str, order: int) -> float:
    """Operations a second of a product of two square matrices, a multiply-add counting as two."""
    import torch

    from nncompile.bench.engines.on_gpu import tf32_as_in

    dtype = getattr(torch, "float32" if precision == "tf32" else precision)
    # Made where they lie: the host takes longer for the largest than the product does.
    make = partial(torch.randn, order, order, generator=torch.Generator(device).manual_seed(0), device=device)
    a, b = make().to(dtype), make().to(dtype)
    c = torch.empty_like(a)
    with tf32_as_in(precision):
        return 2 * order**3 / seconds_of(lambda: torch.mm(a, b, out=c), device)


def copy_rate(device: torch.device, size: int) -> float:
    """Bytes a second of a copy that reads and writes `size` bytes in all."""
    import torch

    source = torch.zeros(size // 2, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copies = max(1, min(_MOST_COPIES, _COPIED // size))
    return size * copies / seconds_of(launched(lambda: target.copy_(source), device, copies), device)


def shortest_call(device: torch.device) -> float:
    """Seconds of the shortest of many calls that do next to nothing and are waited for."""
    import torch

    from nncompile.bench.engines.on_gpu import wait

    x = torch.zeros(32, device=device)
    call = launched(lambda: x.add_(1), device)
    fastest = float("inf")
    for _ in range(_SHORTEST):
        start = time.perf_counter()
        call()
        wait(device)
        fastest = min(fastest, time.perf_counter() - start)
    return fastest


def further_launch(device: torch.device) -> float:
    """Seconds of each of many launches in a row: of a tiny kernel, or of a CUDA graph of it."""
    import torch

    x = torch.zeros(32, device=device)

    def kernel() -> torch.Tensor:
        return x.add_(1)

    return min(seconds_of(kernel, device), seconds_of(launched(kernel, device), device))


def launched(call: Callable[[], Any], device: torch.device, count: int = 1) -> Callable[[], Any]:
    """What does the same `count` times: on a GPU one CUDA graph, so that Python launches but once."""
    import torch

    from nncompile.bench.engines.on_gpu import wait

    def together() -> None:
        for _ in range(count):
            call()

    if device.type != "cuda":
        return together
    call()  # a kernel that is not loaded cannot be captured
    wait(device)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        together()
    return graph.replay


def seconds_of(call: Callable[[], Any], device: torch.device) -> float:
    """Seconds of one of many calls in a row: those of the fastest of a few rows."""
    once = _row(call, 1, device)  # not counted: the first call finds its kernel
    once = _row(call, 1, device)
    count = max(1, min(_MOST_AT_ONCE, round(_BLOCK / max(once, 1e-7))))
    return min(_row(call, count, device) for _ in range(_REPEATS))


def _row(call: Callable[[], Any], count: int, device: torch.device) -> float:
    """Seconds of a call in a row of `count`, by the GPU's clock where there is one."""
    import torch

    if device.type != "cuda":
        start = time.perf_counter()
        for _ in range(count):
            call()
        return (time.perf_counter() - start) / count
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    begin.record()
    for _ in range(count):
        call()
    end.record()
    end.synchronize()
    milliseconds: float = begin.elapsed_time(end)
    return milliseconds / 1e3 / count


def device_name(device: torch.device) -> str:
    """The GPU's name; `cpu` for a trial."""
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
