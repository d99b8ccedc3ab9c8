"""Negative indices where PyTorch refuses them, made ones that ONNX Runtime refuses, too.

PyTorch raises on a negative index of an embedding; ONNX's Gather counts it from the end, so -1, a common mark
for padding, would silently read the last row. Likewise where a scatter writes.
"""

from __future__ import annotations

import torch

aten = torch.ops.aten

# Where each operator that refuses negative indices takes them.
_POSITIONS = {
    aten.embedding.default: 1,
    aten.index_select.default: 2,
    aten.gather.default: 2,
    aten.scatter.src: 2,
    aten.scatter.value: 2,
    aten.scatter_add.default: 2,
    aten.scatter_reduce.two: 2,
}


def without_negative_indices(program: torch.export.ExportedProgram) -> None:
    """Put indices that are negative beyond every table.

    Args:
        program: Changed in place. Indices that are weights or buffers stay: tracing has seen them.
    """
    fixed = {*program.graph_signature.inputs_to_parameters, *program.graph_signature.inputs_to_buffers}
    fixed |= set(program.graph_signature.inputs_to_lifted_tensor_constants)
    for part in program.graph_module.modules():
        if not isinstance(part, torch.fx.GraphModule):
            continue
        for node in list(part.graph.nodes):
            position = _POSITIONS.get(node.target)
            if position is None:
                continue
            indices = node.args[position]
            if indices.name in fixed:
                continue
            value = indices.meta["val"]
            with part.graph.inserting_before(node):
                negative = part.graph.call_function(aten.lt.Scalar, (indices, 0))
                checked = part.graph.call_function(
                    aten.masked_fill.Scalar, (indices, negative, torch.iinfo(value.dtype).max)
                )
            negative.meta = {**node.meta, "val": value < 0}
            checked.meta = {**node.meta, "val": value}
            node.update_arg(position, checked)
        part.recompile()
