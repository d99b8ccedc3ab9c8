"""Whether a graph takes rows of a batch together, told from the sizes that its operators take and give.

Answers alone cannot show it: a mask that is true everywhere, as in many an example, is the same for any rows,
and so is `mask.any(0)` of it. A later mask would be cut to pieces of which each has another answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import onnx_ir as ir

from nncompile_runtime.manifest import Signature

_SIZES_ALONE = frozenset({"Shape", "Size"})  # they read no element
_SAME_ELEMENTS = frozenset({"Reshape", "Unsqueeze", "Squeeze", "Cast", "Identity"})
_TO_THE_END = 2**31 - 1


def keeps_rows_apart(model: ir.Model, signature: Signature) -> bool:
    """Whether no node joins rows of the batch, as far as sizes tell.

    Args:
        model: As captured: its tensors have the sizes that torch.export found.
        signature: The model's.
    """
    return signature.batch is None or joining_node(model.graph, signature.batch) is None


def joining_node(graph: ir.Graph, batch: str) -> ir.Node | None:
    """The first node whose result may hold several rows of the batch in one, or each in another's place.

    It takes a tensor with the batch and gives one without: a sum, a maximum, a row that all others are
    compared with. Or it works along the batch itself: a sum so far, an order, places to take from. A tensor
    within an operator's translation, of which the graph has no sizes, has the batch where its source has.

    Args:
        graph: As captured.
        batch: The symbol of the batch; sizes computed from it count, and so do those that depend on data.
    """
    symbol = re.compile(rf"\b({re.escape(batch)}|u\d+)\b")
    with_rows: set[ir.Value] = set()
    for node in ir.traversal.RecursiveGraphIterator(graph):
        for value in node.inputs:
            if value is not None and _batch_axes(value, symbol):
                with_rows.add(value)
        if node.op_type in _SIZES_ALONE:
            continue
        read = node.inputs[:1] if node.op_type == "CastLike" else node.inputs
        if not any(value in with_rows for value in read):
            continue
        for output in node.outputs:
            if output.shape is not None and not _batch_axes(output, symbol):
                return node
        with_rows.update(node.outputs)
        if _batch_axes(node.inputs[0], symbol) & set(_axes_worked_along(node)):
            return node
    return None


def _batch_axes(value: ir.Value | None, symbol: re.Pattern[str]) -> set[int]:
    """The axes whose size depends on the batch, or is not known."""
    if value is None or value.shape is None:
        return set()
    sizes = (size if isinstance(size, int) else size.value for size in value.shape)
    return {axis for axis, size in enumerate(sizes) if size is None or symbol.search(str(size))}


def _axes_worked_along(node: ir.Node) -> Iterator[int]:
    """The axes of the first input along which elements change places or are put together."""
    shape = node.inputs[0].shape if node.inputs[0] is not None else None
    rank = 0 if shape is None else len(shape)
    if node.op_type in _ALONG_ONE:
        attribute = node.attributes.get("axis")
        default = _ALONG_ONE[node.op_type]
        yield (default if attribute is None else attribute.as_int()) % max(rank, 1)
    elif node.op_type == "CumSum":
        yield from (axis % max(rank, 1) for axis in _numbers(node, 1) or range(rank))
    elif node.op_type == "Slice":
        starts, ends, steps = _numbers(node, 1), _numbers(node, 2), _numbers(node, 4)
        for place, axis in enumerate(_numbers(node, 3) or range(rank)):
            forward = len(node.inputs) < 5 or steps[place : place + 1] == [1]
            to_the_end = any(end >= _TO_THE_END for end in ends[place : place + 1])
            if not (forward and to_the_end and starts[place : place + 1] == [0]):
                yield axis % max(rank, 1)


_ALONG_ONE = {
    "Gather": 0,
    "GatherElements": 0,
    "Hardmax": -1,
    "LogSoftmax": -1,
    "LpNormalization": -1,
    "ScatterElements": 0,
    "Softmax": -1,
    "TopK": -1,
}


def _numbers(node: ir.Node, index: int) -> list[int]:
    """The elements of a constant input, however it was reshaped; none where it is left out or computed."""
    value = node.inputs[index] if len(node.inputs) > index else None
    while value is not None and (maker := value.producer()) and maker.op_type in _SAME_ELEMENTS:
        value = maker.inputs[0]
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    return [] if tensor is None else [int(number) for number in tensor.numpy().reshape(-1)]
