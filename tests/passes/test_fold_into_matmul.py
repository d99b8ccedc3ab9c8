"""fold-into-matmul: every operator, form of layer and shape of constant; and every refusal."""

import numpy as np
import pytest
from rewrites import KINDS, NORM_NOT_CONSTANT, SHARED, as_an_input, statistics, unchanged

from nncompile.passes.fold_into_matmul import FOLD_INTO_MATMUL

NO_COLUMNS = "the channels of the batch norm are not the columns of the product"
IN, OUT = 4, 6
PLAIN, BIASED, REVERSED = (
    "l = MatMul(x, w)",
    "p = MatMul(x, w) l = Add(p, b)",
    "p = MatMul(x, w) l = Add(b, p)",
)
SCALES = ["Mul(l, k)", "Mul(k, l)", "Div(l, k)"]
SHIFTS = ["Add(l, k)", "Add(k, l)", "Sub(l, k)", "Sub(k, l)"]
NORM = "BatchNormalization<epsilon=0.001>({}, scale, shift, mean, var)"
TURNED = f"{BIASED} t = Transpose<perm=[0, 2, 1]>(l) y = {NORM.format('t')}"


def graph(nodes, *, dtype="float32", shape=f"n, 5, {IN}", result=f"n, 5, {OUT}", inputs="", more=""):
    kind = KINDS[dtype]
    return f"g ({kind}[{shape}] x{inputs}) => ({kind}[{result}] y{more}) {{ {nodes} }}"


def constants(random, k=(OUT,), b=(OUT,), w=(IN, OUT), dtype="float32"):
    """Weights, and a constant away from 0 and of both signs."""
    values = {"w": random.standard_normal(w) / 2, "b": random.standard_normal(b)}
    values["k"] = random.uniform(0.5, 2, k) * random.choice([-1, 1], k)
    return {name: np.asarray(value).astype(dtype) for name, value in values.items()}


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("layer", [PLAIN, BIASED, REVERSED])
@pytest.mark.parametrize("form", SCALES)
def test_scales(apply, random, form, layer, dtype):
    applied = apply(
        FOLD_INTO_MATMUL, graph(f"{layer} y = {form}", dtype=dtype), constants(random, dtype=dtype)
    )
    assert applied.operators == ["MatMul"] + ["Add"] * (layer != PLAIN)
    assert applied.outcome.changes == 1
    assert applied.weights[applied.node("MatMul").input[1]].dtype == dtype


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("layer", [BIASED, REVERSED])
@pytest.mark.parametrize("form", SHIFTS)
def test_shifts(apply, random, form, layer, dtype):
    applied = apply(
        FOLD_INTO_MATMUL, graph(f"{layer} y = {form}", dtype=dtype), constants(random, dtype=dtype)
    )
    assert applied.operators == ["MatMul", "Add"]
    assert applied.outcome.changes == 1
    assert (applied.node("MatMul").input[1] == "w") == (form != "Sub(k, l)")
    assert applied.weights[applied.node("Add").input[1]].dtype == dtype


@pytest.mark.parametrize("form", SHIFTS)
def test_a_bias_is_left_as_it_is(apply, random, form):
    unchanged(apply(FOLD_INTO_MATMUL, graph(f"{PLAIN} y = {form}"), constants(random)))


@pytest.mark.parametrize("layer", [PLAIN, BIASED])
def test_a_constant_divided_by_the_layer(apply, random, layer):
    unchanged(apply(FOLD_INTO_MATMUL, graph(f"{layer} y = Div(k, l)"), constants(random), engines=()))


@pytest.mark.parametrize("b", [(), (1,), (1, 1), (1, 1, OUT)])
@pytest.mark.parametrize("k", [(), (1,), (OUT,), (1, 1), (1, OUT), (1, 1, 1), (1, 1, OUT)])
@pytest.mark.parametrize("form", ["Mul(l, k)", "Sub(k, l)"])
def test_every_shape_of_constant_and_bias(apply, random, form, k, b):
    applied = apply(
        FOLD_INTO_MATMUL,
        graph(f"{BIASED} y = {form}"),
        constants(random, k, b),
        engines=("onnxruntime", "reference"),
    )
    assert applied.operators == ["MatMul", "Add"]


@pytest.mark.parametrize(
    ("shape", "result"),
    [(f"{IN}", f"{OUT}"), (f"n, {IN}", f"n, {OUT}"), (f"n, 2, m, {IN}", f"n, 2, m, {OUT}")],
)
def test_inputs_of_other_ranks(apply, random, shape, result):
    text = graph(f"{BIASED} y = Mul(l, k)", shape=shape, result=result)
    assert apply(FOLD_INTO_MATMUL, text, constants(random)).operators == ["MatMul", "Add"]


def test_a_square_weight(apply, random):
    text = graph("l = MatMul(x, w) y = Mul(l, k)", result=f"n, 5, {IN}")
    assert apply(FOLD_INTO_MATMUL, text, constants(random, (IN,), w=(IN, IN))).operators == ["MatMul"]


def test_a_chain_is_folded_whole(apply, random):
    text = graph(f"{BIASED} d = Mul(l, k) e = Div(d, k) h = Add(k, e) y = Sub(k, h)")
    applied = apply(FOLD_INTO_MATMUL, text, constants(random))
    assert applied.operators == ["MatMul", "Add"]
    assert applied.outcome.changes == 4


def test_the_folded_weight_is_the_exact_one_rounded_once(apply, random):
    values = constants(random)
    applied = apply(FOLD_INTO_MATMUL, graph(f"{BIASED} y = Div(l, k)"), values)
    w, b, k = (values[name].astype("f8") for name in "wbk")
    np.testing.assert_array_equal(
        applied.weights[applied.node("MatMul").input[1]], (w * (1 / k)).astype("f4")
    )
    np.testing.assert_array_equal(applied.weights[applied.node("Add").input[1]], (b * (1 / k)).astype("f4"))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("layer", [PLAIN, BIASED, REVERSED])
def test_batch_norm_of_a_matrix(apply, random, layer, dtype):
    text = graph(f"{layer} y = {NORM.format('l')}", dtype=dtype, shape=f"n, {IN}", result=f"n, {OUT}")
    applied = apply(FOLD_INTO_MATMUL, text, constants(random, dtype=dtype) | statistics(random, OUT, dtype))
    assert applied.operators == ["MatMul", "Add"]


@pytest.mark.parametrize("layer", [PLAIN, BIASED])
@pytest.mark.parametrize(
    ("perm", "shape", "result"),
    [
        ([0, 2, 1], f"n, 5, {IN}", f"n, {OUT}, 5"),
        ([1, 2, 0], f"n, 5, {IN}", f"5, {OUT}, n"),
        ([0, 3, 1, 2], f"n, 5, 2, {IN}", f"n, {OUT}, 5, 2"),
    ],
)
def test_batch_norm_of_columns_that_became_channels(apply, random, perm, shape, result, layer):
    nodes = f"{layer} t = Transpose<perm={perm}>(l) y = {NORM.format('t')}"
    weights = constants(random) | statistics(random, OUT)
    applied = apply(FOLD_INTO_MATMUL, graph(nodes, shape=shape, result=result), weights)
    assert applied.operators == ["MatMul", "Add", "Transpose"]
    assert list(applied.node("Transpose").attribute[0].ints) == perm


def test_the_batch_norm_is_the_exact_one_rounded_once(apply, random):
    values = constants(random) | statistics(random, OUT)
    applied = apply(FOLD_INTO_MATMUL, graph(TURNED, result=f"n, {OUT}, 5"), values)
    exact = {name: array.astype("f8") for name, array in values.items()}
    factor = exact["scale"] / np.sqrt(exact["var"] + np.float32(0.001).astype("f8"))
    weight, bias = (applied.weights[applied.node(name).input[1]] for name in ("MatMul", "Add"))
    np.testing.assert_array_equal(weight, (exact["w"] * factor).astype("f4"))
    expected = (exact["b"] - exact["mean"]) * factor + exact["shift"]
    np.testing.assert_allclose(bias, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("nodes", "result"),
    [
        (f"{BIASED} y = {NORM.format('l')}", f"n, {OUT}, {OUT}"),
        (f"{BIASED} t = Transpose<perm=[2, 1, 0]>(l) y = {NORM.format('t')}", f"{OUT}, {OUT}, n"),
        (f"{BIASED} t = Transpose(l) y = {NORM.format('t')}", f"{OUT}, {OUT}, n"),
    ],
)
def test_batch_norm_of_another_axis(apply, random, nodes, result):
    weights = constants(random) | statistics(random, OUT)
    text = graph(nodes, shape=f"n, {OUT}, {IN}", result=result)
    unchanged(apply(FOLD_INTO_MATMUL, text, weights), NO_COLUMNS)


def test_batch_norm_in_training_mode(apply, random):
    text = graph(
        TURNED.replace("<epsilon=0.001>", "<training_mode=1>").replace("y =", "y, q, r ="),
        result=f"n, {OUT}, 5",
    )
    applied = apply(FOLD_INTO_MATMUL, text, constants(random) | statistics(random, OUT))
    unchanged(applied, "the batch norm is in training mode")


@pytest.mark.parametrize("name", ["scale", "shift", "mean", "var"])
def test_a_statistic_from_outside(apply, random, name):
    text = graph(TURNED, result=f"n, {OUT}, 5", inputs=f", float[{OUT}] {name}")
    applied = apply(FOLD_INTO_MATMUL, text, constants(random) | statistics(random, OUT))
    unchanged(applied, NORM_NOT_CONSTANT)


@pytest.mark.parametrize("value", [-1.0, np.nan])
def test_a_variance_that_gives_no_finite_scale(apply, random, value):
    weights = constants(random) | statistics(random, OUT)
    weights["var"][1] = value
    applied = apply(FOLD_INTO_MATMUL, graph(TURNED, result=f"n, {OUT}, 5"), weights)
    unchanged(applied, "the running statistics give a scale that is not finite")


@pytest.mark.parametrize(
    ("k", "reason"),
    [
        ((5, 1), "a constant of shape [5, 1] is not one value for each column"),
        ((5, OUT), f"a constant of shape [5, {OUT}] is not one value for each column"),
        ((1, 1, 1, OUT), "a constant of rank 4 may enlarge the result"),
    ],
)
@pytest.mark.parametrize("form", ["Mul(l, k)", "Add(l, k)"])
def test_other_shapes_of_constant(apply, random, k, reason, form):
    result = ", ".join(f"d{axis}" for axis in range(max(3, len(k))))
    unchanged(
        apply(FOLD_INTO_MATMUL, graph(f"{BIASED} y = {form}", result=result), constants(random, k)), reason
    )


def test_a_constant_that_enlarges_a_single_column(apply, random):
    text = graph("l = MatMul(x, w) y = Mul(l, k)")
    applied = apply(FOLD_INTO_MATMUL, text, constants(random, w=(IN, 1)))
    unchanged(applied, f"a constant of shape [{OUT}] would enlarge the result of 1 columns")


@pytest.mark.parametrize(
    ("b", "reason"),
    [
        ((5, 1), "a constant of shape [5, 1] is not one value for each column"),
        ((1, 1, 1, OUT), "a constant of rank 4 may enlarge the result"),
    ],
)
def test_other_shapes_of_bias(apply, random, b, reason):
    result = ", ".join(f"d{axis}" for axis in range(max(3, len(b))))
    unchanged(
        apply(FOLD_INTO_MATMUL, graph(f"{BIASED} y = Mul(l, k)", result=result), constants(random, b=b)),
        reason,
    )


@pytest.mark.parametrize(
    ("w", "shape"),
    [((2, IN, OUT), f"n, 2, 5, {IN}"), ((1, IN, OUT), f"n, 2, 5, {IN}"), ((IN,), f"n, 2, 5, {IN}")],
)
def test_weights_of_other_ranks(apply, random, w, shape):
    text = graph("l = MatMul(x, w) y = Mul(l, k)", shape=shape, result="a, b2, c" + ", d" * (len(w) == 3))
    unchanged(
        apply(FOLD_INTO_MATMUL, text, constants(random, (1,), w=w)), f"the weight has rank {len(w)}, not 2"
    )


@pytest.mark.parametrize("name", ["w", "k"])
@pytest.mark.parametrize("default", [True, False])
def test_a_product_of_values_and_a_scale_from_outside_are_no_near_misses(apply, random, name, default):
    weights = constants(random)
    text = graph(f"{BIASED} y = Mul(l, k)", inputs=as_an_input(weights, name, default))
    unchanged(apply(FOLD_INTO_MATMUL, text, weights))


@pytest.mark.parametrize("form", ["Mul(l, k)", "Add(l, k)"])
def test_a_residual(apply, random, form):
    text = graph(f"p = MatMul(x, w) l = Add(p, r) y = {form}", inputs=f", float[n, 5, {OUT}] r")
    unchanged(
        apply(FOLD_INTO_MATMUL, text, constants(random)), "what is added to the product is not constant"
    )
    text = graph(f"{BIASED} y = Add(l, r)", inputs=f", float[n, 5, {OUT}] r")
    unchanged(apply(FOLD_INTO_MATMUL, text, constants(random)))


def test_a_constant_times_a_value(apply, random):
    """The weight is the right factor: here it is the input of the layer."""
    text = f"g (float[{OUT}, n] x) => (float[{IN}, n] y) {{ l = MatMul(w, x) y = Mul(l, k) }}"
    unchanged(apply(FOLD_INTO_MATMUL, text, constants(random, (1,))))


def test_integers(apply):
    text = f"g (int32[n, {IN}] x) => (int32[n, {OUT}] y) {{ l = MatMul(x, w) y = Mul(l, k) }}"
    applied = apply(FOLD_INTO_MATMUL, text, {"w": np.ones((IN, OUT), "i4"), "k": np.array(2, "i4")})
    unchanged(applied, "the weights are of dtype int32")


def test_bfloat16(apply, random):
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    text = graph(f"{BIASED} y = Mul(l, k)", dtype="bfloat16")
    applied = apply(FOLD_INTO_MATMUL, text, constants(random, dtype=bfloat16), engines=(), opset=22)
    unchanged(applied, "the weights are of dtype bfloat16")


@pytest.mark.parametrize(
    ("form", "k", "reason"),
    [
        ("Mul(l, k)", np.inf, "a folded weight is not finite"),
        ("Div(l, k)", 0.0, "a folded weight is not finite"),
        ("Add(l, k)", np.nan, "a folded weight is not finite"),
        ("Mul(l, k)", 6e4, "a folded weight is beyond the range of float16"),
        ("Mul(l, k)", 1e-6, "the folded weights of a channel are too small for float16"),
    ],
)
def test_what_the_dtype_cannot_hold(apply, random, form, k, reason):
    weights = constants(random, (), dtype="float16") | {"k": np.float16(k)}
    weights["w"][:] = 2
    applied = apply(FOLD_INTO_MATMUL, graph(f"{BIASED} y = {form}", dtype="float16"), weights, engines=())
    unchanged(applied, reason)


@pytest.mark.parametrize(
    ("nodes", "more"),
    [
        (f"{BIASED} y = Mul(l, k) z = Relu(l)", f", float[n, 5, {OUT}] z"),
        (f"{BIASED} y = Mul(l, k)", f", float[n, 5, {OUT}] l"),
        (f"{BIASED} y = Mul(l, k)", f", float[n, 5, {OUT}] p"),
        (f"{BIASED} y = Mul(l, k) z = Relu(p)", f", float[n, 5, {OUT}] z"),
        (f"{PLAIN} y = Mul(l, k)", f", float[n, 5, {OUT}] l"),
    ],
)
def test_an_intermediate_that_others_read(apply, random, nodes, more):
    unchanged(apply(FOLD_INTO_MATMUL, graph(nodes, more=more), constants(random)), SHARED)


def test_shared_weights_stay_for_their_other_readers(apply, random):
    nodes = f"{BIASED} y = Mul(l, k) q = MatMul(x, w) r = Add(q, b) z = Mul(r, b) u = Neg(w)"
    text = graph(nodes, more=f", float[n, 5, {OUT}] z, float[{IN}, {OUT}] u")
    weights = constants(random)
    applied = apply(FOLD_INTO_MATMUL, text, weights)
    assert applied.outcome.changes == 2
    np.testing.assert_array_equal(applied.weights["w"], weights["w"])


def test_in_a_branch(apply, random):
    result = f"float[n, 5, {OUT}]"
    text = f"""g (float[n, 5, {IN}] x, bool c) => ({result} y) {{
        y = If(c) <then_branch = t () => ({result} d) {{ p = MatMul(x, w) l = Add(p, b) d = Mul(l, k) }},
                   else_branch = e () => ({result} f) {{ q = MatMul(x, w) f = Div(q, k) }}>
    }}"""
    for taken in (True, False):
        applied = apply(FOLD_INTO_MATMUL, text, constants(random), feeds={"c": np.array(taken)})
        assert applied.operators == ["If", "MatMul", "Add", "MatMul"]
