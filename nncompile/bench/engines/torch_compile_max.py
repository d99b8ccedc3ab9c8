"""torch.compile at its fastest: `max-autotune`, and weights frozen into the code (inductor's `freezing`)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch._inductor import list_mode_options

from nncompile.bench.engines import Subject
from nncompile.bench.engines.torch_compile import TorchCompile, compiled

OPTIONS = {
    **list_mode_options("max-autotune"),
    "freezing": True,
    "autotune_num_choices_displayed": 0,
    "max_autotune_report_choices_stats": False,
}


@contextmanager
def opened(subject: Subject) -> Iterator[TorchCompile]:
    """The engine for a subject.

    Raises:
        EngineError: The module is not known, or there is no C++ compiler.
    """
    with compiled(subject, "torch-compile-max", "torch.compile, max-autotune, freezing", OPTIONS) as engine:
        yield engine
