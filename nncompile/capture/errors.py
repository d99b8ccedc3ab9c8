"""What went wrong in torch.export, in one sentence with the user's own line of code."""

from __future__ import annotations

import linecache
import logging
import re
import sysconfig
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

from nncompile_runtime.errors import CaptureError

_LIBRARIES = tuple(
    str(path)
    for path in (Path(torch.__file__).parent, Path(__file__).parents[1], sysconfig.get_paths()["stdlib"])
)
_SYMBOLIC_SHAPES = "torch.fx.experimental.symbolic_shapes"


def user_location(error: BaseException) -> str:
    """` at file.py:12 ("the line")` for the innermost frame of the user's code; empty without one."""
    return _describe(traceback.extract_tb(error.__traceback__))


def _describe(frames: Iterable[traceback.FrameSummary]) -> str:
    for frame in reversed(list(frames)):
        own = not frame.filename.startswith((*_LIBRARIES, "<")) or "site-packages" in frame.filename
        if own and not frame.filename.startswith(_LIBRARIES[:2]) and frame.name != "<module>":
            line = (frame.line or linecache.getline(frame.filename, frame.lineno or 0)).strip()
            return (
                f" at {frame.filename}:{frame.lineno} ({line!r})"
                if line
                else f" at {frame.filename}:{frame.lineno}"
            )
    return ""


class SizeWitness(logging.Handler):
    """Notes the user's lines at which symbolic sizes were fixed, from torch's own log.

    Attributes:
        fixed: torch's name of a dimension (`L['x'].size()[1]`) -> where it became a constant.
    """

    def __init__(self) -> None:
        """Nothing was seen yet."""
        super().__init__(logging.INFO)
        self.fixed: dict[str, str] = {}
        self._sources: dict[str, str] = {}
        self._batch: set[str] = set()  # the symbols that are known to be the batch
        self._batch_fixed = ""
        self._batch_restricted = ""

    @property
    def batch(self) -> str:
        """Where the batch became a constant, or was first restricted (to even sizes, say)."""
        return self._batch_fixed or self._batch_restricted

    def emit(self, record: logging.LogRecord) -> None:
        """Follow the symbols: the first is the batch, which is dimension 0 of the first input."""
        message, args = str(record.msg), [str(arg) for arg in record.args or ()]
        if message.startswith("create_symbol"):
            self._sources[args[0]] = args[2]
            self._batch = self._batch or {args[0]}
        elif message.startswith("set_replacement"):
            self._replaced(args[0], args[1])
        elif "[guard added]" in message and args[1].startswith("Eq(") and not self._batch_restricted:
            symbols = set(re.findall(r"s\d+", args[1]))
            if len(symbols) == 1 and symbols <= self._batch:
                self._batch_restricted = _describe(_frames_of_forward())

    def _replaced(self, symbol: str, by: str) -> None:
        if by.isdigit():
            where = _describe(_frames_of_forward())
            if symbol in self._sources:
                self.fixed.setdefault(self._sources[symbol], where)
            if symbol in self._batch:
                self._batch_fixed = self._batch_fixed or where
        elif self._batch & {symbol, by} and symbol.isidentifier() and by.isidentifier():
            self._batch |= {symbol, by}


def _frames_of_forward() -> list[traceback.FrameSummary]:
    """The stack below `capture`: those who called it did not fix the batch."""
    frames = traceback.extract_stack()
    ours = [i for i, frame in enumerate(frames) if frame.filename.startswith(_LIBRARIES[1])]
    outer = [i for i in ours if frames[i].name == "capture"]
    return frames[outer[-1] + 1 :] if outer else frames


@contextmanager
def watching_for_fixed_sizes() -> Iterator[SizeWitness]:
    """Listen to torch's own log of symbolic sizes, silently."""
    logger = logging.getLogger(_SYMBOLIC_SHAPES)
    level, handlers = logger.level, logger.handlers[:]
    witness = SizeWitness()
    logger.handlers[:] = [witness]
    logger.setLevel(logging.INFO)
    try:
        yield witness
    finally:
        logger.setLevel(level)
        logger.handlers[:] = handlers


def explain(error: Exception, witness: SizeWitness, batch_elsewhere: str = "") -> CaptureError:
    """The error to show for a failure of torch.export or of the ONNX exporter.

    Args:
        error: What was raised.
        witness: Saw which line fixed the batch.
        batch_elsewhere: A remedy where an axis that is not the first one of its input has the batch's size;
            empty where there is none.
    """
    text = str(error)
    where = user_location(error)
    if isinstance(error, GuardOnDataDependentSymNode) or "data-dependent" in text:
        return CaptureError(
            f"forward decides by a tensor's value{where}; a graph cannot branch by data in Python.",
            remedy="Use torch.where, or torch.cond with both branches as functions.",
        )
    if "Constraints violated" in text or "specialized it to be a constant" in text:
        return fixed_batch(witness, batch_elsewhere)
    missing = re.search(r"No ONNX function found for <OpOverload\(op='([^']+)'", _innermost(error))
    if missing:
        return CaptureError(
            f"The operator {missing[1]} has no ONNX translation.",
            remedy="Replace it in forward, or compute it outside the compiled module.",
        )
    lines = [line.strip() for line in (_innermost(error)).splitlines() if line.strip()]
    return CaptureError(
        f"The module cannot be captured{where}: {type(error).__name__}: {(lines or ['no message'])[0][:400]}",
        remedy="See the cause with --debug; torch.export's documentation lists what forward may do.",
    )


def fixed_batch(witness: SizeWitness, batch_elsewhere: str = "") -> CaptureError:
    """The error for a batch that became a constant; the arguments are those of `explain`."""
    mend = (
        "Write that line for any batch, which is dimension 0 (x.shape[0], -1)"
        if witness.batch
        else "Give an example whose dimension 0 is the batch, and let no layer fix it"
    )
    if batch_elsewhere:
        mend += f"; or {batch_elsewhere}"
    return CaptureError(
        f"The network fixes its batch size{witness.batch}.",
        remedy=f"{mend}; or compile with dynamic_batch=False (--static), which accepts the example's "
        "batch size only.",
    )


def _innermost(error: BaseException) -> str:
    text = str(error)
    while error.__cause__ is not None:
        error = error.__cause__
        text = str(error)
    return text
