"""Calls of a model on a GPU: arrays by way of pinned memory, tensors and CuPy arrays where they lie.

Streams. A session runs on a stream of its own (`user_compute_stream`), so that nothing of the caller's
waits for it unasked. For tensors, that stream first waits for the caller's current one, on which the inputs
were made and the outputs' memory was freed before; then the caller's stream waits for it. So `predict` is
to the caller an operation on the current stream like any of torch's or CuPy's: it returns before the work is
done, and what comes later on that stream, copying to the host included, comes after it. No thread waits.

For arrays, inputs cross on a second stream and outputs on a third, so that what one call copies in, the one
before computes, and the one before that copies back goes on at the same time: a GPU has an engine for each.
Small ones on a CUDA graph cross on its own stream, straight into its memory and out of it. `start` returns
when all is queued, and what it returns waits for the answer.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any, Protocol

from nncompile_runtime import batching, cuda
from nncompile_runtime.cuda_session import CudaSession, Memory
from nncompile_runtime.device_arrays import Library, taker_of
from nncompile_runtime.driver import CudaError, Stream
from nncompile_runtime.errors import InputError, OutOfMemoryError
from nncompile_runtime.inputs import Array
from nncompile_runtime.manifest import Signature
from nncompile_runtime.shapes import Ports, ports_of
from nncompile_runtime.staging import Staging
from nncompile_runtime.streams import AT_ONCE

# Bytes of a call that should cross in less time than this saves: copies on the GPU, and waits.
_MOST_DIRECT = 2**16
_MOST_STAGED = 2**28  # bytes of a call; larger ones are not worth the pinned memory, which the system loses

Feed = Mapping[str, Any]
Finish = Callable[[], list[Any]]


class Execution(Protocol):
    """What queues the work of a call that copies its inputs from, and its outputs to, wherever they lie."""

    @property
    def session(self) -> CudaSession:
        """Whose stream the work is queued on."""

    def run_at(self, inputs: Sequence[Memory], outputs: Sequence[Memory]) -> None:
        """Queue it; all lie on the GPU, or in pinned memory."""


class DeviceRunner:
    """Runs checked feeds on a GPU. May be called from several threads."""

    def __init__(
        self, session: CudaSession, signature: Signature, execution: Execution | None = None
    ) -> None:
        """Run in `session`.

        Args:
            session: Runs what `execution` cannot: outputs of unknown shapes, empty and very large calls.
            signature: The model's.
            execution: Runs the others, in the session's place.
        """
        self._plain, self._signature = session, signature
        self._session = execution.session if execution else session
        self._run_at = (execution or session).run_at
        self._most_direct = _MOST_DIRECT if execution else -1
        self._idle: list[Staging] = []
        self._ports = lru_cache(maxsize=256)(partial(ports_of, signature))
        with session.current():
            self._inward, self._outward = Stream(session.gpu), Stream(session.gpu)

    @property
    def binds(self) -> bool:
        """Whether inputs and outputs lie on the GPU; else calls go by way of the host."""
        return self._plain.binds

    def through(self, execution: Execution) -> DeviceRunner:
        """A runner of the same model that runs what it can by `execution`."""
        return DeviceRunner(self._plain, self._signature, execution)

    def __call__(self, feed: Feed) -> list[Any]:
        """Run and return the outputs: arrays for arrays, tensors for tensors, CuPy's arrays for those."""
        return self.start(feed)()

    def start(self, feed: Feed) -> Finish:
        """Begin a call; what this returns waits for its end and gives the outputs.

        Args:
            feed: By graph input name, in the graph's order, either arrays, or contiguous ones of one library
                on the session's GPU.

        Raises:
            InputError: ONNX Runtime could not run these inputs.
            OutOfMemoryError: The GPU's memory does not suffice.
            DeviceError: The GPU failed.
        """
        try:
            return self._begun(feed)
        except OutOfMemoryError:
            self._idle.clear()  # the next call may need what it holds
            raise

    def _begun(self, feed: Feed) -> Finish:
        values = list(feed.values())
        ports = self._ports(tuple([value.shape for value in values]))
        library = taker_of(values[0]) if values else None
        if ports.empty or not self._plain.binds:
            outputs = self._run_by_way_of_the_host(feed, library)
        elif library is not None:
            outputs = self._run_on_the_gpu(values, library, ports)
        else:
            return self._start_arrays(feed, values, ports)
        return lambda: outputs

    def _run_by_way_of_the_host(self, feed: Feed, library: Library | None) -> list[Any]:
        """What has no bytes has no address to bind: ONNX Runtime takes the arrays itself."""
        if library is None:
            return batching.run(self._plain, self._signature, dict(feed), None)
        arrays = {name: library.to_host(value) for name, value in feed.items()}
        outputs = batching.run(self._plain, self._signature, arrays, None)
        like = next(iter(feed.values()))
        return [library.to_gpu(output, like) for output in outputs]

    def _run_on_the_gpu(self, values: Sequence[Any], library: Library, ports: Ports) -> list[Any]:
        like, address = values[0], library.address
        caller = library.callers_stream(like)
        inputs = [Memory(port, address(value)) for port, value in zip(ports.inputs, values, strict=True)]
        session = self._session if ports.outputs is not None else self._plain
        with session.lock, session.current():
            if session.gpu.is_capturing(caller):
                raise InputError(
                    "The caller's stream captures a CUDA graph, and predict runs on a stream of its own.",
                    remedy="Call predict outside of the capture.",
                )
            try:
                if ports.outputs is None:
                    return self._run_to_unknown_shapes(inputs, library, like, caller)
                results = [library.empty(port.dtype, port.shape, like) for port in ports.outputs]
                session.stream.wait_for(caller)
                places = zip(ports.outputs, results, strict=True)
                self._run_at(inputs, [Memory(port, address(result)) for port, result in places])
                session.stream.hold_back(caller)
            except (RuntimeError, MemoryError, CudaError) as error:  # torch's, CuPy's, or the driver's
                if isinstance(error, CudaError) or cuda.missing_memory(error) is not None:
                    raise session.failure(error) from None
                raise
        return results

    def _run_to_unknown_shapes(
        self, inputs: Sequence[Memory], library: Library, like: Any, caller: int
    ) -> list[Any]:
        """ONNX Runtime allocates; its memory is copied on the GPU, because the next run uses it again."""
        self._plain.stream.wait_for(caller)
        values = self._plain.run_to(inputs)
        results = []
        for spec, value in zip(self._signature.outputs, values, strict=True):
            result = library.empty(spec.array_dtype, value.shape(), like)
            self._plain.stream.wait_for(caller)
            size = math.prod(value.shape()) * spec.array_dtype.itemsize
            if size:
                stream = self._plain.stream
                stream.gpu.copy(library.address(result), value.data_ptr(), size, stream.handle)
            results.append(result)
        self._plain.stream.hold_back(caller)
        return results

    def _start_arrays(self, feed: Feed, arrays: Sequence[Array], ports: Ports) -> Finish:
        if ports.outputs is None or ports.size > _MOST_STAGED:
            done = self._plain.run(feed)
            return lambda: done
        session = self._session
        try:
            with session.current():
                staging = self._staging()
                staging.prepare(ports)
                staging.fill(arrays)
                with session.lock:
                    if ports.size <= self._most_direct:
                        self._run_at(staging.pinned_inputs, staging.pinned_outputs)
                        staging.end_on(session.stream)
                    else:
                        staging.send(self._inward, session.stream)
                        self._run_at(staging.inputs, staging.outputs)
                        staging.fetch(self._outward, session.stream)
        except CudaError as error:
            raise session.failure(error) from None
        return lambda: self._finished(staging)

    def _staging(self) -> Staging:
        with contextlib.suppress(IndexError):
            return self._idle.pop()
        return Staging(self._plain.gpu)

    def _finished(self, staging: Staging) -> list[Any]:
        try:
            with self._plain.current():
                results = staging.results()
        except CudaError as error:
            self._idle.clear()
            raise self._session.failure(error) from None
        if len(self._idle) < AT_ONCE:
            self._idle.append(staging)
        return results
