"""Which operators ONNX Runtime's CUDA provider computes in bfloat16: by operator set, since it goes by that.

Found by asking the provider of onnxruntime-gpu 1.31.1 for each (tests/passes/test_bfloat16_kernels.py asks
again): it has convolutions of bfloat16 for operator set 22 only, in which the ONNX standard first allows
them, and for 22 it lacks kernels, of any dtype, that it has for 20: MaxPool, Elu, InstanceNormalization.
"""

from __future__ import annotations

WIDE = 22
"""The operator set in which there are convolutions of bfloat16."""

# Sums of products: what tensor cores are for. They are worth a cast.
PRODUCTS = frozenset({"Gemm", "MatMul"})
WIDE_PRODUCTS = frozenset({"Conv"})
# What is computed in bfloat16 where it reads such. Left out although there are kernels: reductions, and Exp,
# Erf, Sqrt and Pow, of which normalisations and activations are spelled out. PyTorch computes those in
# float32 as a whole; here each step would be rounded.
FOLLOWERS = frozenset({
    "Abs", "Add", "Concat", "Div", "Expand", "Flatten", "Gather", "Gelu", "Identity", "LayerNormalization",
    "Max", "Min", "Mul", "Neg", "Relu", "Reshape", "Sigmoid", "Slice", "Softmax", "Split", "Squeeze", "Sub",
    "Tanh", "Tile", "Transpose", "Unsqueeze", "Where",
})  # fmt: skip
WIDE_FOLLOWERS = frozenset({"AveragePool", "HardSigmoid", "HardSwish", "Mish", "Softplus"})
# What else has kernels for operator set 22, in float32 or on integers.
_WIDE_OTHERS = frozenset({
    "And", "ArgMax", "BatchNormalization", "Cast", "Ceil", "Clip", "Constant", "ConstantOfShape",
    "ConvTranspose", "Cos", "CumSum", "DepthToSpace", "Einsum", "Equal", "Erf", "Exp", "Floor",
    "GatherElements", "GatherND", "GlobalAveragePool", "GlobalMaxPool", "Greater", "GreaterOrEqual",
    "LeakyRelu", "Less", "LessOrEqual", "Log", "LogSoftmax", "Mod", "Not", "Or", "PRelu", "Pad", "Pow",
    "Range", "Reciprocal", "ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum",
    "ReduceSumSquare", "Resize", "Round", "ScatterND", "Shape", "Sign", "Sin", "Softsign", "Sqrt", "TopK",
    "Trilu",
})  # fmt: skip
ON_WIDE = PRODUCTS | WIDE_PRODUCTS | FOLLOWERS | WIDE_FOLLOWERS | _WIDE_OTHERS
"""What a graph of operator set 22 may hold and still run on the GPU."""
