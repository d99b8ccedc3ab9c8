"""merge-linear: Gemm and MatMul pairs; and every refusal."""

import numpy as np
import pytest
from rewrites import BEYOND_FLOAT16, KINDS, NOT_CONSTANT, as_an_input, unchanged, unchanged_as_shared

from nncompile.passes.merge_linear import MERGE_LINEAR

K, M, N = 4, 6, 5


def gemms(first="", second="", *, dtype="float32", biases=("c", "d"), outputs="", inputs="", more=""):
    kind = KINDS[dtype]
    shape = f"{K}, n" if "transA=1" in first else f"n, {K}"
    one, two = ("v, c" if "c" in biases else "v"), ("w, d" if "d" in biases else "w")
    return (
        f"g ({kind}[{shape}] x{inputs}) => ({kind}[n, {N}] y{outputs}) "
        f"{{ h = Gemm{first}(x, {one}) y = Gemm{second}(h, {two}) {more} }}"
    )


def constants(random, v=(K, M), w=(M, N), dtype="float32", biases=("c", "d")):
    values = {"v": random.standard_normal(v) / 2, "w": random.standard_normal(w) / 2}
    if "c" in biases:
        values["c"] = random.standard_normal(M)
    if "d" in biases:
        values["d"] = random.standard_normal(N)
    return {name: array.astype(dtype) for name, array in values.items()}


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("biases", ["", "c", "d", "cd"])
@pytest.mark.parametrize("second", [0, 1])
@pytest.mark.parametrize("first", [0, 1])
def test_gemms(apply, random, first, second, biases, dtype):
    shapes = ((M, K) if first else (K, M), (N, M) if second else (M, N))
    weights = constants(random, *shapes, dtype=dtype, biases=biases)
    text = gemms(f"<transB={first}>", f"<transB={second}>", dtype=dtype, biases=biases)
    applied = apply(MERGE_LINEAR, text, weights)
    assert applied.operators == ["Gemm"]
    assert applied.outcome.changes == 1
    merged = [applied.weights[name] for name in applied.node("Gemm").input[1:]]
    assert [array.dtype.name for array in merged] == [dtype] * (2 if biases else 1)
    assert merged[0].shape == ((N, K) if second else (K, N))


@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.parametrize("bias", [(), (1,), (1, 1), "row"])
def test_gemm_attributes(apply, random, bias, transposed):
    weights = constants(random)
    for name, size in (("c", M), ("d", N)):
        shape = (1, size) if bias == "row" else bias
        weights[name] = np.asarray(random.standard_normal(shape)).astype("f4")
    text = gemms(f"<transA={transposed}, alpha=0.5, beta=-1.5>", "<alpha=-2.0, beta=0.25>")
    applied = apply(MERGE_LINEAR, text, weights, engines=("onnxruntime", "reference"))
    assert applied.operators == ["Gemm"]
    attributes = {a.name for a in applied.node("Gemm").attribute}
    assert attributes == ({"transA"} if transposed else set())


@pytest.mark.parametrize("transposed", [0, 1])
def test_square_gemms(apply, random, transposed):
    weights = {name: random.standard_normal((K, K)).astype("f4") for name in "vw"}
    text = gemms(f"<transB={transposed}>", biases="").replace(f"n, {N}]", f"n, {K}]")
    assert apply(MERGE_LINEAR, text, weights).operators == ["Gemm"]


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("shape", ["4", "n, 4", "2, n, 4"])
def test_matmuls(apply, random, shape, dtype):
    kind = KINDS[dtype]
    text = f"g ({kind}[{shape}] x) => ({kind}[{shape[:-1]}5] y) {{ h = MatMul(x, v) y = MatMul(h, w) }}"
    applied = apply(MERGE_LINEAR, text, constants(random, dtype=dtype, biases=""))
    assert applied.operators == ["MatMul"]
    assert applied.outcome.changes == 1


def test_a_chain_is_merged_whole(apply, random):
    text = "g (float[n, 4] x) => (float[n, 4] y) { h = Gemm(x, v, c) i = Gemm(h, v, c) y = Gemm(i, v, c) }"
    weights = {"v": random.standard_normal((4, 4)).astype("f4"), "c": np.ones(4, "f4")}
    applied = apply(MERGE_LINEAR, text, weights)
    assert applied.operators == ["Gemm"]
    assert applied.outcome.changes == 2


def test_the_merged_weight_is_the_exact_one_rounded_once(apply, random):
    values = constants(random)
    applied = apply(MERGE_LINEAR, gemms(), values)
    v, w, c, d = (values[name].astype("f8") for name in "vwcd")
    weight, bias = (applied.weights[name] for name in applied.node("Gemm").input[1:])
    np.testing.assert_array_equal(weight, (v @ w).astype("f4"))
    np.testing.assert_array_equal(bias, (c @ w + d).astype("f4"))


@pytest.mark.parametrize(("between", "merges"), [(1, False), (2, False), (3, True)])
def test_only_where_the_multiplications_fall(apply, random, between, merges):
    """4 x 4 through 2 values is 16 multiplications either way."""
    text = "g (float[n, 4] x) => (float[n, 4] y) { h = Gemm(x, v) y = Gemm(h, w) }"
    weights = {"v": random.standard_normal((4, between)), "w": random.standard_normal((between, 4))}
    applied = apply(MERGE_LINEAR, text, {name: array.astype("f4") for name, array in weights.items()})
    if merges:
        assert applied.operators == ["Gemm"]
    else:
        unchanged(applied, f"one layer would take 16 multiplications, the two take {8 * between}")


def test_a_second_layer_that_transposes_its_input(apply, random):
    text = "g (float[4, 4] x) => (float[4, 4] y) { h = Gemm(x, v) y = Gemm<transA=1>(h, v) }"
    weights = {"v": random.standard_normal((4, 4)).astype("f4")}
    unchanged(apply(MERGE_LINEAR, text, weights), "the second layer transposes its input")


@pytest.mark.parametrize("name", ["c", "d"])
def test_a_bias_that_differs_by_row(apply, random, name):
    weights = constants(random) | {name: np.ones((3, 1), "f4")}
    text = gemms().replace("[n,", "[3,")
    reason = "a bias of shape [3, 1] is not one value for each channel"
    unchanged(apply(MERGE_LINEAR, text, weights), reason)


@pytest.mark.parametrize(("v", "w"), [((2, 4, 6), (6, 5)), ((4, 6), (2, 6, 5)), ((4, 6), (6,))])
def test_matmul_weights_of_other_ranks(apply, random, v, w):
    result = "n, d" if len(w) == 1 else "2, n, 5"
    inputs = "float[2, n, 4]" if len(w) == 1 else "float[n, 4]"
    text = f"g ({inputs} x) => (float[{result}] y) {{ h = MatMul(x, v) y = MatMul(h, w) }}"
    weights = constants(random, v, w, biases="")
    reason = f"the weights have rank {len(v)} and {len(w)}, not 2"
    unchanged(apply(MERGE_LINEAR, text, weights), reason)


@pytest.mark.parametrize("name", ["v", "w", "c", "d"])
@pytest.mark.parametrize("default", [True, False])
def test_a_weight_that_is_an_input(apply, random, name, default):
    weights = constants(random)
    text = gemms(inputs=as_an_input(weights, name, default))
    unchanged(apply(MERGE_LINEAR, text, weights), NOT_CONSTANT)


def test_a_product_of_values(apply, random):
    text = "g (float[4, 4] x) => (float[4, 4] y) { h = MatMul(x, x) y = MatMul(h, x) }"
    unchanged(apply(MERGE_LINEAR, text, {}), NOT_CONSTANT)


def test_integers(apply):
    text = "g (int32[n, 4] x) => (int32[n, 4] y) { h = MatMul(x, v) y = MatMul(h, v) }"
    applied = apply(MERGE_LINEAR, text, {"v": np.ones((4, 4), "i4")})
    unchanged(applied, "the weights are of dtype int32")


def test_bfloat16(apply, random):
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    weights = constants(random, dtype=bfloat16)
    applied = apply(MERGE_LINEAR, gemms(dtype="bfloat16"), weights, engines=(), opset=22)
    unchanged(applied, "the weights are of dtype bfloat16")


@pytest.mark.parametrize(("name", "factor", "reason"), BEYOND_FLOAT16)
def test_what_the_dtype_cannot_hold(apply, random, name, factor, reason):
    weights = constants(random)
    weights["w"] = np.abs(weights["w"]) + np.float32(1)
    weights[name] = np.sign(weights[name]) ** 2 * np.float32(factor)
    weights = {key: value.astype("f2") for key, value in weights.items()}
    applied = apply(MERGE_LINEAR, gemms(dtype="float16"), weights, engines=())
    unchanged(applied, reason)


@pytest.mark.parametrize(
    ("outputs", "more"),
    [
        (f", float[n, {M}] z", "z = Relu(h)"),
        (f", float[n, {M}] h", ""),
        (f", float[n, {N}] z", "z = Gemm(h, w)"),
    ],
)
def test_an_intermediate_that_others_read(apply, random, outputs, more):
    unchanged_as_shared(apply(MERGE_LINEAR, gemms(outputs=outputs, more=more), constants(random)))


def test_shared_weights_stay_for_their_other_readers(apply, random):
    outputs = f", float[n, {N}] z, float[{K}, {M}] u"
    text = gemms(outputs=outputs, more="i = Gemm(x, v) z = Gemm(i, w, d) u = Neg(v)")
    weights = constants(random)
    applied = apply(MERGE_LINEAR, text, weights)
    assert applied.operators == ["Gemm", "Gemm", "Neg"]
    assert applied.outcome.changes == 2
    for name in "vwcd":
        np.testing.assert_array_equal(applied.weights[name], weights[name])


@pytest.mark.parametrize(
    "nodes",
    [
        "h = Gemm(x, v, c) i = Relu(h) y = Gemm(i, w, d)",
        "h = Gemm(x, v, c) y = MatMul(h, w)",
        "h = Gemm(x, v, c) y = Gemm(w2, h)",
    ],
)
def test_other_graphs_are_left_alone_without_a_word(apply, random, nodes):
    weights = constants(random) | {"w2": random.standard_normal((2, 3)).astype("f4")}
    unchanged(apply(MERGE_LINEAR, f"g (float[3, {K}] x) => (float[m, p] y) {{ {nodes} }}", weights))


def test_in_a_branch(apply, random):
    text = f"""g (float[n, {K}] x, bool q) => (float[n, {N}] y) {{
        y = If(q) <then_branch = t () => (float[n, {N}] p) {{ h = Gemm(x, v, c) p = Gemm(h, w) }},
                   else_branch = e () => (float[n, {N}] r) {{ i = MatMul(x, v) r = MatMul(i, w) }}>
    }}"""
    for taken in (True, False):
        applied = apply(MERGE_LINEAR, text, constants(random), feeds={"q": np.array(taken)})
        assert applied.operators == ["If", "Gemm", "MatMul"]
