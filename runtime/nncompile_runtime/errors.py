"""The errors a user can meet. Each says what failed and where; `remedy` says what to do."""

from __future__ import annotations


class NncompileError(Exception):
    """Base of every error that nncompile raises on purpose.

    Args:
        problem: What failed and where, as one sentence.
        remedy: What the reader can do about it, as one sentence.

    Attributes:
        problem: The first argument.
        remedy: The second argument; empty where there is nothing to add.
    """

    def __init__(self, problem: str, *, remedy: str = "") -> None:
        """Say what failed, and what to do."""
        super().__init__(problem, remedy)
        self.problem = problem
        self.remedy = remedy

    def __str__(self) -> str:
        """The problem, followed by the remedy."""
        stop = "" if self.problem.endswith((".", "!", "?", ":")) or not self.remedy else "."
        return f"{self.problem}{stop} {self.remedy}".rstrip()

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle by keyword, so that errors cross process boundaries whole."""
        return _rebuild, (type(self), self.problem, self.remedy)


def _rebuild(cls: type[NncompileError], problem: str, remedy: str) -> NncompileError:
    return cls(problem, remedy=remedy)


class CaptureError(NncompileError):
    """The module could not be turned into a graph."""


class PassError(NncompileError):
    """A graph pass left the graph malformed, or an unknown pass was asked for."""


class VerificationError(NncompileError):
    """The compiled graph does not answer as eager PyTorch does."""


class ModelLoadError(NncompileError):
    """A model file is missing, damaged, refused, or ONNX Runtime is not installed properly."""


class InputError(NncompileError):
    """An argument of `predict` has the wrong name, type, dtype, rank or shape."""


class DeviceError(NncompileError):
    """The requested device cannot be had."""


class OutOfMemoryError(DeviceError):
    """The memory of a GPU does not suffice for a call; a smaller one may follow."""


class PlanError(NncompileError):
    """An execution plan is invalid."""
