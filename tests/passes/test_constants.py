"""fold-constants and lift-constants."""

import numpy as np
import pytest

from nncompile.passes.fold_constants import FOLD_CONSTANTS, LIFT_CONSTANTS

BRANCHES = """g (float[n, 3] x, bool k) => (float[n, 3] y) {{
    y = If(k) <then_branch = t () => (float[n, 3] p) {{ {then} }},
               else_branch = e () => (float[n, 3] q) {{ q = Neg(x) }}>
}}"""


@pytest.fixture
def weights(random):
    return {"w": random.standard_normal((4, 3)).astype("f4")}


def linear(nodes, *, inputs="", outputs=""):
    return f"g (float[n, 3] x{inputs}) => (float[n, 4] y{outputs}) {{ {nodes} }}"


@pytest.mark.parametrize(
    "nodes",
    [
        "t = Transpose<perm = [1, 0]>(w) y = MatMul(x, t)",
        "i = Identity(w) t = Transpose(i) u = Mul(t, t) y = MatMul(x, u)",
        "t = Transpose(w) s = Shape(t) r = Reshape(t, s) y = MatMul(x, r)",
        "t = Cast<to = 11>(w) u = Cast<to = 1>(t) v = Transpose(u) y = MatMul(x, v)",
    ],
)
def test_what_depends_on_weights_alone_is_computed_once(apply, weights, nodes):
    applied = apply(FOLD_CONSTANTS, linear(nodes), weights, engines=("onnxruntime", "reference"))
    assert applied.operators == ["MatMul"]
    assert [array.shape for array in applied.weights.values()] == [(3, 4)]


@pytest.mark.parametrize("dtype", ["float16", "float64", "int64"])
def test_dtypes(apply, dtype):
    kind = {"float64": "double"}.get(dtype, dtype)
    text = f"g ({kind}[n, 3] x) => ({kind}[n, 3] y) {{ u = Mul(w, w) y = Add(x, u) }}"
    applied = apply(FOLD_CONSTANTS, text, {"w": np.array([1, -2, 3], dtype)})
    assert applied.operators == ["Add"]
    np.testing.assert_array_equal(applied.weights["u"], np.array([1, 4, 9], dtype))


def test_shapes_that_are_known(apply):
    text = "g (float[5, 3] x) => (float[15] y) { s = Shape(x) p = ReduceProd(s) y = Reshape(x, p) }"
    assert apply(FOLD_CONSTANTS, text).operators == ["Reshape"]


def test_shapes_that_are_not_known_stay(apply):
    text = "g (float[n, 3] x) => (float[m] y) { s = Shape(x) p = ReduceProd(s) y = Reshape(x, p) }"
    applied = apply(FOLD_CONSTANTS, text)
    assert applied.operators == ["Shape", "ReduceProd", "Reshape"]
    assert applied.outcome.changes == 0


@pytest.mark.parametrize("rows", [1, 4000])
def test_a_large_weight_is_transposed(apply, random, rows):
    weights = {"w": random.standard_normal((rows, 3)).astype("f4")}
    text = f"g (float[n, 3] x) => (float[n, {rows}] y) {{ t = Transpose(w) y = MatMul(x, t) }}"
    assert apply(FOLD_CONSTANTS, text, weights).operators == ["MatMul"]


@pytest.mark.parametrize("node", ["Expand(w, s)", "ConstantOfShape(s)", "Tile(w, s)"])
def test_what_would_blow_up_the_file_stays(apply, node):
    text = f"g (float[n, 1] x) => (float[n, 1000000] y) {{ e = {node} y = Add(x, e) }}"
    weights = {"s": np.array([10**6])} | ({"w": np.ones(1, "f4")} if "w" in node else {})
    applied = apply(FOLD_CONSTANTS, text, weights)
    assert applied.operators == [node.split("(")[0], "Add"]
    assert len(applied.after.SerializeToString()) < 2000


def test_a_weight_that_a_caller_can_override(apply, weights):
    text = linear("t = Transpose(w) y = MatMul(x, t)", inputs=", float[4, 3] w")
    applied = apply(FOLD_CONSTANTS, text, weights)
    assert applied.operators == ["Transpose", "MatMul"]
    np.testing.assert_array_equal(applied.weights["w"], weights["w"])


def test_a_result_that_is_a_graph_output(apply, weights):
    text = linear("t = Transpose(w) y = MatMul(x, t)", outputs=", float[3, 4] t")
    assert apply(FOLD_CONSTANTS, text, weights).operators == ["MatMul"]


def test_an_intermediate_used_twice(apply, weights):
    text = linear("t = Transpose(w) u = MatMul(x, t) v = Mul(t, t) z = MatMul(x, v) y = Add(u, z)")
    assert apply(FOLD_CONSTANTS, text, weights).operators == ["MatMul", "MatMul", "Add"]


def test_a_weight_with_another_reader_stays(apply, weights):
    nodes = "t = Transpose(w) y = MatMul(x, t) z = Mul(w, s)"
    text = linear(nodes, inputs=", float s", outputs=", float[4, 3] z")
    applied = apply(FOLD_CONSTANTS, text, weights)
    np.testing.assert_array_equal(applied.weights["w"], weights["w"])


@pytest.mark.parametrize(
    "node",
    [
        "RandomNormal<shape = [3], seed = 1.0>()",
        "RandomUniformLike<seed = 1.0>(w)",
        "Bernoulli<seed = 1.0>(w)",
        "Dropout<seed = 1>(w, ratio, training)",
    ],
)
def test_random_numbers_are_not_frozen(apply, node):
    weights = {"w": np.full(3, 0.5, "f4"), "ratio": np.float32(0.5), "training": np.array(True)}
    weights = {name: value for name, value in weights.items() if name in node.split("(")[1]}
    text = f"g (float[n, 3] x) => (float[n, 3] y) {{ r = {node} y = Add(x, r) }}"
    # Not run: two sessions draw different numbers.
    assert len(apply(FOLD_CONSTANTS, text, weights, engines=()).operators) == 2


@pytest.mark.parametrize("value", [True, False])
def test_an_if_on_a_constant_is_replaced_by_its_branch(apply, value):
    text = BRANCHES.format(then="r = Relu(x) p = Mul(r, r)").replace(", bool k", "")
    applied = apply(FOLD_CONSTANTS, text, {"k": np.array(value)})
    assert applied.operators == (["Relu", "Mul"] if value else ["Neg"])


def test_in_a_branch(apply):
    text = BRANCHES.format(then="t = Transpose(w) b = Squeeze(t) p = Add(x, b)")
    applied = apply(FOLD_CONSTANTS, text, {"w": np.arange(3, dtype="f4").reshape(1, 3)})
    assert applied.operators == ["If", "Add", "Neg"]


def test_the_same_names_in_two_branches(apply):
    text = """g (float[n, 3] x, bool k) => (float[n, 3] y, float[3] b) {
        y = If(k) <then_branch = t () => (float[n, 3] p) { t = Transpose(w) s = Squeeze(t) p = Add(x, s) },
                   else_branch = e () => (float[n, 3] q) { t = Neg(w) s = Squeeze(t) q = Add(x, s) }>
        u = Exp(w)
        b = Squeeze(u)
    }"""
    applied = apply(FOLD_CONSTANTS, text, {"w": np.arange(3, dtype="f4").reshape(1, 3)})
    assert applied.operators == ["If", "Add", "Add"]


def test_nothing_to_fold(apply, weights):
    text = "g (float[n, 4] x) => (float[n, 3] y) { y = MatMul(x, w) }"
    assert apply(FOLD_CONSTANTS, text, weights).outcome.changes == 0


def test_a_replacement_of_more_nodes_is_a_change(apply):
    text = """g (float[n, 8] x, int64 i) => (float[n, 2] y) {
        s = SplitToSequence<axis = 1>(x, k) y = SequenceAt(s, i)
    }"""
    feeds = {"i": np.array(2)}
    applied = apply(FOLD_CONSTANTS, text, {"k": np.array([2, 2, 2, 2])}, feeds=feeds)
    assert applied.operators == ["Split", "SequenceConstruct", "SequenceAt"]


def test_a_weight_that_nothing_reads(apply, weights):
    text = "g (float[n, 3] x) => (float[n, 3] y) { y = Relu(x) }"
    applied = apply(FOLD_CONSTANTS, text, weights)
    assert (applied.operators, applied.weights, applied.outcome.changes) == (["Relu"], {}, 1)


def test_nothing_is_printed(apply, caplog, capfd):
    text = """g (float[n, 3] x) => (float[n, 3] y) {
        a, b, c = Split<num_outputs = 3>(w) d = Add(x, a) e = Add(d, b) y = Add(e, c)
    }"""
    apply(FOLD_CONSTANTS, text, {"w": np.arange(9, dtype="f4")})
    assert [record for record in caplog.records if record.levelname not in ("DEBUG", "INFO")] == []
    assert capfd.readouterr() == ("", "")


CONSTANTS = {
    "value_float = 2.0": np.float32(2),
    "value_floats = [1.0, 2.0, 3.0]": np.array([1, 2, 3], "f4"),
    "value = float[3] {1.0, 2.0, 3.0}": np.array([1, 2, 3], "f4"),
    "value = float {0.5}": np.float32(0.5),
}


@pytest.mark.parametrize(("attribute", "value"), CONSTANTS.items())
def test_lift(apply, attribute, value):
    text = f"g (float[n, 3] x) => (float[n, 3] y) {{ c = Constant<{attribute}>() y = Mul(x, c) }}"
    applied = apply(LIFT_CONSTANTS, text)
    assert applied.operators == ["Mul"]
    assert applied.outcome.changes == 1
    np.testing.assert_array_equal(applied.weights["c"], value)


@pytest.mark.parametrize(
    ("attribute", "value"), [("value_int = 3", 3), ("value_ints = [3]", [3]), ("value = int64[1] {3}", [3])]
)
def test_lift_integers(apply, attribute, value):
    nodes = f"c = Constant<{attribute}>() i = Cast<to = 7>(x) y = Mul(i, c)"
    text = f"g (float[n, 3] x) => (int64[n, 3] y) {{ {nodes} }}"
    applied = apply(LIFT_CONSTANTS, text)
    assert applied.operators == ["Cast", "Mul"]
    assert applied.weights["c"].dtype == np.int64
    np.testing.assert_array_equal(applied.weights["c"], value)


def test_a_constant_that_is_a_graph_output_stays(apply):
    text = "g (float[n, 3] x) => (float[n, 3] y, float c) { c = Constant<value_float = 2.0>() y = Mul(x, c) }"
    assert apply(LIFT_CONSTANTS, text).operators == ["Constant", "Mul"]


def test_lift_in_a_branch(apply):
    text = BRANCHES.format(then="c = Constant<value_float = 2.0>() p = Add(x, c)")
    assert apply(LIFT_CONSTANTS, text).operators == ["If", "Add", "Neg"]


def test_lift_with_several_readers_and_none(apply):
    text = """g (float[n, 3] x) => (float[n, 3] y) {
        c = Constant<value_float = 2.0>() d = Constant<value_float = 3.0>() z = Add(x, c) y = Mul(z, c)
    }"""
    applied = apply(LIFT_CONSTANTS, text)
    assert applied.operators == ["Add", "Mul"]
    assert applied.outcome.changes == 2


STANDARDISED = (
    "m = ReduceMean<keepdims = 1>(w, axes) d = Sub(w, m) s = Mul(d, d) v = Add(s, d) y = MatMul(x, v)"
)


def test_a_large_weight_that_is_normalised(apply, random):
    """Beyond the limits of onnxscript, which bound what grows."""
    weights = {"w": random.standard_normal((600, 500)).astype("f4") / 25, "axes": np.array([0])}
    text = f"g (float[n, 600] x) => (float[n, 500] y) {{ {STANDARDISED} }}"
    applied = apply(FOLD_CONSTANTS, text, weights)
    assert applied.operators == ["MatMul"]
    assert [array.shape for array in applied.weights.values()] == [(600, 500)]


def test_a_large_weight_that_something_else_reads_is_not_kept_twice(apply, random):
    weights = {"w": random.standard_normal((600, 500)).astype("f4")}
    text = """g (float[n, 500] x, int64[k] j) => (float[n, 600] y, float[k, 500] z) {
        t = Transpose(w) y = MatMul(x, t) z = Gather(w, j)
    }"""
    applied = apply(FOLD_CONSTANTS, text, weights, feeds={"j": np.array([1, 2])})
    assert applied.operators == ["Transpose", "MatMul", "Gather"]


def test_quantised_weights_stay(apply, random):
    weights = {
        "w": random.integers(-128, 128, (4, 3), dtype=np.int8),
        "scale": np.float32(0.1),
        "zero": np.int8(0),
    }
    text = "g (float[n, 4] x) => (float[n, 3] y) { d = DequantizeLinear(w, scale, zero) y = MatMul(x, d) }"
    applied = apply(FOLD_CONSTANTS, text, weights)
    assert applied.operators == ["DequantizeLinear", "MatMul"]
