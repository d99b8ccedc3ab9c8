"""fold-batch-norm: every linear operator, attribute and dtype it fires on."""

import numpy as np
import pytest
from rewrites import KINDS, statistics

from nncompile.passes.fold_batch_norm import FOLD_BATCH_NORM

CHANNELS = 6
BATCH_NORM = "y = BatchNormalization<epsilon=0.001>(c, scale, shift, mean, var)"


def layer(operator, attributes="", *, rank=2, bias=False, dtype="float32"):
    """Text of a convolution over 7 x 7 ... images with a batch norm behind it."""
    kind = KINDS[dtype]
    sizes = ", ".join(["7"] * rank)
    free = ", ".join(f"d{i}" for i in range(rank))
    arguments = "x, w, b" if bias else "x, w"
    return (
        f"g ({kind}[n, 4, {sizes}] x) => ({kind}[n, {CHANNELS}, {free}] y) "
        f"{{ c = {operator}{attributes}({arguments}) {BATCH_NORM} }}"
    )


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("rank", "group"), [(1, 1), (2, 1), (2, 2), (3, 2)])
def test_conv(apply, random, rank, group, bias, dtype):
    weights = {"w": random.standard_normal((CHANNELS, 4 // group, *[3] * rank)).astype(dtype) / 4}
    weights |= {"b": random.standard_normal(CHANNELS).astype(dtype)} if bias else {}
    # ONNX Runtime has no float64 convolution on the CPU.
    engines = ("reference",) if dtype == "float64" else ("onnxruntime",)
    text = layer("Conv", f"<group={group}>", rank=rank, bias=bias, dtype=dtype)
    applied = apply(FOLD_BATCH_NORM, text, weights | statistics(random, CHANNELS, dtype), engines=engines)
    assert applied.operators == ["Conv"]
    assert applied.outcome.changes == 1
    folded = [applied.weights[name] for name in applied.node("Conv").input[1:]]
    assert [array.dtype.name for array in folded] == [dtype, dtype]
    assert [array.shape for array in folded] == [weights["w"].shape, (CHANNELS,)]


@pytest.mark.parametrize(
    "attributes",
    [
        "<strides=[2, 1], pads=[1, 0, 2, 1], dilations=[1, 2], kernel_shape=[3, 3]>",
        '<auto_pad="SAME_UPPER", strides=[2, 2]>',
        '<auto_pad="VALID">',
    ],
)
def test_conv_keeps_its_attributes(apply, random, attributes):
    weights = {"w": random.standard_normal((CHANNELS, 4, 3, 3)).astype("f4")} | statistics(random, CHANNELS)
    engines = ("onnxruntime", "reference")
    applied = apply(FOLD_BATCH_NORM, layer("Conv", attributes), weights, engines=engines)
    (before,) = [node for node in applied.before.graph.node if node.op_type == "Conv"]
    assert {a.name: a for a in applied.node("Conv").attribute} == {a.name: a for a in before.attribute}


def test_depthwise_conv(apply, random):
    text = (
        "g (float[n, 6, 5, 5] x) => (float[n, 6, h, w2] y) "
        f"{{ c = Conv<group=6, pads=[1, 1, 1, 1]>(x, w) {BATCH_NORM} }}"
    )
    weights = {"w": random.standard_normal((6, 1, 3, 3)).astype("f4")} | statistics(random, CHANNELS)
    assert apply(FOLD_BATCH_NORM, text, weights).operators == ["Conv"]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("rank", "group"), [(1, 1), (1, 2), (2, 1), (2, 2), (3, 2)])
def test_conv_transpose(apply, random, rank, group, bias):
    weights = {"w": random.standard_normal((4, CHANNELS // group, *[3] * rank)).astype("f4")}
    weights |= {"b": random.standard_normal(CHANNELS).astype("f4")} if bias else {}
    strides = ", ".join(["2"] * rank)
    text = layer("ConvTranspose", f"<group={group}, strides=[{strides}]>", rank=rank, bias=bias)
    applied = apply(FOLD_BATCH_NORM, text, weights | statistics(random, CHANNELS))
    assert applied.operators == ["ConvTranspose"]


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_conv_transpose_in_other_dtypes(apply, random, dtype):
    weights = {"w": random.standard_normal((4, CHANNELS, 3, 3)).astype(dtype) / 4}
    engines = ("reference",) if dtype == "float64" else ("onnxruntime",)
    text = layer("ConvTranspose", dtype=dtype)
    applied = apply(FOLD_BATCH_NORM, text, weights | statistics(random, CHANNELS, dtype), engines=engines)
    assert applied.operators == ["ConvTranspose"]


def gemm(attributes="", *, bias=True, dtype="float32", rows="n", depth=5):
    kind = KINDS[dtype]
    arguments = "x, w, b" if bias else "x, w"
    shape = f"{depth}, {rows}" if "transA" in attributes else f"{rows}, {depth}"
    return (
        f"g ({kind}[{shape}] x) => ({kind}[{rows}, {CHANNELS}] y) "
        f"{{ c = Gemm{attributes}({arguments}) {BATCH_NORM} }}"
    )


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.parametrize("shape", [None, (), (1,), (CHANNELS,), (1, 1), (1, CHANNELS)])
def test_gemm(apply, random, shape, transposed, dtype):
    weights = {"w": random.standard_normal((CHANNELS, 5) if transposed else (5, CHANNELS)).astype(dtype)}
    weights |= {} if shape is None else {"b": np.asarray(random.standard_normal(shape)).astype(dtype)}
    attributes = f"<transB={transposed}, alpha=0.5, beta=-1.5>"
    text = gemm(attributes, bias=shape is not None, dtype=dtype)
    applied = apply(FOLD_BATCH_NORM, text, weights | statistics(random, CHANNELS, dtype))
    assert applied.operators == ["Gemm"]
    assert "beta" not in {attribute.name for attribute in applied.node("Gemm").attribute}


@pytest.mark.parametrize("transposed", [0, 1])
def test_gemm_with_a_square_matrix(apply, random, transposed):
    weights = {"w": random.standard_normal((CHANNELS, CHANNELS)).astype("f4")}
    text = gemm(f"<transB={transposed}>", bias=False, depth=CHANNELS)
    assert apply(FOLD_BATCH_NORM, text, weights | statistics(random, CHANNELS)).operators == ["Gemm"]


@pytest.mark.parametrize("attributes", ["", "<transA=1>", "<alpha=0.0>", "<beta=0.0>"])
def test_gemm_attributes(apply, random, attributes):
    weights = {
        "w": random.standard_normal((5, CHANNELS)).astype("f4"),
        "b": random.standard_normal(CHANNELS).astype("f4"),
    }
    engines = ("onnxruntime", "reference")
    applied = apply(
        FOLD_BATCH_NORM, gemm(attributes), weights | statistics(random, CHANNELS), engines=engines
    )
    assert applied.operators == ["Gemm"]


def test_one_channel(apply, random):
    text = "g (float[n, 5] x) => (float[n, 1] y) { c = Gemm(x, w, b) " + BATCH_NORM + " }"
    weights = {"w": random.standard_normal((5, 1)).astype("f4"), "b": np.ones(1, "f4")}
    assert apply(FOLD_BATCH_NORM, text, weights | statistics(random, 1)).operators == ["Gemm"]


@pytest.mark.parametrize("opset", [9, 13, 15, 20])
def test_opsets(apply, random, opset):
    weights = {"w": random.standard_normal((CHANNELS, 4, 3, 3)).astype("f4")} | statistics(random, CHANNELS)
    assert apply(FOLD_BATCH_NORM, layer("Conv"), weights, opset=opset).operators == ["Conv"]


def test_default_epsilon(apply, random):
    text = layer("Conv").replace("<epsilon=0.001>", "")
    weights = {"w": random.standard_normal((CHANNELS, 4, 3, 3)).astype("f4")} | statistics(random, CHANNELS)
    weights["var"] = np.full(CHANNELS, 1e-5, "f4")  # as large as epsilon: it counts
    assert apply(FOLD_BATCH_NORM, text, weights).operators == ["Conv"]


def test_the_folded_weight_is_the_exact_one_rounded_once(apply, random):
    values = {"w": random.standard_normal((CHANNELS, 4, 3, 3)).astype("f4")} | statistics(random, CHANNELS)
    applied = apply(FOLD_BATCH_NORM, layer("Conv"), values)
    exact = {name: array.astype("f8") for name, array in values.items()}
    factor = exact["scale"] / np.sqrt(exact["var"] + np.float32(0.001).astype("f8"))
    weight, bias = (applied.weights[name] for name in applied.node("Conv").input[1:])
    np.testing.assert_array_equal(weight, (exact["w"] * factor[:, None, None, None]).astype("f4"))
    np.testing.assert_array_equal(bias, (exact["shift"] - exact["mean"] * factor).astype("f4"))
