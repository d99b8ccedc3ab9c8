"""The plans that tuning tries on a GPU: one by one or as a graph, batches whole or in pieces; then options.

In pieces, one crosses to the GPU while the one before it is computed. `workers` stays what it is: a call runs
on one session, so that more serve several callers, and tuning times one.
"""

from __future__ import annotations

from collections.abc import Iterator

from nncompile_runtime.buckets import LARGEST
from nncompile_runtime.container import ModelFile
from nncompile_runtime.cuda_options import unsuited
from nncompile_runtime.plan import Plan

# What tensor cores compute; they take the channels last. Convolutions of bfloat16 have no such kernel.
_ON_TENSOR_CORES = ("float16", "tf32")
_SEARCHES = ("exhaustive", "heuristic")
_LAYOUTS = ((False, False), (True, False), (True, True))  # channels_last, fuse_bias
_PARTS = (2, 4)
_SMALLEST_PIECE = 32


def ways(untuned: Plan, batch: int, *, cut: bool) -> list[Plan]:
    """What there is beside launching one by one on the whole batch.

    Args:
        untuned: The default plan, whose device and layout all share.
        batch: Rows of the calls.
        cut: Whether a batch may be cut.
    """
    sizes = [-(-batch // parts) for parts in _PARTS] if cut else []
    pieces = [None, *(size for size in sizes if size >= _SMALLEST_PIECE)]
    tried = [untuned.model_copy(update={"micro_batch": size}) for size in pieces[1:]]
    return tried + [
        untuned.model_copy(update={"micro_batch": size, "cuda_graph": True})
        for size in pieces
        if (size or batch) <= LARGEST
    ]


def variations(best: Plan, model: ModelFile) -> list[Plan]:
    """The better way with one option changed, or those of convolutions, which go together.

    Args:
        best: What to vary.
        model: The graph; its operators and its precision decide what may help.
    """
    varied = [best.model_copy(update=change) for change in _changes(model)]
    return [
        plan for plan in varied if plan != best and not unsuited(plan, model.facts.operators, model.precision)
    ]


def _changes(model: ModelFile) -> Iterator[dict[str, object]]:
    yield {"arena_strategy": "kSameAsRequested"}
    operators = model.facts.operators
    if not {"Conv", "FusedConv"} & operators.keys():
        return
    if "FusedConv" in operators:
        yield {"cudnn_max_workspace": False}  # nothing for Conv
    on_tensor_cores = model.precision in _ON_TENSOR_CORES
    for last, fused in _LAYOUTS if on_tensor_cores else _LAYOUTS[:1]:
        for search in _SEARCHES:
            yield {"channels_last": last, "fuse_bias": fused, "cudnn_search": search}
