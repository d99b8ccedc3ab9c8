"""fold-batch-norm-forward: Conv without padding and Gemm behind a batch norm; and every refusal."""

import numpy as np
import pytest
from rewrites import (
    KINDS,
    NORM_NOT_CONSTANT,
    NOT_CONSTANT,
    as_an_input,
    statistics,
    unchanged,
    unchanged_as_shared,
)

from nncompile.passes.fold_batch_norm_forward import FOLD_BATCH_NORM_FORWARD

CHANNELS = 4
NORM = "BatchNormalization<epsilon=0.001>(x, scale, shift, mean, var)"


def conv(attributes="", *, dtype="float32", free=2, bias=True, inputs="", outputs="", more=""):
    kind = KINDS[dtype]
    sizes, result = ", 7" * free, "".join(f", d{i}" for i in range(free))
    return (
        f"g ({kind}[n, {CHANNELS}{sizes}] x{inputs}) => ({kind}[n, 6{result}] y{outputs}) "
        f"{{ h = {NORM} y = Conv{attributes}(h, w{', b' if bias else ''}) {more} }}"
    )


def gemm(attributes="", *, dtype="float32", bias=True, rows="n"):
    kind = KINDS[dtype]
    return (
        f"g ({kind}[{rows}, {CHANNELS}] x) => ({kind}[{rows}, 6] y) "
        f"{{ h = {NORM} y = Gemm{attributes}(h, w{', b' if bias else ''}) }}"
    )


def constants(random, w=(6, CHANNELS, 3, 3), dtype="float32"):
    values = {"w": random.standard_normal(w) / 4, "b": random.standard_normal(6)}
    return {name: array.astype(dtype) for name, array in values.items()} | statistics(random, CHANNELS, dtype)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("free", "group"), [(1, 1), (2, 1), (2, 2), (3, 2)])
def test_conv(apply, random, free, group, bias, dtype):
    weights = constants(random, (6, CHANNELS // group, *[3] * free), dtype)
    if not bias:
        del weights["b"]
    # ONNX Runtime has no float64 convolution on the CPU.
    engines = ("reference",) if dtype == "float64" else ("onnxruntime",)
    text = conv(f"<group={group}>", dtype=dtype, free=free, bias=bias)
    applied = apply(FOLD_BATCH_NORM_FORWARD, text, weights, engines=engines)
    assert applied.operators == ["Conv"]
    assert applied.outcome.changes == 1
    folded = [applied.weights[name] for name in applied.node("Conv").input[1:]]
    assert [array.dtype.name for array in folded] == [dtype, dtype]
    assert [array.shape for array in folded] == [weights["w"].shape, (6,)]


@pytest.mark.parametrize(
    "attributes",
    [
        "<strides=[2, 1], pads=[0, 0, 0, 0], dilations=[1, 2], kernel_shape=[3, 3]>",
        '<auto_pad="VALID", strides=[2, 2]>',
        '<auto_pad="NOTSET">',
    ],
)
def test_conv_keeps_its_attributes(apply, random, attributes):
    engines = ("onnxruntime", "reference")
    applied = apply(FOLD_BATCH_NORM_FORWARD, conv(attributes), constants(random), engines=engines)
    assert applied.operators == ["Conv"]
    (before,) = [node for node in applied.before.graph.node if node.op_type == "Conv"]
    assert {a.name: a for a in applied.node("Conv").attribute} == {a.name: a for a in before.attribute}


def test_depthwise_conv(apply, random):
    text = conv(f"<group={CHANNELS}>").replace("[n, 6,", f"[n, {CHANNELS},")
    weights = constants(random, (CHANNELS, 1, 3, 3)) | {"b": np.ones(CHANNELS, "f4")}
    assert apply(FOLD_BATCH_NORM_FORWARD, text, weights).operators == ["Conv"]


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.parametrize("shape", [None, (), (1,), (6,), (1, 1), (1, 6)])
def test_gemm(apply, random, shape, transposed, dtype):
    weights = constants(random, (6, CHANNELS) if transposed else (CHANNELS, 6), dtype)
    del weights["b"]
    weights |= {} if shape is None else {"b": np.asarray(random.standard_normal(shape)).astype(dtype)}
    text = gemm(f"<transB={transposed}, alpha=0.5, beta=-1.5>", dtype=dtype, bias=shape is not None)
    applied = apply(FOLD_BATCH_NORM_FORWARD, text, weights)
    assert applied.operators == ["Gemm"]
    assert {a.name for a in applied.node("Gemm").attribute} == {"transB", "alpha"}


@pytest.mark.parametrize("transposed", [0, 1])
def test_gemm_with_a_square_matrix(apply, random, transposed):
    text = gemm(f"<transB={transposed}>", bias=False).replace("[n, 6]", "[n, 4]")
    weights = constants(random, (CHANNELS, CHANNELS))
    assert apply(FOLD_BATCH_NORM_FORWARD, text, weights).operators == ["Gemm"]


@pytest.mark.parametrize("opset", [9, 13, 15, 20])
def test_opsets(apply, random, opset):
    applied = apply(FOLD_BATCH_NORM_FORWARD, conv(), constants(random), opset=opset)
    assert applied.operators == ["Conv"]


def test_default_epsilon(apply, random):
    weights = constants(random)
    weights["var"] = np.full(CHANNELS, 1e-5, "f4")  # as large as epsilon: it counts
    # A scale of 220: float32 keeps 1e-5 of each of the 36 terms.
    weights["scale"] /= np.float32(200)
    text = conv().replace("<epsilon=0.001>", "")
    assert apply(FOLD_BATCH_NORM_FORWARD, text, weights).operators == ["Conv"]


def test_the_folded_weight_is_the_exact_one_rounded_once(apply, random):
    values = constants(random)
    applied = apply(FOLD_BATCH_NORM_FORWARD, conv(), values)
    exact = {name: array.astype("f8") for name, array in values.items()}
    factor = exact["scale"] / np.sqrt(exact["var"] + np.float32(0.001).astype("f8"))
    offset = exact["shift"] - exact["mean"] * factor
    weight, bias = (applied.weights[name] for name in applied.node("Conv").input[1:])
    np.testing.assert_array_equal(weight, (exact["w"] * factor[:, None, None]).astype("f4"))
    expected = exact["b"] + np.einsum("ochw,c->o", exact["w"], offset)
    np.testing.assert_allclose(bias, expected, rtol=1e-7)


@pytest.mark.parametrize("pads", [[1, 1, 1, 1], [0, 0, 0, 1]])
def test_padding(apply, random, pads):
    applied = apply(FOLD_BATCH_NORM_FORWARD, conv(f"<pads={pads}>"), constants(random))
    unchanged(applied, f"the convolution pads by {pads}")


@pytest.mark.parametrize("mode", ["SAME_UPPER", "SAME_LOWER"])
def test_automatic_padding(apply, random, mode):
    applied = apply(FOLD_BATCH_NORM_FORWARD, conv(f'<auto_pad="{mode}">'), constants(random))
    unchanged(applied, f"the convolution pads as {mode}")


@pytest.mark.parametrize("more", ["", ", transB=1"])
def test_gemm_of_a_transposed_input(apply, random, more):
    text = gemm(f"<transA=1{more}>", bias=False, rows="4").replace("float[4, 6]", "float[4, 4]")
    weights = constants(random, (CHANNELS, CHANNELS))
    unchanged(apply(FOLD_BATCH_NORM_FORWARD, text, weights), "Gemm transposes its input")


@pytest.mark.parametrize("shape", [(3, 1), (3, 6), (6, 1)])
def test_a_gemm_bias_that_differs_by_row(apply, random, shape):
    weights = constants(random, (CHANNELS, 6)) | {"b": np.ones(shape, "f4")}
    applied = apply(FOLD_BATCH_NORM_FORWARD, gemm(rows=str(shape[0])), weights)
    unchanged(applied, f"a bias of shape {list(shape)} is not one value for each channel")


def test_training_mode(apply, random):
    text = conv().replace("h = BatchNormalization<", "h, m, v = BatchNormalization<training_mode=1, ")
    applied = apply(FOLD_BATCH_NORM_FORWARD, text, constants(random))
    unchanged(applied, "the batch norm is in training mode")


def test_training_mode_of_opset_13_is_told_by_the_number_of_outputs(apply, random):
    text = conv().replace("h = BatchNormalization", "h, m, v, p, q = BatchNormalization")
    applied = apply(FOLD_BATCH_NORM_FORWARD, text, constants(random), opset=13)
    unchanged(applied, "the batch norm is in training mode")


@pytest.mark.parametrize("name", ["w", "b", "scale", "shift", "mean", "var"])
@pytest.mark.parametrize("default", [True, False])
def test_a_weight_that_is_an_input(apply, random, name, default):
    weights = constants(random)
    feeds = {"var": np.ones(CHANNELS, "f4")} if name == "var" else {}
    text = conv(inputs=as_an_input(weights, name, default))
    applied = apply(FOLD_BATCH_NORM_FORWARD, text, weights, feeds=feeds)
    unchanged(applied, NOT_CONSTANT if name in "wb" else NORM_NOT_CONSTANT)


def test_a_weight_that_is_computed(apply, random):
    text = conv().replace("y = Conv(h, w,", "w2 = Neg(w) y = Conv(h, w2,")
    unchanged(apply(FOLD_BATCH_NORM_FORWARD, text, constants(random)), NOT_CONSTANT)


def test_the_batch_norm_as_the_weight(apply, random):
    inputs = "float[1, 4, 3, 3] x, float[n, 4, 7, 7] u"
    text = f"g ({inputs}) => (float[n, 1, 5, 5] y) {{ h = {NORM} y = Conv(u, h) }}"
    unchanged(apply(FOLD_BATCH_NORM_FORWARD, text, statistics(random, CHANNELS)))


def test_bfloat16(apply, random):
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    weights = constants(random, dtype=bfloat16)
    applied = apply(FOLD_BATCH_NORM_FORWARD, conv(dtype="bfloat16"), weights, engines=(), opset=22)
    unchanged(applied, "the weights are of dtype bfloat16")


@pytest.mark.parametrize(
    ("name", "value"),
    [("var", -1.0), ("var", np.nan), ("scale", np.inf), ("mean", np.inf), ("shift", np.nan)],
)
def test_statistics_that_are_not_finite(apply, random, name, value):
    weights = constants(random)
    weights[name][1] = value
    applied = apply(FOLD_BATCH_NORM_FORWARD, conv(), weights)
    unchanged(applied, "the running statistics give a scale that is not finite")


def test_a_weight_that_is_not_finite(apply, random):
    weights = constants(random)
    weights["w"][1] = np.inf
    unchanged(apply(FOLD_BATCH_NORM_FORWARD, conv(), weights), "a folded weight is not finite")


@pytest.mark.parametrize("name", ["scale", "shift"])
def test_beyond_the_range_of_the_dtype(apply, random, name):
    weights = constants(random, dtype="float16")
    weights["w"] *= np.float16(1000)
    weights["var"][:] = 1
    weights[name] = np.array([300, -300, 500, -500], "f2")
    feeds = {"x": np.full((1, CHANNELS, 7, 7), 1e-3, "f2")}
    applied = apply(FOLD_BATCH_NORM_FORWARD, conv(dtype="float16"), weights, feeds=feeds, engines=())
    unchanged(applied, "a folded weight is beyond the range of float16")


def test_a_channel_too_small_for_the_dtype(apply, random):
    weights = constants(random, dtype="float16")
    weights["scale"][:] = 1e-5
    applied = apply(FOLD_BATCH_NORM_FORWARD, conv(dtype="float16"), weights)
    unchanged(applied, "the folded weights of a channel are too small for float16")


IMAGE = "float[n, 4, 7, 7]"


@pytest.mark.parametrize(
    ("outputs", "more"),
    [
        (f", {IMAGE} z", "z = Relu(h)"),
        (f", {IMAGE} h", ""),
        (f", float[n, 6, 5, 5] z, {IMAGE} h", "z = Conv(h, w)"),
    ],
)
def test_an_intermediate_that_others_read(apply, random, outputs, more):
    unchanged_as_shared(apply(FOLD_BATCH_NORM_FORWARD, conv(outputs=outputs, more=more), constants(random)))


def test_shared_weights_are_folded_for_each_reader_by_itself(apply, random):
    more = "i = BatchNormalization(x, shift, scale, var, var) z = Conv(i, w, b) u = Neg(w)"
    text = conv(outputs=", float[n, 6, 5, 5] z, float[6, 4, 3, 3] u", more=more)
    weights = constants(random)
    applied = apply(FOLD_BATCH_NORM_FORWARD, text, weights)
    assert applied.operators == ["Conv", "Conv", "Neg"]
    assert applied.outcome.changes == 2
    np.testing.assert_array_equal(applied.weights["w"], weights["w"])


def test_a_chain_of_batch_norms_is_folded_whole(apply, random):
    text = conv().replace("y = ", "i = BatchNormalization(h, shift, scale, var, var) y = ")
    applied = apply(FOLD_BATCH_NORM_FORWARD, text.replace("Conv(h", "Conv(i"), constants(random))
    assert applied.operators == ["Conv"]
    assert applied.outcome.changes == 2


def test_in_a_branch(apply, random):
    text = f"""g ({IMAGE} x, bool q) => (float[n, 6, 5, 5] y) {{
        y = If(q) <then_branch = t () => (float[n, 6, 5, 5] p) {{ h = {NORM} p = Conv(h, w) }},
                   else_branch = e () => (float[n, 6, 5, 5] r) {{ i = {NORM} r = Conv(i, w, b) }}>
    }}"""
    for taken in (True, False):
        applied = apply(FOLD_BATCH_NORM_FORWARD, text, constants(random), feeds={"q": np.array(taken)})
        assert applied.operators == ["If", "Conv", "Conv"]


@pytest.mark.parametrize(
    "nodes",
    [f"y = {NORM}", f"h = {NORM} i = Relu(h) y = Conv(i, w)", f"h = {NORM} y = ConvTranspose(h, w2)"],
)
def test_other_graphs_are_left_alone_without_a_word(apply, random, nodes):
    weights = constants(random) | {"w2": random.standard_normal((4, 6, 3, 3)).astype("f4")}
    text = f"g ({IMAGE} x) => (float[n, c, d0, d1] y) {{ {nodes} }}"
    unchanged(apply(FOLD_BATCH_NORM_FORWARD, text, weights))
