"""fold-affine: every operator, operand order, layer and shape of constant; and every refusal."""

import itertools

import numpy as np
import pytest
from rewrites import KINDS, NOT_CONSTANT, as_an_input, unchanged, unchanged_as_shared

from nncompile.passes.fold_affine import FOLD_AFFINE

CHANNELS = 6
FORMS = ["Mul(c, k)", "Mul(k, c)", "Div(c, k)", "Add(c, k)", "Add(k, c)", "Sub(c, k)", "Sub(k, c)"]


def graph(layer, form, *, dtype="float32", rank=2, free=2, inputs="", outputs="", more=""):
    kind = KINDS[dtype]
    image = f"{kind}[n, 4{', 7' * free}] x"
    result = f"{kind}[n, {CHANNELS}{''.join(f', d{i}' for i in range(free))}] y"
    arguments = "x, w, b" if rank else "x, w"
    return f"g ({image}{inputs}) => ({result}{outputs}) {{ c = {layer}({arguments}) y = {form} {more} }}"


def constants(random, k=(CHANNELS, 1, 1), w=(CHANNELS, 4, 3, 3), dtype="float32", bias=True):
    """Weights, and a constant away from 0 and of both signs."""
    values = {
        "w": random.standard_normal(w) / 4,
        "k": random.uniform(0.5, 2, k) * random.choice([-1, 1], k),
    }
    values |= {"b": random.standard_normal(CHANNELS)} if bias else {}
    return {name: np.asarray(value).astype(dtype) for name, value in values.items()}


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("layer", ["Conv", "ConvTranspose", "Gemm"])
def test_every_operator_and_order(apply, random, layer, form, bias, dtype):
    free = 0 if layer == "Gemm" else 2
    shapes = {"Conv": (CHANNELS, 4, 3, 3), "ConvTranspose": (4, CHANNELS, 3, 3), "Gemm": (4, CHANNELS)}
    k = (1, CHANNELS, *[1] * free)
    weights = constants(random, k, shapes[layer], dtype, bias)
    # ONNX Runtime has no float64 convolution on the CPU.
    engines = ("reference",) if dtype == "float64" else ("onnxruntime",)
    text = graph(layer, form, dtype=dtype, rank=int(bias), free=free)
    applied = apply(FOLD_AFFINE, text, weights, engines=engines)
    assert applied.operators == [layer]
    assert applied.outcome.changes == 1
    assert all(applied.weights[name].dtype == dtype for name in applied.node(layer).input[1:])


def test_a_constant_divided_by_the_layer(apply, random):
    unchanged(apply(FOLD_AFFINE, graph("Conv", "Div(k, c)"), constants(random), engines=()))


@pytest.mark.parametrize("form", ["Mul(k, c)", "Sub(k, c)"])
@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        *itertools.product(
            ["Conv"],
            [(), (1,), (1, 1, 1), (1, 1, 1, 1), (CHANNELS, 1, 1), (1, CHANNELS, 1, 1)],
        ),
        *itertools.product(["Gemm"], [(), (1,), (1, 1), (CHANNELS,), (1, CHANNELS)]),
    ],
)
def test_every_shape_of_constant(apply, random, layer, shape, form):
    w = (CHANNELS, 4, 3, 3) if layer == "Conv" else (4, CHANNELS)
    text = graph(layer, form, free=2 if layer == "Conv" else 0)
    applied = apply(FOLD_AFFINE, text, constants(random, shape, w), engines=("onnxruntime", "reference"))
    assert applied.operators == [layer]


@pytest.mark.parametrize("form", ["Mul(c, k)", "Sub(k, c)"])
@pytest.mark.parametrize(
    "attributes",
    [
        "<group=2, strides=[2, 1], pads=[1, 0, 2, 1], dilations=[1, 2], kernel_shape=[3, 3]>",
        '<auto_pad="SAME_UPPER", strides=[2, 2], group=2>',
        '<auto_pad="VALID", group=2>',
    ],
)
@pytest.mark.parametrize("layer", ["Conv", "ConvTranspose"])
def test_groups_strides_dilations_and_pads(apply, random, layer, attributes, form):
    w = (CHANNELS, 2, 3, 3) if layer == "Conv" else (4, CHANNELS // 2, 3, 3)
    applied = apply(FOLD_AFFINE, graph(layer + attributes, form), constants(random, w=w))
    assert applied.operators == [layer]
    (before,) = [node for node in applied.before.graph.node if node.op_type == layer]
    assert {a.name: a for a in applied.node(layer).attribute} == {a.name: a for a in before.attribute}


@pytest.mark.parametrize("free", [1, 3])
def test_one_and_three_dimensional_convolutions(apply, random, free):
    weights = constants(random, (CHANNELS, *[1] * free), (CHANNELS, 4, *[3] * free))
    assert apply(FOLD_AFFINE, graph("Conv", "Sub(k, c)", free=free), weights).operators == ["Conv"]


@pytest.mark.parametrize("form", ["Mul(c, k)", "Sub(k, c)", "Add(c, k)"])
@pytest.mark.parametrize("bias", [None, (), (1,), (CHANNELS,), (1, 1), (1, CHANNELS)])
@pytest.mark.parametrize("transposed", [0, 1])
def test_gemm_attributes(apply, random, transposed, bias, form):
    weights = constants(random, (CHANNELS,), (CHANNELS, 4) if transposed else (4, CHANNELS), bias=False)
    weights |= {} if bias is None else {"b": np.asarray(random.standard_normal(bias)).astype("f4")}
    text = graph(f"Gemm<transB={transposed}, alpha=0.5, beta=-1.5>", form, rank=int(bias is not None), free=0)
    applied = apply(FOLD_AFFINE, text, weights)
    assert applied.operators == ["Gemm"]
    assert "beta" not in {attribute.name for attribute in applied.node("Gemm").attribute}


def test_gemm_of_a_transposed_input_and_a_square_matrix(apply, random):
    weights = {name: random.standard_normal(s).astype("f4") for name, s in [("w", (4, 4)), ("k", 4)]}
    for attributes in ("<transA=1>", "<transA=1, transB=1>"):
        text = f"g (float[4, n] x) => (float[n, 4] y) {{ c = Gemm{attributes}(x, w) y = Mul(c, k) }}"
        assert apply(FOLD_AFFINE, text, weights).operators == ["Gemm"]


@pytest.mark.parametrize("opset", [9, 13, 20])
def test_opsets(apply, random, opset):
    applied = apply(FOLD_AFFINE, graph("Conv", "Mul(c, k)"), constants(random), opset=opset)
    assert applied.operators == ["Conv"]


def test_a_chain_is_folded_whole(apply, random):
    text = graph("Conv", "Sub(k, c)").replace("y = ", "d = Mul(c, k) e = Div(d, k) h = Add(k, e) y = ")
    applied = apply(FOLD_AFFINE, text.replace("Sub(k, c)", "Sub(k, h)"), constants(random))
    assert applied.operators == ["Conv"]
    assert applied.outcome.changes == 4


def test_the_folded_weight_is_the_exact_one_rounded_once(apply, random):
    values = constants(random)
    applied = apply(FOLD_AFFINE, graph("Conv", "Div(c, k)"), values)
    w, k, b = (values[name].astype("f8") for name in "wkb")
    weight, bias = (applied.weights[name] for name in applied.node("Conv").input[1:])
    np.testing.assert_array_equal(weight, (w * (1 / k[..., None])).astype("f4"))
    np.testing.assert_array_equal(bias, (b * (1 / k[:, 0, 0])).astype("f4"))


@pytest.mark.parametrize("form", ["Add(c, k)", "Sub(c, k)"])
def test_a_shift_leaves_the_weight_as_it_is(apply, random, form):
    applied = apply(FOLD_AFFINE, graph("Conv", form), constants(random))
    assert applied.node("Conv").input[1] == "w"


@pytest.mark.parametrize("form", ["Mul(c, k)", "Add(k, c)"])
def test_a_scalar_zero(apply, random, form):
    weights = constants(random) | {"k": np.float32(0)}
    assert apply(FOLD_AFFINE, graph("Conv", form), weights).operators == ["Conv"]


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        ("Conv", (3, 1, 1, 1)),
        ("Conv", (5, 5)),
        ("Conv", (CHANNELS, 5, 1)),
        ("Conv", (5,)),
        ("Gemm", (3, 1)),
        ("Gemm", (3, CHANNELS)),
    ],
)
def test_a_constant_that_is_not_per_channel(apply, random, layer, shape):
    weights = constants(random, shape, (CHANNELS, 4, 3, 3) if layer == "Conv" else (4, CHANNELS))
    applied = apply(FOLD_AFFINE, graph(layer, "Mul(c, k)", free=2 if layer == "Conv" else 0), weights)
    unchanged(applied, f"a constant of shape {list(shape)} is not one value for each channel")


@pytest.mark.parametrize("form", FORMS)
def test_a_constant_of_a_higher_rank(apply, random, form):
    text = graph("Gemm", form, free=0).replace("] y)", ", 1] y)").replace("float[n, 6, 1]", "float[1, n, 6]")
    weights = constants(random, (1, 1, CHANNELS), (4, CHANNELS))
    unchanged(apply(FOLD_AFFINE, text, weights), "a constant of rank 3 would enlarge the result of rank 2")


def test_a_constant_with_more_channels_than_the_layer(apply, random):
    text = "g (float[n, 4] x) => (float[n, 5] y) { c = Gemm(x, w) y = Mul(c, k) }"
    weights = constants(random, (5,), (4, 1), bias=False)
    reason = "a constant of shape [5] would enlarge the result of 1 channels"
    unchanged(apply(FOLD_AFFINE, text, weights), reason)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("default", [True, False])
def test_an_operand_that_is_an_input(apply, random, form, default):
    weights = constants(random)
    feeds = {"k": weights["k"]}
    if not default:
        del weights["k"]
    text = graph("Conv", form, inputs=f", float[{CHANNELS}, 1, 1] k")
    applied = apply(FOLD_AFFINE, text, weights, feeds=feeds)
    unchanged(applied, f"the other operand of {form[:3]} is not constant")


def test_a_residual_sum_is_refused_for_each_operand(apply, random):
    text = graph("Conv", "Add(c, d)").replace("y = ", "d = Conv(x, w) y = ")
    applied = apply(FOLD_AFFINE, text, constants(random))
    assert applied.outcome.changes == 0
    assert applied.reasons == ["the other operand of Add is not constant"] * 2


def test_the_layer_with_itself(apply, random):
    applied = apply(FOLD_AFFINE, graph("Conv", "Add(c, c)"), constants(random))
    assert applied.outcome.changes == 0
    assert set(applied.reasons) == {"the other operand of Add is not constant"}


@pytest.mark.parametrize("name", ["w", "b"])
@pytest.mark.parametrize("default", [True, False])
def test_a_weight_that_is_an_input(apply, random, name, default):
    weights = constants(random)
    text = graph("Conv", "Mul(c, k)", inputs=as_an_input(weights, name, default))
    unchanged(apply(FOLD_AFFINE, text, weights), NOT_CONSTANT)


def test_integers(apply):
    text = "g (int32[n, 4] x) => (int32[n, 6] y) { c = Gemm(x, w) y = Mul(c, k) }"
    weights = {"w": np.ones((4, 6), "i4"), "k": np.array(3, "i4")}
    applied = apply(FOLD_AFFINE, text, weights, engines=("reference",))
    unchanged(applied, "the weights are of dtype int32")


def test_bfloat16(apply, random):
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    text = graph("Conv", "Mul(c, k)", dtype="bfloat16")
    applied = apply(FOLD_AFFINE, text, constants(random, dtype=bfloat16), engines=(), opset=22)
    unchanged(applied, "the weights are of dtype bfloat16")


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize(
    ("form", "value"), [("Div(c, k)", 0), ("Mul(c, k)", np.inf), ("Add(c, k)", np.nan), ("Sub(k, c)", np.inf)]
)
def test_a_result_that_is_not_finite(apply, random, form, value):
    weights = constants(random)
    weights["k"][1] = value
    unchanged(apply(FOLD_AFFINE, graph("Conv", form), weights), "a folded weight is not finite")


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("name", ["w", "b"])
def test_beyond_the_range_of_the_dtype(apply, random, name):
    weights = constants(random, dtype="float16")
    weights[name] *= np.float16(2000)
    weights["k"][:] = 300
    text = graph("Conv", "Mul(c, k)", dtype="float16")
    feeds = {"x": np.full((1, 4, 7, 7), 1e-3, "f2")}
    applied = apply(FOLD_AFFINE, text, weights, feeds=feeds)
    unchanged(applied, "a folded weight is beyond the range of float16")


def test_a_channel_too_small_for_the_dtype(apply, random):
    weights = constants(random, dtype="float16", bias=False)
    weights["k"][2] = 1e-5
    text = graph("Conv", "Mul(c, k)", dtype="float16", rank=0)
    applied = apply(FOLD_AFFINE, text, weights)
    unchanged(applied, "the folded weights of a channel are too small for float16")


def test_a_channel_that_was_too_small_already(apply, random):
    weights = constants(random, dtype="float16")
    weights["w"][2] = 1e-5
    text = graph("Conv", "Mul(c, k)", dtype="float16")
    assert apply(FOLD_AFFINE, text, weights).operators == ["Conv"]


@pytest.mark.parametrize("shape", [(5, 1), (5, CHANNELS), (CHANNELS, 1)])
def test_a_gemm_bias_that_differs_by_row(apply, random, shape):
    rows = shape[0]
    text = f"g (float[{rows}, 4] x) => (float[{rows}, 6] y) {{ c = Gemm(x, w, b) y = Mul(c, k) }}"
    weights = constants(random, (), (4, CHANNELS)) | {"b": np.ones(shape, "f4")}
    reason = f"a bias of shape {list(shape)} is not one value for each channel"
    unchanged(apply(FOLD_AFFINE, text, weights), reason)


RESULT = "float[n, 6, 5, 5]"


@pytest.mark.parametrize(
    ("outputs", "more"),
    [(f", {RESULT} z", "z = Relu(c)"), (f", {RESULT} c", ""), (f", {RESULT} z", "z = Add(k, c)")],
)
@pytest.mark.parametrize("form", FORMS)
def test_an_intermediate_that_others_read(apply, random, form, outputs, more):
    unchanged_as_shared(
        apply(FOLD_AFFINE, graph("Conv", form, outputs=outputs, more=more), constants(random))
    )


def test_shared_weights_are_folded_for_each_reader_by_itself(apply, random):
    text = graph(
        "Conv",
        "Mul(c, k)",
        outputs=f", {RESULT} z, float[6, 4, 3, 3] u, float[6, 1, 1] v",
        more="d = Conv(x, w, b) z = Sub(k, d) u = Neg(w) v = Neg(k)",
    )
    weights = constants(random)
    applied = apply(FOLD_AFFINE, text, weights)
    assert applied.operators == ["Conv", "Conv", "Neg", "Neg"]
    assert applied.outcome.changes == 2
    for name in "wbk":
        np.testing.assert_array_equal(applied.weights[name], weights[name])


@pytest.mark.parametrize("taken", ["w_affine", "w_affine_bias"])
def test_names_that_are_taken(apply, random, taken):
    text = graph("Conv", "Mul(c, k)", inputs=f", float[4] {taken}", outputs=", float[4] z", more="z = Neg(t)")
    applied = apply(FOLD_AFFINE, text.replace("Neg(t)", f"Neg({taken})"), constants(random))
    assert applied.operators == ["Conv", "Neg"]


def test_the_result_used_twice_and_as_an_output(apply, random):
    text = graph("Conv", "Mul(c, k)", outputs=f", {RESULT} z", more="z = Mul(y, y)")
    assert apply(FOLD_AFFINE, text, constants(random)).operators == ["Conv", "Mul"]


def test_in_a_branch(apply, random):
    text = f"""g (float[n, 4, 7, 7] x, bool q) => ({RESULT} y) {{
        y = If(q) <then_branch = t () => ({RESULT} p) {{ c = Conv(x, w) p = Mul(k, c) }},
                   else_branch = e () => ({RESULT} r) {{ d = Conv(x, w, b) r = Div(d, k) }}>
    }}"""
    for taken in (True, False):
        applied = apply(FOLD_AFFINE, text, constants(random), feeds={"q": np.array(taken)})
        assert applied.operators == ["If", "Conv", "Conv"]
