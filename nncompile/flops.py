"""How many floating-point operations a node takes.

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
changes no total.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import onnx_ir as ir

Shape = tuple[int | None, ...]


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_STANDARD = ("", "ai.onnx", "com.microsoft", "com.microsoft.nchwc")
_MOVEMENT = _words(
    """
    Cast CastLike Compress Concat Constant ConstantOfShape DepthToSpace Dropout Expand EyeLike
    Flatten Gather GatherElements GatherND Identity OneHot Pad Range ReorderInput ReorderOutput Reshape
    ReverseSequence
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


def flops(node: ir.Node) -> int | None:
    """What a node of a standard operator computes; None where that cannot be told."""
    operator = node.op_type
    if node.domain not in _STANDARD:
        return None
    special = _SPECIAL.get(operator)
    if special is not None:
        return special(node)
    if operator in _MOVEMENT:
        return 0
    out, first = elements(node.outputs[0]), elements(input_of(node, 0))
    if operator in _ELEMENTWISE:
        return out
    if operator in _VARIADIC:
        return product(out, max(1, len(node.inputs) - 1))
    if operator in _PER_ELEMENT:
        return product(out, _PER_ELEMENT[operator])
    if operator in _POOLS:
        kernel = node.attributes.get("kernel_shape")
        return None if kernel is None else product(out, *kernel.as_ints())
    if operator.startswith(_OVER_INPUT):
        return first
    return None


def _conv(node: ir.Node) -> int | None:
    weight = shape_of(input_of(node, 1))  # channels out, channels in / group, kernel
    if weight is None:
        return None
    out = elements(node.outputs[0])
    return total(product(2, out, *weight[1:]), out if input_of(node, 2) is not None else 0)


def _conv_transpose(node: ir.Node) -> int | None:
    weight = shape_of(input_of(node, 1))  # channels in, channels out / group, kernel
    if weight is None:
        return None
    bias = elements(node.outputs[0]) if input_of(node, 2) is not None else 0
    return total(product(2, elements(input_of(node, 0)), *weight[1:]), bias)


def _gemm(node: ir.Node) -> int | None:
    a = shape_of(input_of(node, 0))
    if a is None or len(a) != 2:
        return None
    transposed = node.attributes.get("transA")
    inner = a[0 if transposed is not None and transposed.as_int() else 1]
    out = elements(node.outputs[0])
    return total(product(2, out, inner), out if input_of(node, 2) is not None else 0)


def _matmul(node: ir.Node) -> int | None:
    a = shape_of(input_of(node, 0))
    return product(2, elements(node.outputs[0]), a[-1]) if a else None


def _recurrent(node: ir.Node) -> int | None:
    x = shape_of(input_of(node, 0))  # steps and batch, in either order, then features
    if x is None or len(x) != 3:
        return None
    return product(2, x[0], x[1], total(elements(input_of(node, 1)), elements(input_of(node, 2))))


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


def flops_of_call(node: ir.Node, function: ir.Function) -> int | None:
    """What the nodes of a function compute for one call; its inputs take the shapes of the call's."""
    for inner, given in zip(function.inputs, node.inputs, strict=False):
        shape = shape_of(given)
        inner.shape = None if shape is None else ir.Shape(shape)
    return total(*map(flops, function))


def input_of(node: ir.Node, index: int) -> ir.Value | None:
    """An input; None where it is left out."""
    return node.inputs[index] if len(node.inputs) > index else None


def shape_of(value: ir.Value | None) -> Shape | None:
    """Sizes, None for each that is not known; None where the rank is not known."""
    if value is None:
        return None
    shape = value.shape if value.const_value is None else value.const_value.shape
    return None if shape is None else tuple(dim if isinstance(dim, int) else None for dim in shape)


def elements(value: ir.Value | None) -> int | None:
    """How many elements a value has; None where that is not known."""
    shape = shape_of(value)
    return None if shape is None else product(*shape)


def product(*factors: int | None) -> int | None:
    """The product; None where a factor is."""
    return None if None in factors else math.prod(factor for factor in factors if factor is not None)


def total(*terms: int | None) -> int | None:
    """The sum; None where a term is."""
    return None if None in terms else sum(term for term in terms if term is not None)
