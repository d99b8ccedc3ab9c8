"""The plans that tuning tries on a CPU: ways to share the work, then the options of the best of them."""

from __future__ import annotations

from collections.abc import Iterator

from nncompile_runtime.plan import Plan

_PIECES = (4, 16, 64)
_SPLITS = (50_000, 800_000)  # a quarter and four times of what the kernels split from on


def ways(yardstick: Plan, processors: int, batch: int, *, native: bool, cut: bool) -> list[Plan]:
    """Kernels, threads, and pieces run one after another or by several workers.

    The sizes of the pieces are spread widely because what fits a cache is measured and not known: it
    depends on all activations of the graph at once.

    Args:
        yardstick: Whose device and exactness all share.
        processors: Threads that a plan may keep busy.
        batch: Rows of the calls.
        native: Whether the model has fused regions and kernels for them.
        cut: Whether a batch may be cut.
    """
    tried: list[Plan] = []
    for kernels in (True, False) if native else (yardstick.native,):
        base = yardstick.model_copy(update={"native": kernels})
        tried += (base.model_copy(update={"threads": count}) for count in _thread_counts(processors))
        if not cut:
            continue
        if processors > 1:
            sizes = {size for size in (*_PIECES, -(-batch // processors)) if size < batch}
            tried += (
                base.model_copy(update={"threads": 1, "workers": processors, "micro_batch": size})
                for size in sorted(sizes)
            )
        tried += (base.model_copy(update={"micro_batch": size}) for size in _PIECES[1:] if size < batch)
    return tried


def variations(best: Plan, *, convolutions: bool, native: bool = False, batch: int = 1) -> list[Plan]:
    """The best way with one option changed.

    Args:
        best: What to vary.
        convolutions: Whether ONNX Runtime's own kernels run convolutions.
        native: Whether the native kernels run.
        batch: Rows of the calls.
    """
    changes = [*_changes(best, convolutions=convolutions)]
    if native and min(batch, best.micro_batch or batch) < best.threads:
        changes += ({"split": operations} for operations in _SPLITS)
    return [best.model_copy(update=change) for change in changes]


def _changes(best: Plan, *, convolutions: bool) -> Iterator[dict[str, object]]:
    if best.threads > 1:
        yield {"spinning": False}
        yield {"spin_microseconds": 100}
        yield {"spin_microseconds": 2000}
        yield {"dynamic_block_base": 4}
    yield {"memory_pattern": False}
    yield {"arena": False, "memory_pattern": False}
    if convolutions:
        yield {"blocked_layout": False}
        yield {"pointwise_channels": 64}
        yield {"pointwise_channels": 512}


def _thread_counts(processors: int) -> list[int]:
    """1, 2, 4, ... and all of them."""
    return sorted(
        {*(2**power for power in range(processors.bit_length()) if 2**power < processors), processors}
    )
