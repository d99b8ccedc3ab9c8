"""Calls of a model on a GPU: arrays by way of pinned memory, tensors and CuPy arrays where they lie.

Streams. A session runs on a stream of its own (`user_compute_stream`), so that nothing of the caller's
waits for it unasked. For tensors, that stream first waits for the caller's current one, on which the inputs
were made and the outputs' memory was freed before; then the caller's stream waits for it. So `predict` is
to the caller an operation on the current stream like any of torch's or CuPy's: it returns before the work is
done, and what comes later on that stream, copying to the host included, comes after it. No thread waits.

For arrays, inputs cross on a second stream and outputs on a third, so that what one call copies in, the one
before computes, and the one before that copies back goes on at the same time: a GPU has an engine for each.
`start` returns when all is queued, and what it returns waits for the answer.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any, Protocol

from nncompile_runtime import batching, cuda, device_arrays
from nncompile_runtime.cuda_session import CudaSession, Memory
from nncompile_runtime.device_arrays import Library
from nncompile_runtime.driver import CudaError, Stream
from nncompile_runtime.errors import InputError
from nncompile_runtime.manifest import Signature
from nncompile_runtime.shapes import output_shapes
from nncompile_runtime.staging import Port, Staging, bytes_of

_MOST_STAGED = 2**28  # bytes of a call; larger ones are not worth the pinned memory, which the system loses
AT_ONCE = 3
"""Calls under way for which copies and kernels overlap: one copies in, one runs, one copies back."""

Feed = Mapping[str, Any]
Finish = Callable[[], list[Any]]


class Execution(Protocol):
    """What queues the work of a call between inputs and outputs that lie on the GPU."""

    @property
    def session(self) -> CudaSession:
        """Whose stream the work is queued on."""

    def run_at(self, inputs: Sequence[Memory], outputs: Sequence[Memory]) -> None:
        """Queue it."""


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
        self._execution = execution
        self._idle: list[Staging] = []
        self._outputs = [(spec.name, spec.array_dtype) for spec in signature.outputs]
        self._dtypes = {spec.name: spec.array_dtype for spec in (*signature.inputs, *signature.outputs)}
        self._output_shapes = lru_cache(maxsize=256)(partial(output_shapes, signature))
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
            feed: By graph input name, either arrays, or contiguous ones of one library on the session's GPU.

        Raises:
            InputError: ONNX Runtime could not run these inputs.
            OutOfMemoryError: The GPU's memory does not suffice.
            DeviceError: The GPU failed.
        """
        like = next(iter(feed.values()), None)
        library = device_arrays.library_of(like)
        given = tuple(tuple(feed[spec.name].shape) for spec in self._signature.inputs)
        shapes = self._output_shapes(given)
        if not self.binds or any(0 in shape for shape in (*given, *(shapes or ()))):
            outputs = self._run_by_way_of_the_host(feed, library)
        elif library is not None:
            outputs = self._run_on_the_gpu(feed, library, like, shapes)
        else:
            return self._start_arrays(feed, shapes)
        return lambda: outputs

    @property
    def _session(self) -> CudaSession:
        return self._execution.session if self._execution else self._plain

    def _run_at(self, inputs: Sequence[Memory], outputs: Sequence[Memory]) -> None:
        (self._execution or self._plain).run_at(inputs, outputs)

    def _run_by_way_of_the_host(self, feed: Feed, library: Library | None) -> list[Any]:
        """What has no bytes has no address to bind: ONNX Runtime takes the arrays itself."""
        if library is None:
            return batching.run(self._plain, self._signature, dict(feed), None)
        arrays = {name: library.to_host(value) for name, value in feed.items()}
        outputs = batching.run(self._plain, self._signature, arrays, None)
        like = next(iter(feed.values()))
        return [library.to_gpu(output, like) for output in outputs]

    def _run_on_the_gpu(
        self, feed: Feed, library: Library, like: Any, shapes: Sequence[tuple[int, ...]] | None
    ) -> list[Any]:
        caller = library.callers_stream(like)
        inputs = [self._memory(name, value, library) for name, value in feed.items()]
        session = self._session if shapes is not None else self._plain
        with session.lock, session.current():
            if session.gpu.is_capturing(caller):
                raise InputError(
                    "The caller's stream captures a CUDA graph, and predict runs on a stream of its own.",
                    remedy="Call predict outside of the capture.",
                )
            try:
                if shapes is None:
                    return self._run_to_unknown_shapes(inputs, library, like, caller)
                results = {
                    name: library.empty(dtype, shape, like)
                    for (name, dtype), shape in zip(self._outputs, shapes, strict=True)
                }
                session.stream.wait_for(caller)
                outputs = [self._memory(name, result, library) for name, result in results.items()]
                self._run_at(inputs, outputs)
                session.stream.hold_back(caller)
            except (RuntimeError, MemoryError, CudaError) as error:  # torch's, CuPy's, or the driver's
                if isinstance(error, CudaError) or cuda.missing_memory(error) is not None:
                    raise session.failure(error) from None
                raise
        return list(results.values())

    def _run_to_unknown_shapes(
        self, inputs: Sequence[Memory], library: Library, like: Any, caller: int
    ) -> list[Any]:
        """ONNX Runtime allocates; its memory is copied on the GPU, because the next run uses it again."""
        self._plain.stream.wait_for(caller)
        values = self._plain.run_to(inputs)
        results = []
        for (name, dtype), value in zip(self._outputs, values, strict=True):
            result = library.empty(dtype, value.shape(), like)
            self._plain.stream.wait_for(caller)
            memory = self._memory(name, result, library)
            if memory.size:
                self._plain.copy(memory, value.data_ptr())
            results.append(result)
        self._plain.stream.hold_back(caller)
        return results

    def _start_arrays(self, feed: Feed, shapes: Sequence[tuple[int, ...]] | None) -> Finish:
        inputs: list[Port] = [(name, array.dtype, array.shape) for name, array in feed.items()]
        outputs = [(*port, shape) for port, shape in zip(self._outputs, shapes or (), strict=False)]
        if shapes is None or bytes_of([*inputs, *outputs]) > _MOST_STAGED:
            done = self._plain.run(feed)
            return lambda: done
        session = self._session
        try:
            with session.current():
                staging = self._staging()
                staging.prepare(inputs, outputs)
                staging.fill(feed)
                with session.lock:
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
            raise self._session.failure(error) from None
        if len(self._idle) < AT_ONCE:
            self._idle.append(staging)
        return results

    def _memory(self, name: str, value: Any, library: Library) -> Memory:
        return Memory(name, self._dtypes[name], tuple(value.shape), library.address(value))
