"""One call of a graph, again and again on the same values: what the time of a layer is taken of.

The values lie where the graph runs, so a call is the graph's own work and one wait for its end: nothing is
copied, checked or allocated. The time of `predict` holds all that, and drowns a layer of a few microseconds.
"""

from __future__ import annotations

from collections.abc import Mapping

from nncompile_runtime.container import ModelFile
from nncompile_runtime.cuda_session import CudaSession, Memory
from nncompile_runtime.driver import Block
from nncompile_runtime.errors import DeviceError
from nncompile_runtime.inputs import Array
from nncompile_runtime.plan import Plan
from nncompile_runtime.session import Session
from nncompile_runtime.shapes import Port
from nncompile_runtime.staging import packed

Arrays = Mapping[str, Array]


class RepeatedCall:
    """A graph on values of the host; not for several threads."""

    def __init__(self, session: Session, feed: Arrays, outputs: Arrays) -> None:
        """Run a session on `feed`; see `repeated_call`."""
        self._session, self._feed, self._outputs = session, feed, outputs

    def __call__(self) -> None:
        """Run once, and wait until it is done.

        Raises:
            InputError: ONNX Runtime could not run these inputs, or an output has another shape.
            DeviceError: The GPU failed, or has too little memory.
        """
        self._session.run_into(self._feed, list(self._outputs.items()))

    def answer(self) -> list[Array]:
        """What the last call computed."""
        return list(self._outputs.values())


class _OnGpu(RepeatedCall):
    """The same on values that lie on a GPU."""

    _session: CudaSession

    def __init__(self, session: CudaSession, feed: Arrays, outputs: Arrays) -> None:
        super().__init__(session, feed, outputs)
        arrays = {**feed, **outputs}
        ports = [Port(name, array.dtype, array.shape, array.nbytes) for name, array in arrays.items()]
        offsets, size = packed(ports)
        with session.current():
            self._block = Block(session.gpu, size)
            placed = [Memory(port, self._block.address + at) for port, at in zip(ports, offsets, strict=True)]
            self._inputs, self._results = placed[: len(feed)], placed[len(feed) :]
            for (name, _, _, size), address in self._inputs:
                self._copy(address, feed[name].ctypes.data, size)
            session.stream.synchronize()

    def __call__(self) -> None:
        with self._session.current():
            self._session.run_at(self._inputs, self._results)
            self._session.stream.synchronize()

    def answer(self) -> list[Array]:
        with self._session.current():
            for (name, _, _, size), address in self._results:
                self._copy(self._outputs[name].ctypes.data, address, size)
            self._session.stream.synchronize()
        return super().answer()

    def _copy(self, to: int, source: int, size: int) -> None:
        self._session.gpu.copy(to, source, size, self._session.stream.handle)


def repeated_call(model: ModelFile, plan: Plan, feed: Arrays, outputs: Arrays) -> RepeatedCall:
    """Open a session, and put the inputs where it reads them.

    Args:
        model: The graph.
        plan: How to run it; with `cuda_graph` the first call captures, and the others replay.
        feed: All of its inputs by name, contiguous.
        outputs: Contiguous arrays for all of its outputs, of their shapes and dtypes.

    Raises:
        ModelLoadError: ONNX Runtime refuses the graph.
        DeviceError: The plan's device cannot be had, or not all values can lie there.
        CudaError: The GPU has too little memory.
    """
    if plan.provider == "cpu":
        return RepeatedCall(Session(model, plan), feed, outputs)
    session = CudaSession(model, plan.session, capture=plan.cuda_graph)
    if not session.binds:
        raise DeviceError(
            f"{model.name} takes or returns values that ONNX Runtime wants on the host.",
            remedy="Take the time of predict instead.",
        )
    return _OnGpu(session, feed, outputs)
