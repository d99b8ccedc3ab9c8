"""The plans that tuning tries on a GPU: kernels one by one or as a graph, then the options of the better."""

from __future__ import annotations

from collections.abc import Iterator

from nncompile_runtime.buckets import LARGEST
from nncompile_runtime.container import ModelFile
from nncompile_runtime.plan import Plan

# What tensor cores compute; they take the channels last.
_ON_TENSOR_CORES = ("float16", "tf32")


def ways(yardstick: Plan, batch: int) -> list[Plan]:
    """What there is beside launching one by one, for calls of `batch` rows."""
    return [yardstick.model_copy(update={"cuda_graph": True})] if batch <= LARGEST else []


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
