"""The plans that tuning tries on a GPU: one by one or as a graph, batches whole or in pieces; then options.

In pieces, one crosses to the GPU while the one before it is computed.
"""

from __future__ import annotations

from collections.abc import Iterator

from nncompile_runtime.buckets import LARGEST
from nncompile_runtime.container import ModelFile
from nncompile_runtime.plan import Plan

# What tensor cores compute; they take the channels last.
_ON_TENSOR_CORES = ("float16", "tf32")
_PARTS = (2, 4)
_SMALLEST_PIECE = 32


def ways(yardstick: Plan, batch: int, *, cut: bool) -> list[Plan]:
    """What there is beside launching one by one on the whole batch.

    Args:
        yardstick: Whose device all share.
        batch: Rows of the calls.
        cut: Whether a batch may be cut.
    """
    sizes = [-(-batch // parts) for parts in _PARTS] if cut else []
    pieces = [None, *(size for size in sizes if size >= _SMALLEST_PIECE)]
    tried = [yardstick.model_copy(update={"micro_batch": size}) for size in pieces[1:]]
    return tried + [
        yardstick.model_copy(update={"micro_batch": size, "cuda_graph": True})
        for size in pieces
        if (size or batch) <= LARGEST
    ]


def variations(best: Plan, model: ModelFile) -> list[Plan]:
    """The better way with one option changed, or two that go together.

    Args:
        best: What to vary.
        model: The graph; its operators and its precision decide what may help.
    """
    return [best.model_copy(update=change) for change in _changes(model)]


def _changes(model: ModelFile) -> Iterator[dict[str, object]]:
    yield {"arena_strategy": "kSameAsRequested"}
    operators = model.facts.operators
    if not {"Conv", "FusedConv"} & operators.keys():
        return
    yield {"cudnn_search": "heuristic"}
    precision = model.manifest.precision if model.manifest else "float32"
    if precision in _ON_TENSOR_CORES and "FusedConv" not in operators:
        yield {"channels_last": True}
        yield {"channels_last": True, "cudnn_search": "heuristic"}
