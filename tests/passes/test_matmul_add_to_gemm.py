"""matmul-add-to-gemm: both operand orders, every bias that fits, and each refusal."""

import numpy as np
import pytest
from rewrites import SHARED

from nncompile.passes.matmul_add_to_gemm import MATMUL_ADD_TO_GEMM

UNKNOWN = "a shape is not known"
TOO_MANY_ROWS = "the added tensor may have more rows than the product"


def linear(*, x="float[n, 3]", y="float[n, 4]", reverse=False, inputs="", nodes="a = MatMul(x, w)"):
    add = "y = Add(b, a)" if reverse else "y = Add(a, b)"
    return f"g ({x} x{inputs}) => ({y} y) {{ {nodes} {add} }}"


@pytest.fixture
def weights(random):
    return {"w": random.standard_normal((3, 4)).astype("f4"), "b": random.standard_normal(4).astype("f4")}


def refused(applied, *reasons):
    assert applied.outcome.changes == 0
    assert set(applied.reasons) == set(reasons)
    assert "Gemm" not in applied.operators


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("shape", [(), (1,), (4,), (1, 1), (1, 4)])
def test_bias(apply, weights, shape, dtype, reverse):
    weights["b"] = np.arange(1, 5).reshape(-1)[: int(np.prod(shape))].reshape(shape)
    kind = {"float16": "float16[", "float32": "float[", "float64": "double["}[dtype]
    text = linear(reverse=reverse).replace("float[", kind)
    applied = apply(MATMUL_ADD_TO_GEMM, text, {k: v.astype(dtype) for k, v in weights.items()})
    assert applied.operators == ["Gemm"]
    assert list(applied.node("Gemm").input) == ["x", "w", "b"]
    assert applied.outcome.changes == 1


@pytest.mark.parametrize("shape", [(2, 1), (2, 4)])
@pytest.mark.parametrize("reverse", [False, True])
def test_a_bias_by_row_where_the_rows_are_known(apply, weights, shape, reverse):
    weights["b"] = np.arange(np.prod(shape), dtype="f4").reshape(shape)
    text = linear(x="float[2, 3]", y="float[2, 4]", reverse=reverse)
    applied = apply(MATMUL_ADD_TO_GEMM, text, weights, engines=("onnxruntime", "reference"))
    assert applied.operators == ["Gemm"]


@pytest.mark.parametrize("opset", [13, 20])
def test_opsets(apply, weights, opset):
    assert apply(MATMUL_ADD_TO_GEMM, linear(), weights, opset=opset).operators == ["Gemm"]


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(
    ("shape", "x", "y", "reason"),
    [
        ((3, 1, 4), "float[n, 3]", "float[3, n, 4]", "the added tensor has rank 3"),
        ((1, 1, 4), "float[n, 3]", "float[1, n, 4]", "the added tensor has rank 3"),
        ((3, 4), "float[n, 3]", "float[r, 4]", TOO_MANY_ROWS),
        ((3, 1), "float[n, 3]", "float[r, 4]", TOO_MANY_ROWS),
        ((5, 4), "float[1, 3]", "float[5, 4]", TOO_MANY_ROWS),
    ],
)
def test_a_bias_that_may_enlarge_the_result(apply, weights, shape, x, y, reason, reverse):
    weights["b"] = np.arange(np.prod(shape), dtype="f4").reshape(shape)
    refused(apply(MATMUL_ADD_TO_GEMM, linear(x=x, y=y, reverse=reverse), weights), reason)


def test_a_bias_that_enlarges_the_columns(apply, weights, random):
    weights["w"] = random.standard_normal((3, 1)).astype("f4")
    refused(apply(MATMUL_ADD_TO_GEMM, linear(), weights), "the added tensor has 4 columns, the product 1")


@pytest.mark.parametrize(
    ("x", "y", "w", "left", "right"),
    [
        ("float[n, 2, 3]", "float[n, 2, 4]", (3, 4), 3, 2),
        ("float[3]", "float[4]", (3, 4), 1, 2),
        ("float[n, 3]", "float[2, n, 4]", (2, 3, 4), 2, 3),
        ("float[1, 2, 3]", "float[1, 2, 4]", (1, 3, 4), 3, 3),
    ],
)
def test_factors_of_other_ranks(apply, weights, random, x, y, w, left, right):
    weights["w"] = random.standard_normal(w).astype("f4")
    reason = f"the factors have rank {left} and {right}, not 2"
    refused(apply(MATMUL_ADD_TO_GEMM, linear(x=x, y=y), weights), reason)


@pytest.mark.parametrize("unknown", ["a = MatMul(u, w)", "v = Reshape(w, s) a = MatMul(x, v)"])
def test_a_factor_of_unknown_shape(apply, weights, unknown):
    nodes = f"u = Reshape(x, s) {unknown}"
    text = linear(x="float[4, 3]", y="float[4, 4]", inputs=", int64[k] s", nodes=nodes)
    feeds = {"s": np.array([4, 3]) if "u, w" in unknown else np.array([3, 4])}
    refused(apply(MATMUL_ADD_TO_GEMM, text, weights, feeds=feeds), UNKNOWN)


def test_a_bias_of_unknown_shape(apply, weights):
    text = linear(inputs=", int64[k] s", nodes="a = MatMul(x, w) b = Reshape(b0, s)")
    weights["b0"] = weights.pop("b")
    refused(apply(MATMUL_ADD_TO_GEMM, text, weights, feeds={"s": np.array([4])}), UNKNOWN)


def test_a_bias_with_an_unknown_number_of_columns(apply, weights):
    text = linear(inputs=", float[m] b")
    del weights["b"]
    feeds = {"b": np.ones(1, "f4")}
    applied = apply(MATMUL_ADD_TO_GEMM, text, weights, feeds=feeds)
    refused(applied, "the added tensor has None columns, the product 4")


@pytest.mark.parametrize("kind", ["int32", "int64", "uint32", "uint64"])
def test_integers(apply, kind):
    # ONNX Runtime computes integer MatMul on the CPU, but no integer Gemm.
    values = {"w": np.arange(12).reshape(3, 4).astype(kind), "b": np.arange(4).astype(kind)}
    applied = apply(MATMUL_ADD_TO_GEMM, linear().replace("float[", f"{kind}["), values)
    assert applied.operators == ["MatMul", "Add"]
    assert all(kind in reason for reason in applied.reasons)


@pytest.mark.parametrize(("output", "nodes"), [("z", "z = Relu(a)"), ("a", ""), ("z", "z = Add(b, a)")])
def test_a_product_that_others_read(apply, weights, output, nodes):
    text = f"""g (float[n, 3] x) => (float[n, 4] y, float[n, 4] {output}) {{
        a = MatMul(x, w) y = Add(a, b) {nodes}
    }}"""
    refused(apply(MATMUL_ADD_TO_GEMM, text, weights), SHARED)


def test_a_product_added_to_itself(apply, random):
    text = "g (float[3, 3] x) => (float[3, 3] y) { a = MatMul(x, w) y = Add(a, a) }"
    applied = apply(MATMUL_ADD_TO_GEMM, text, {"w": random.standard_normal((3, 3)).astype("f4")})
    assert applied.outcome.changes == 0


def test_two_products_of_known_rows(apply, weights, random):
    text = linear(x="float[2, 3]", y="float[2, 4]", nodes="a = MatMul(x, w) b = MatMul(x, v)")
    del weights["b"]
    weights["v"] = random.standard_normal((3, 4)).astype("f4")
    assert sorted(apply(MATMUL_ADD_TO_GEMM, text, weights).operators) == ["Gemm", "MatMul"]


def test_shared_and_overridable_weights_stay_what_they_are(apply, weights):
    text = """g (float[n, 3] x, float[4] b) => (float[n, 4] y, float[n, 4] z) {
        a = MatMul(x, w) y = Add(a, b)
        c = MatMul(x, w) z = Add(b, c)
    }"""
    applied = apply(MATMUL_ADD_TO_GEMM, text, weights)
    assert applied.operators == ["Gemm", "Gemm"]
    assert [value.name for value in applied.after.graph.input] == ["x", "b"]
    assert list(applied.weights) == ["w", "b"]


@pytest.mark.parametrize("branch", [True, False])
def test_in_branches_of_an_if(apply, weights, branch):
    text = """g (float[n, 3] x, bool k) => (float[n, 4] y) {
        y = If(k) <then_branch = t () => (float[n, 4] p) { a = MatMul(x, w) p = Add(a, b) },
                   else_branch = e () => (float[n, 4] q) { a = MatMul(x, w) q = Add(b, a) }>
    }"""
    applied = apply(MATMUL_ADD_TO_GEMM, text, weights, feeds={"k": np.array(branch)})
    assert applied.operators == ["If", "Gemm", "Gemm"]
    assert applied.outcome.changes == 2


def test_a_chain(apply, weights, random):
    text = """g (float[n, 3] x) => (float[n, 2] y) {
        a = MatMul(x, w) h = Add(a, b) r = Relu(h) c = MatMul(r, v) y = Add(d, c)
    }"""
    weights |= {"v": random.standard_normal((4, 2)).astype("f4"), "d": np.ones(2, "f4")}
    assert apply(MATMUL_ADD_TO_GEMM, text, weights).operators == ["Gemm", "Relu", "Gemm"]


def test_the_node_keeps_the_path_of_its_module(apply, weights):
    nodes = '["head.fc/MatMul"] a = MatMul(x, w)'
    assert apply(MATMUL_ADD_TO_GEMM, linear(nodes=nodes), weights).node("Gemm").name == "head.fc/Gemm"
