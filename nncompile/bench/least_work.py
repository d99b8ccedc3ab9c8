"""The fewest operations that each node of a graph can be computed with, Winograd's algorithm where it runs.

That algorithm takes (r + 3)^2 products for 4 x 4 results of an r x r convolution, F(4 x 4, r x r), where the
definition takes 16 r^2. Along the rows alone, F(4, r) for each row of the kernel, it takes r (r + 3) for 4
results, where the definition takes 4 r^2. Its transforms count nothing (A. Lavin, S. Gray, "Fast Algorithms
for Convolutional Neural Networks", 2016).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

import onnx
import onnx_ir as ir
from onnx import inliner
from onnx_ir.passes import common

from nncompile.costs import NodeCost, graph_cost
from nncompile_runtime.kernels import Layer

_TILE = 4  # results of a tile along an axis


def plain_graph(data: bytes) -> ir.Model:
    """A model with the nodes of its functions in place, constants as initializers, and shapes inferred."""
    model = ir.from_proto(inliner.inline_local_functions(onnx.load_from_string(data)))
    model.metadata_props.clear()  # the manifest is that of the whole file
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    common.ShapeInferencePass(check_type=False, strict_mode=False)(model)
    return model


def fewest_flops(
    model: ir.Model, batch: int, symbol: str | None, layers: Collection[Layer]
) -> tuple[int, ...]:
    """Operations of each node of a graph without functions.

    Args:
        model: The graph.
        batch: What the batch counts as.
        symbol: Name of the batch.
        layers: What the native kernels chose.
    """
    chosen = {layer.name: layer for layer in layers if layer.winograd}
    costs = graph_cost(model, batch, symbol).nodes
    return tuple(
        (cost.flops or 0) - _spared(node, cost, chosen) for node, cost in zip(model.graph, costs, strict=True)
    )


def _spared(node: ir.Node, cost: NodeCost, chosen: Mapping[str, Layer]) -> int:
    """Operations of a node that Winograd's algorithm does without."""
    weight = node.inputs[1] if node.op_type == "Conv" else None
    if weight is None or weight.shape is None or len(weight.shape) != 4 or cost.shape is None:
        return 0
    outputs, channels, kernel, _ = (int(size) for size in weight.shape if isinstance(size, int))
    samples, _, height, width = (size or 0 for size in cost.shape)
    layer = chosen.get(f"{'x'.join(map(str, weight.shape))}@{height}x{width}")
    if layer is None:
        return 0
    points, across, down = kernel + _TILE - 1, math.ceil(width / _TILE), math.ceil(height / _TILE)
    products = across * points * (height * kernel if layer.rows else down * points)
    return 2 * samples * outputs * channels * max(0, height * width * kernel**2 - products)
