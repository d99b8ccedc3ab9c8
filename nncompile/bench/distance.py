"""How far a call is from what the machine allows, and where the rest of its time goes: measured, by batch.

The time T of a call on n threads is cut into four:

    limit     what the operations take at the machine's peak, or weights, inputs and outputs at its bandwidth
    call      what no call escapes, Python and ONNX Runtime: that of a network of one node on one number
    kernels   (T1 - call) / n - limit: the work of one thread alone (T1), shared evenly, beyond the limit
    sharing   what is left: threads that wait for one another, or have nothing to do

The limit is that of the fewest operations (`least_work.py`): `roofline.py` counts them as they are defined,
of which Winograd's algorithm does a part. `attribution.py` measures.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Stage:
    """Some layers of a network.

    Attributes:
        name: Their names.
        time: Microseconds of a call that they take.
        limit: The least that they can take, by operations or weights.
    """

    name: str
    time: float
    limit: float

    @property
    def share(self) -> float | None:
        """The part of the attainable speed; None where the difference of two times is not above 0."""
        return self.limit / self.time if self.time > 0 else None


@dataclass(frozen=True)
class Distance:
    """Where the time of one call goes. Times are microseconds, of the median call in the fastest round.

    Attributes:
        batch: Samples in the call.
        time: The call.
        limit: The least that it can take, with the products of Winograd's algorithm where that runs.
        bound: What takes that: `compute` or `bandwidth`.
        call: That of a network that does nothing.
        threads: Threads that compute.
        alone: The call on one of them.
        stages: The layers in order, where they were told apart.
    """

    batch: int
    time: float
    limit: float
    bound: str
    call: float
    threads: int
    alone: float
    stages: tuple[Stage, ...] = ()

    @property
    def kernels(self) -> float:
        """One thread's work, shared evenly, beyond the limit."""
        return (self.alone - self.call) / self.threads - self.limit

    @property
    def sharing(self) -> float:
        """What threads lose by waiting, or by having nothing to do."""
        return self.time - self.call - (self.alone - self.call) / self.threads
