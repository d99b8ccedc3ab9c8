"""Eager PyTorch: the module itself in evaluation mode under `torch.inference_mode`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from nncompile.bench.engines import Array, EngineError, Feed, Subject
from nncompile.calling import Calling, evaluation_mode


class Eager:
    """A module behind numpy arrays, which `from_numpy` and `numpy` share without a copy."""

    name = "eager"
    compile_seconds = 0.0
    reopens = False

    def __init__(self, module: torch.nn.Module, calling: Calling, threads: int) -> None:
        """Prepare to call `module`."""
        self.description = f"PyTorch {torch.__version__}, eager, inference_mode"
        self.threads: int | None = threads
        self._names = calling.names
        self._call = calling.adapt(module)

    def run(self, feed: Feed) -> list[Array]:
        """All outputs of the module."""
        inputs = [torch.from_numpy(feed[name]) for name in self._names]
        with torch.inference_mode():
            outputs = self._call(inputs)
        return [output.numpy() for output in outputs]


@contextmanager
def opened(subject: Subject) -> Iterator[Eager]:
    """The engine for a subject; torch's thread count is the subject's meanwhile.

    Raises:
        EngineError: The module is not known.
    """
    with module_at_hand(subject) as module:
        yield Eager(module, Calling(subject.signature), subject.threads)


@contextmanager
def module_at_hand(subject: Subject) -> Iterator[torch.nn.Module]:
    """The subject's module in evaluation mode, and torch computing with the subject's threads meanwhile.

    Raises:
        EngineError: The module is not known.
    """
    module = subject.module
    if module is None:
        raise EngineError(
            "No module was given, and a model file alone does not hold one.",
            remedy="Give the module that the file was compiled from.",
        )
    threads = torch.get_num_threads()
    torch.set_num_threads(subject.threads)
    try:
        with evaluation_mode(module):
            yield module
    finally:
        torch.set_num_threads(threads)
