"""What a check is, what it finds, and the table of all checks in the order in which they run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from models.gpu_check.context import Context


class NotRunError(Exception):
    """Something that cannot be looked at here; the message says why."""


Verdict = Literal["passed", "failed", "not run", "told"]


@dataclass(frozen=True)
class Finding:
    """One thing that a check looked at.

    Attributes:
        what: What was looked at.
        verdict: `passed` or `failed`; `not run` where it could not be looked at; `told` for figures that are
            neither right nor wrong.
        said: The figures, or what is wrong, or why it was not run.
    """

    what: str
    verdict: Verdict
    said: str

    @classmethod
    def of(cls, what: str, passed: bool, said: str) -> Finding:
        """One that was looked at."""
        return cls(what, "passed" if passed else "failed", said)


@dataclass(frozen=True)
class Check:
    """One check.

    Attributes:
        name: What it is chosen by.
        seconds: How long it may take at least, the start of its process included: checks before it must
            leave as much, and what is not needed for those after it is added.
        place: Module and function, which takes a `Context` and yields findings.
        about: What it proves, in one line.
        gpu_only: Whether it means nothing on the CPU.
        complete: Whether nothing is proved as long as a finding of it was not run.
    """

    name: str
    seconds: int
    place: str
    about: str
    gpu_only: bool = False
    complete: bool = False

    def findings(self, context: Context) -> Iterator[Finding]:
        """Look; one finding after the other, as they are found.

        Raises:
            NotRunError: It cannot be looked at here.
        """
        if self.gpu_only and not context.on_gpu:
            raise NotRunError("it makes sense on a GPU only")
        module, function = self.place.split(":")
        find: Callable[[Context], Iterator[Finding]] = getattr(
            import_module(f"models.gpu_check.{module}"), function
        )
        yield from find(context)


CHECKS = (
    Check("compile", 10, "preparing:there", "every network was compiled in every precision", complete=True),
    Check(
        "answers",
        80,
        "answers:answers",
        "answers on the device are those of eager PyTorch in float64",
        complete=True,
    ),
    Check(
        "refusals", 12, "strictness:refusals", "what must be refused is refused, by its name", complete=True
    ),
    Check(
        "placement", 20, "strictness:placement", "what ran, ran on the device, node by node", complete=True
    ),
    Check("copies", 28, "strictness:copies", "tensors on the GPU are not copied to the host", True, True),
    Check(
        "exchange",
        12,
        "exchange:exchange",
        "CuPy's arrays, and other libraries' by DLPack, share memory",
        complete=True,
    ),
    Check("overlap", 12, "overlap:overlap", "a stream of arrays is copied while the GPU computes", True),
    Check("memory", 22, "memory:flat", "memory stays the same over a thousand calls", complete=True),
    Check(
        "out-of-memory", 28, "memory:out_of_memory", "too large a call fails by name, the next succeeds", True
    ),
    Check(
        "ragged", 40, "behaviour:ragged", "batches of any size answer as the plain plan does", complete=True
    ),
    Check("queued", 14, "concurrency:queued", "predict returns before the GPU is done", True, True),
    Check("concurrent", 25, "concurrency:concurrent", "callers in eight threads get their own answers"),
    Check(
        "layers", 16, "layers:layers", "a layer and its activation, fused in several ways: what is fastest"
    ),
    Check("ceilings", 15, "speed:ceilings", "what the device allows, measured"),
    Check("speed-small", 65, "speed:small", "batch 1 against torch.compile and ONNX Runtime", complete=True),
    Check(
        "speed-resnet18",
        80,
        "speed:resnet18",
        "float16, batch 256, against torch.compile max-autotune",
        complete=True,
    ),
)
