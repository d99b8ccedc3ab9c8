"""What each node of a graph costs: floating-point operations, bytes read and written, parameters.

Formulas, with `out` and `in` for the elements of the first output and the first input:

    Conv                          2 out (channels in / group) (kernel size), + out for a bias
    ConvTranspose                 2 in (channels out / group) (kernel size), + out for a bias
    Gemm                          2 out K, + out for C
    MatMul                        2 out K
    RNN, GRU, LSTM                2 steps (elements of W + elements of R), steps counted for each row
    MaxPool, AveragePool, LpPool  out (window size)
    Global pools, Reduce*, Arg*   in
    elementwise operators         out, however many instructions a function such as Erf takes
    BatchNormalization            2 out (a scale and a shift)
    Softmax, LogSoftmax           5 out (largest, difference, exponential, sum, quotient)
    Layer-, Instance-, Group-, RMSNormalization
                                  7 out (mean, difference, square, sum, quotient, scale, shift)
    data movement                 0

A multiply-add is two operations, and a bias one for each element, so that fusing MatMul and Add into Gemm
changes no total. Bytes are those of all distinct inputs, weights included, and outputs; what only looks at
a shape reads nothing, and what picks elements reads as much as it writes. Parameters are the elements of
weights that are neither int64 (shapes, axes, indices) or bool, nor scalars (the bounds of a Clip).

The call of a function, such as a fused region, is one node: it computes what the nodes of the function
compute, and reads and writes what it takes and returns.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

Shape = tuple[int | None, ...]


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_STANDARD = ("", "ai.onnx", "com.microsoft")
_MOVEMENT = _words(
    """
    Cast CastLike Compress Concat Constant ConstantOfShape DepthToSpace Dropout Expand EyeLike
    Flatten Gather GatherElements GatherND Identity OneHot Pad Range Reshape ReverseSequence
    ScatterElements ScatterND Shape Size Slice SpaceToDepth Split Squeeze Tile Transpose Trilu
    Unsqueeze
    """
)
_ELEMENTWISE = _words(
    """
    Abs Acos Acosh Add And Asin Asinh Atan Atanh BiasGelu BitShift BitwiseAnd BitwiseNot BitwiseOr
    BitwiseXor Ceil Celu Clip Cos Cosh DequantizeLinear Div Elu Equal Erf Exp FastGelu Floor Gelu
    Greater GreaterOrEqual HardSigmoid HardSwish IsInf IsNaN LeakyRelu Less LessOrEqual Log Mish Mod
    Mul Neg Not Or PRelu Pow QuantizeLinear QuickGelu Reciprocal Relu Round Selu Shrink Sigmoid Sign
    Sin Sinh Softplus Softsign Sqrt Sub Swish Tan Tanh ThresholdedRelu Where Xor
    """
)
_VARIADIC = frozenset({"Max", "Mean", "Min", "Sum"})
_PER_ELEMENT = {
    "BatchNormalization": 2,
    "Softmax": 5,
    "LogSoftmax": 5,
    **dict.fromkeys(
        ("LayerNormalization", "InstanceNormalization", "GroupNormalization", "RMSNormalization"), 7
    ),
}
_POOLS = frozenset({"MaxPool", "AveragePool", "LpPool"})
_OVER_INPUT = ("Global", "Reduce", "ArgM")
_READS_NOTHING = frozenset({"Shape", "Size"})
_PICKS = frozenset({"Gather", "GatherElements", "GatherND", "Slice"})


@dataclass(frozen=True)
class NodeCost:
    """What one node costs; None is what cannot be told.

    Attributes:
        name: The node.
        operator: Its operator, with the domain where that is not ONNX's own.
        shape: Sizes of its first output; None where the rank is not known.
        flops: Floating-point operations.
        bytes: Bytes read and written.
        parameters: Elements of the weights that it reads.
        contains: Operators of the nodes of its function, Constant apart; empty where it is no call.
    """

    name: str
    operator: str
    shape: Shape | None
    flops: int | None
    bytes: int | None
    parameters: int
    contains: tuple[str, ...] = ()


@dataclass(frozen=True)
class Totals:
    """Sums over the nodes.

    Attributes:
        nodes: How many nodes.
        flops: Floating-point operations of the nodes where they are known.
        bytes: Bytes of the nodes where they are known.
        parameters: Elements of all weights; one that several nodes read counts once.
        unknown: Nodes whose operations or bytes are not known: with any, the sums are lower bounds.
    """

    nodes: int
    flops: int
    bytes: int
    parameters: int
    unknown: int


@dataclass(frozen=True)
class GraphCost:
    """What a graph costs.

    Attributes:
        batch: What the batch counted as.
        nodes: One for each node of the graph, in order; those inside If, Loop and Scan are not counted.
        totals: The sums.
    """

    batch: int
    nodes: tuple[NodeCost, ...]
    totals: Totals

    def operators(self) -> dict[str, int]:
        """How often each operator occurs, by name, functions and what they contain included."""
        names = (name for node in self.nodes for name in (node.operator, *node.contains))
        return dict(sorted(Counter(names).items()))


def graph_cost(model: ir.Model, batch: int = 1, symbol: str | None = None) -> GraphCost:
    """Count what a graph costs; the model stays as it is.

    Args:
        model: Its shapes are used where it has them; the others are inferred.
        batch: What the batch counts as.
        symbol: Name of the batch; None takes dimension 0 of the first input that has a name there.
    """
    model = model.clone()
    symbol = symbol or _first_symbol(model.graph.inputs)
    if symbol is not None:
        _fix(model, symbol, batch)
    if any(_known(value) is None for node in model.graph for value in node.outputs if value.name):
        # Not strict: where one operator is not known, the shapes of the others still are.
        ShapeInferencePass(check_type=False, strict_mode=False)(model)
        _settle_biases(model.graph)
    nodes = tuple(_node_cost(node, model.functions.get(node.op_identifier())) for node in model.graph)
    weights = {id(value): value for node in model.graph for value in node.inputs if _is_parameter(value)}
    totals = Totals(
        nodes=len(nodes),
        flops=sum(node.flops or 0 for node in nodes),
        bytes=sum(node.bytes or 0 for node in nodes),
        parameters=sum(_known(value) or 0 for value in weights.values()),
        unknown=sum(node.flops is None or node.bytes is None for node in nodes),
    )
    return GraphCost(batch, nodes, totals)


def _first_symbol(inputs: Iterable[ir.Value]) -> str | None:
    for value in inputs:
        if value.shape and isinstance(value.shape[0], ir.SymbolicDim) and value.shape[0].value:
            return value.shape[0].value
    return None


def _fix(model: ir.Model, symbol: str, size: int) -> None:
    """Give a free dimension a size wherever it occurs, in expressions such as `4*batch` too."""
    graphs = (model.graph, *(function.graph for function in model.functions.values()))
    for value in (value for graph in graphs for value in _values(graph)):
        if value.shape is not None:
            value.shape = ir.Shape([_evaluated(dim, symbol, size) for dim in value.shape])


def _settle_biases(graph: ir.Graph) -> None:
    """The exporter computes a bias of zeros, at whose length ONNX's inference gives up."""
    for node in graph:
        bias, weight = _input(node, 2), _shape(_input(node, 1))
        if node.op_type == "Conv" and bias is not None and _known(bias) is None and weight:
            bias.shape = ir.Shape(weight[:1])


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.inputs
    for node in graph.all_nodes():
        yield from node.outputs


def _evaluated(dim: int | ir.SymbolicDim, symbol: str, size: int) -> int | ir.SymbolicDim:
    if isinstance(dim, int) or not dim.value or symbol not in dim.value:
        return dim
    try:
        found = dim.evaluate({symbol: size})
    except Exception:  # a name that is no expression
        return dim
    return int(found) if isinstance(found, int) else dim


def _node_cost(node: ir.Node, function: ir.Function | None) -> NodeCost:
    output = node.outputs[0] if node.outputs else None
    weights = filter(_is_parameter, _distinct(node.inputs))
    return NodeCost(
        name=node.name or "",
        operator=_operator(node),
        shape=_shape(output),
        flops=_flops(node) if function is None else _flops_of_call(node, function),
        bytes=_bytes(node),
        parameters=0 if node.op_type in _READS_NOTHING else sum(_known(v) or 0 for v in weights),
        contains=tuple(_operator(n) for n in function or () if n.op_type != "Constant"),
    )


def _operator(node: ir.Node) -> str:
    return node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"


def _flops_of_call(node: ir.Node, function: ir.Function) -> int | None:
    for inner, given in zip(function.inputs, node.inputs, strict=False):
        shape = _shape(given)
        inner.shape = None if shape is None else ir.Shape(shape)
    return _sum(*map(_flops, function))


def _flops(node: ir.Node) -> int | None:
    operator = node.op_type
    if node.domain not in _STANDARD:
        return None
    special = _SPECIAL.get(operator)
    if special is not None:
        return special(node)
    if operator in _MOVEMENT:
        return 0
    out, first = _known(node.outputs[0]), _known(_input(node, 0))
    if operator in _ELEMENTWISE:
        return out
    if operator in _VARIADIC:
        return _product(out, max(1, len(node.inputs) - 1))
    if operator in _PER_ELEMENT:
        return _product(out, _PER_ELEMENT[operator])
    if operator in _POOLS:
        kernel = node.attributes.get("kernel_shape")
        return None if kernel is None else _product(out, *kernel.as_ints())
    if operator.startswith(_OVER_INPUT):
        return first
    return None


def _conv(node: ir.Node) -> int | None:
    weight = _shape(_input(node, 1))  # channels out, channels in / group, kernel
    if weight is None:
        return None
    out = _known(node.outputs[0])
    return _sum(_product(2, out, *weight[1:]), out if _input(node, 2) is not None else 0)


def _conv_transpose(node: ir.Node) -> int | None:
    weight = _shape(_input(node, 1))  # channels in, channels out / group, kernel
    if weight is None:
        return None
    bias = _known(node.outputs[0]) if _input(node, 2) is not None else 0
    return _sum(_product(2, _known(_input(node, 0)), *weight[1:]), bias)


def _gemm(node: ir.Node) -> int | None:
    a = _shape(_input(node, 0))
    if a is None or len(a) != 2:
        return None
    transposed = node.attributes.get("transA")
    inner = a[0 if transposed is not None and transposed.as_int() else 1]
    out = _known(node.outputs[0])
    return _sum(_product(2, out, inner), out if _input(node, 2) is not None else 0)


def _matmul(node: ir.Node) -> int | None:
    a = _shape(_input(node, 0))
    return _product(2, _known(node.outputs[0]), a[-1]) if a else None


def _recurrent(node: ir.Node) -> int | None:
    x = _shape(_input(node, 0))  # steps and batch, in either order, then features
    if x is None or len(x) != 3:
        return None
    return _product(2, x[0], x[1], _sum(_known(_input(node, 1)), _known(_input(node, 2))))


_SPECIAL: dict[str, Callable[[ir.Node], int | None]] = {
    "Conv": _conv,
    "FusedConv": _conv,
    "ConvTranspose": _conv_transpose,
    "Gemm": _gemm,
    "FusedGemm": _gemm,
    "MatMul": _matmul,
    "RNN": _recurrent,
    "GRU": _recurrent,
    "LSTM": _recurrent,
}


def _bytes(node: ir.Node) -> int | None:
    written = _sum(*(_size(value) for value in node.outputs if value.name))
    read = _distinct(node.inputs)
    if node.op_type in _READS_NOTHING:
        return written
    if node.op_type in _PICKS and read:
        return _sum(written, written, *map(_size, read[1:]))
    return _sum(written, *map(_size, read))


def _size(value: ir.Value) -> int | None:
    """Bytes of a value."""
    if value.dtype is None or value.dtype is ir.DataType.STRING:
        return None
    bits = _product(_known(value), value.dtype.bitwidth)
    return None if bits is None else math.ceil(bits / 8)


def _is_parameter(value: ir.Value | None) -> bool:
    if value is None or not value.is_initializer() or value.dtype is None:
        return False
    return value.dtype not in (ir.DataType.INT64, ir.DataType.BOOL) and _shape(value) != ()


def _distinct(values: Iterable[ir.Value | None]) -> list[ir.Value]:
    return list({id(value): value for value in values if value is not None}.values())


def _input(node: ir.Node, index: int) -> ir.Value | None:
    return node.inputs[index] if len(node.inputs) > index else None


def _shape(value: ir.Value | None) -> Shape | None:
    if value is None:
        return None
    shape = value.shape if value.const_value is None else value.const_value.shape
    return None if shape is None else tuple(dim if isinstance(dim, int) else None for dim in shape)


def _known(value: ir.Value | None) -> int | None:
    """Elements of a value."""
    shape = _shape(value)
    return None if shape is None else _product(*shape)


def _product(*factors: int | None) -> int | None:
    return None if None in factors else math.prod(factor for factor in factors if factor is not None)


def _sum(*terms: int | None) -> int | None:
    return None if None in terms else sum(term for term in terms if term is not None)
