"""How near to what the machine allows: the least time that a network can take, and the share reached.

A network of F operations that moves B bytes takes at least max(F / peak, B / bandwidth) seconds (Williams
et al. 2009; `ceilings.py`). F are the operations of the compiled graph (`flops.py`). B is what no
implementation can do without: weights once, inputs and outputs. What passes between the layers may stay in
registers and caches, and counts nothing. So the limit is a lower bound of the time, with one exception:
Winograd's algorithm computes a convolution in fewer operations than F, so that a share may exceed 100 %.
On a GPU no call is shorter than that of one kernel (`gpu_ceilings.py`); transfers from and to the host are
not in the limit. Each of the three has a share of an engine's time of its own, with the launches of its own.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nncompile.bench.ceilings import Ceilings, measure_ceilings
from nncompile.bench.gpu_ceilings import measure_gpu_ceilings

if TYPE_CHECKING:
    from nncompile.costs import GraphCost
    from nncompile_runtime.manifest import Signature


@dataclass(frozen=True)
class Limit:
    """The least time of one call, and where it comes from.

    Attributes:
        batch: Samples in the call.
        flops: Operations.
        bytes: Bytes that have to be moved.
        complete: Whether all operations and bytes are known; without, the bound is lower than it need be.
        seconds: The least time.
        bound: What takes that time: `compute`, `bandwidth`, or `launch` on a GPU.
    """

    batch: int
    flops: int
    bytes: int
    complete: bool
    seconds: float
    bound: str


@dataclass(frozen=True)
class Shares:
    """What each line of the roofline takes at least, as a part of an engine's time.

    Attributes:
        compute: Operations at the measured rate.
        bandwidth: Bytes at the measured bandwidth.
        launch: The engine's own launches, at what one takes at least; None where they were not counted.
    """

    compute: float
    bandwidth: float
    launch: float | None


@dataclass(frozen=True)
class Roofline:
    """The machine's ceilings and the limit of each batch.

    Attributes:
        ceilings: What was measured.
        limits: One for each batch.
    """

    ceilings: Ceilings
    limits: tuple[Limit, ...]

    def share(self, batch: int, microseconds: float) -> float | None:
        """The part of the attainable speed that a call of this time reaches; None for another batch."""
        limit = self._limit(batch)
        return None if limit is None else limit.seconds * 1e6 / microseconds

    def shares(self, batch: int, microseconds: float, launches: int | None) -> Shares | None:
        """The part of each line in a call of this time, and of so many launches; None for another batch."""
        limit = self._limit(batch)
        if limit is None:
            return None
        seconds, ceilings = microseconds / 1e6, self.ceilings
        launched = None if launches is None else ceilings.launch + (launches - 1) * ceilings.further
        return Shares(
            compute=limit.flops / ceilings.flops / seconds,
            bandwidth=limit.bytes / ceilings.bandwidth(limit.bytes) / seconds,
            launch=None if launched is None else launched / seconds,
        )

    def _limit(self, batch: int) -> Limit | None:
        return next((limit for limit in self.limits if limit.batch == batch), None)


def least_seconds(flops: int, moved: int, ceilings: Ceilings) -> tuple[float, str]:
    """The least time of `flops` operations on `moved` bytes, and what takes it."""
    return max(
        (flops / ceilings.flops, "compute"),
        (moved / ceilings.bandwidth(moved), "bandwidth"),
        (ceilings.launch, "launch"),
    )


def measure_roofline(
    path: str | os.PathLike[str],
    signature: Signature,
    batches: Sequence[int],
    threads: int,
    device: str = "cpu",
    precision: str = "float32",
) -> Roofline | None:
    """Measure the machine and count what the network takes.

    Args:
        path: An ONNX file.
        signature: How it is called.
        batches: Samples in one call.
        threads: As many as the engines compute with.
        device: What is measured: `cpu`, or a GPU, for which torch must be installed.
        precision: What the network computes in; on a GPU its rate is that of this precision.

    Returns:
        None where onnx or onnx-ir is not installed, which count, or torch, which measures a GPU.
    """
    try:
        import onnx
        import onnx_ir as ir

        from nncompile.costs import graph_cost

        ceilings = measure_ceilings(threads) if device == "cpu" else measure_gpu_ceilings(device, precision)
    except ModuleNotFoundError:
        return None
    graph = ir.from_proto(onnx.load(os.fspath(path)))
    limits = (limit_of(graph_cost(graph, batch, signature.batch), ceilings) for batch in batches)
    return Roofline(ceilings, tuple(limits))


def limit_of(cost: GraphCost, ceilings: Ceilings) -> Limit:
    """The limit of a graph of known cost."""
    flops, moved = cost.totals.flops, cost.least_bytes or 0
    seconds, bound = least_seconds(flops, moved, ceilings)
    complete = cost.least_bytes is not None and all(node.flops is not None for node in cost.nodes)
    return Limit(cost.batch, flops, moved, complete, seconds, bound)
