"""merge-linear of layers on sequences, whose biases are Adds of their own; and every refusal."""

import numpy as np
import pytest
from rewrites import FLOATS, KINDS, NOT_CONSTANT, unchanged, unchanged_as_shared

from nncompile.passes.merge_linear import MERGE_LINEAR

NO_BIAS = "what is added to the first product is not one constant for each column"
K, M, N = 4, 6, 5
FIRST = ["h = MatMul(x, v) i = Add(h, c)", "h = MatMul(x, v) i = Add(c, h)"]
SECOND = ["y = MatMul(i, w)", "j = MatMul(i, w) y = Add(j, d)", "j = MatMul(i, w) y = Add(d, j)"]


def graph(nodes, *, dtype="float32", shape=f"n, 3, {K}", result=f"n, 3, {N}", inputs="", more=""):
    kind = KINDS[dtype]
    return f"g ({kind}[{shape}] x{inputs}) => ({kind}[{result}] y{more}) {{ {nodes} }}"


def constants(random, c=(M,), d=(N,), dtype="float32"):
    shapes = {"v": (K, M), "w": (M, N), "c": c, "d": d}
    return {
        name: np.asarray(random.standard_normal(shape)).astype(dtype) / 2 for name, shape in shapes.items()
    }


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("second", SECOND)
@pytest.mark.parametrize("first", FIRST)
def test_two_layers(apply, random, first, second, dtype):
    applied = apply(MERGE_LINEAR, graph(f"{first} {second}", dtype=dtype), constants(random, dtype=dtype))
    assert applied.operators == ["MatMul", "Add"]
    assert applied.outcome.changes == 1
    weight, bias = (applied.weights[applied.node(name).input[1]] for name in ("MatMul", "Add"))
    assert (weight.dtype, weight.shape, bias.dtype, bias.shape) == (dtype, (K, N), dtype, (N,))


@pytest.mark.parametrize("d", [(), (1,)])
@pytest.mark.parametrize("c", [(), (1,)])
def test_biases_of_one_value(apply, random, c, d):
    text = graph(f"{FIRST[0]} {SECOND[1]}")
    assert apply(MERGE_LINEAR, text, constants(random, c, d)).operators == ["MatMul", "Add"]


@pytest.mark.parametrize(("shape", "result"), [(f"{K}", f"{N}"), (f"n, 2, m, {K}", f"n, 2, m, {N}")])
def test_inputs_of_other_ranks(apply, random, shape, result):
    text = graph(f"{FIRST[0]} {SECOND[1]}", shape=shape, result=result)
    assert apply(MERGE_LINEAR, text, constants(random)).operators == ["MatMul", "Add"]


@pytest.mark.parametrize("second", SECOND[1:])
@pytest.mark.parametrize(
    ("inputs", "d"),
    [(f", float[n, 3, {N}] d", None), (f", float[{N}] d", None), ("", (3, N)), ("", (2, 1, 1, N))],
)
def test_what_varies_is_added_by_itself(apply, random, inputs, d, second):
    weights = constants(random, d=d or ())
    if d is None:
        del weights["d"]
    text = graph(
        f"{FIRST[0]} {second}", inputs=inputs, result="a, b, e, f" if d and len(d) == 4 else f"n, 3, {N}"
    )
    applied = apply(MERGE_LINEAR, text, weights)
    assert applied.operators == ["MatMul", "Add", "Add"]
    assert applied.outcome.changes == 1


def test_a_chain_is_merged_whole(apply, random):
    nodes = "h = MatMul(x, v) i = Add(h, c) j = MatMul(i, v) k = Add(j, c) l = MatMul(k, v) y = Add(l, c)"
    weights = {"v": random.standard_normal((K, K)).astype("f4") / 2, "c": np.ones(K, "f4")}
    applied = apply(MERGE_LINEAR, graph(nodes, result=f"n, 3, {K}"), weights)
    assert applied.operators == ["MatMul", "Add"]
    assert applied.outcome.changes == 2


def test_the_merged_weight_is_the_exact_one_rounded_once(apply, random):
    values = constants(random)
    applied = apply(MERGE_LINEAR, graph(f"{FIRST[0]} {SECOND[1]}"), values)
    v, w, c, d = (values[name].astype("f8") for name in "vwcd")
    np.testing.assert_array_equal(applied.weights[applied.node("MatMul").input[1]], (v @ w).astype("f4"))
    np.testing.assert_array_equal(applied.weights[applied.node("Add").input[1]], (c @ w + d).astype("f4"))


@pytest.mark.parametrize("second", SECOND)
@pytest.mark.parametrize(("between", "merges"), [(2, False), (3, True)])
def test_only_where_the_multiplications_fall(apply, random, between, merges, second):
    """4 x 4 through 2 values is 16 multiplications either way."""
    shapes = {"v": (4, between), "w": (between, 4), "c": between, "d": 4}
    weights = {name: random.standard_normal(shape).astype("f4") for name, shape in shapes.items()}
    applied = apply(MERGE_LINEAR, graph(f"{FIRST[0]} {second}", result="n, 3, 4"), weights)
    if merges:
        assert applied.operators == ["MatMul", "Add"]
    else:
        unchanged(applied, "one layer would take 16 multiplications, the two take 16")


@pytest.mark.parametrize("second", SECOND)
@pytest.mark.parametrize("c", [(3, 1), (1, M), (3, M), (2, 1, 1, M)])
def test_other_biases(apply, random, c, second):
    result = "a, b, e, f" if len(c) == 4 else f"n, 3, {N}"
    unchanged(
        apply(MERGE_LINEAR, graph(f"{FIRST[0]} {second}", result=result), constants(random, c)), NO_BIAS
    )


@pytest.mark.parametrize("second", SECOND)
@pytest.mark.parametrize("columns", [1, M])
def test_a_bias_that_makes_columns(apply, random, columns, second):
    """The weights alone look like fewer multiplications as one layer."""
    weights = constants(random) | {"v": random.standard_normal((1, columns)).astype("f4")}
    applied = apply(MERGE_LINEAR, graph(f"{FIRST[0]} {second}", shape="n, 3, 1"), weights)
    if columns == M:
        assert applied.operators == ["MatMul", "Add"]
    else:
        unchanged(applied, f"what is added makes {M} columns of the 1 of the first product")


@pytest.mark.parametrize("second", SECOND)
@pytest.mark.parametrize("default", [True, False])
def test_a_bias_from_outside(apply, random, default, second):
    weights = constants(random)
    if not default:
        del weights["c"]
    applied = apply(MERGE_LINEAR, graph(f"{FIRST[0]} {second}", inputs=f", float[{M}] c"), weights)
    unchanged(applied, NO_BIAS)


@pytest.mark.parametrize("name", ["v", "w"])
def test_a_weight_from_outside(apply, random, name):
    weights = constants(random)
    shape = ", ".join(map(str, weights.pop(name).shape))
    text = graph(f"{FIRST[0]} {SECOND[1]}", inputs=f", float[{shape}] {name}")
    unchanged(apply(MERGE_LINEAR, text, weights), NOT_CONSTANT)


@pytest.mark.parametrize("name", ["c", "d"])
def test_a_bias_that_the_dtype_cannot_hold(apply, random, name):
    weights = constants(random, dtype="float16")
    weights["w"] = np.abs(weights["w"]) + np.float16(2)
    weights[name] = np.full_like(weights[name], 6e4 if name == "c" else np.inf)
    applied = apply(MERGE_LINEAR, graph(f"{FIRST[0]} {SECOND[1]}", dtype="float16"), weights, engines=())
    unchanged(
        applied,
        "a folded weight is beyond the range of float16" if name == "c" else "a folded weight is not finite",
    )


@pytest.mark.parametrize("second", SECOND)
@pytest.mark.parametrize("name", ["h", "i"])
@pytest.mark.parametrize("twice", [True, False])
def test_an_intermediate_that_others_read(apply, random, name, twice, second):
    nodes = f"{FIRST[0]} {second}" + (f" z = Relu({name})" if twice else "")
    text = graph(nodes, more=f", float[n, 3, {M}] {'z' if twice else name}")
    unchanged_as_shared(apply(MERGE_LINEAR, text, constants(random)))


def test_the_second_product_read_twice(apply, random):
    """Its bias is no longer the only reader, and stays."""
    text = graph(f"{FIRST[0]} {SECOND[1]} z = Relu(j)", more=f", float[n, 3, {N}] z")
    applied = apply(MERGE_LINEAR, text, constants(random))
    assert applied.operators == ["MatMul", "Add", "Add", "Relu"]


def test_the_second_product_as_an_output(apply, random):
    text = graph(f"{FIRST[0]} {SECOND[1]}", more=f", float[n, 3, {N}] j")
    applied = apply(MERGE_LINEAR, text, constants(random))
    assert applied.operators == ["MatMul", "Add", "Add"]


def test_shared_weights_stay_for_their_other_readers(apply, random):
    text = graph(f"{FIRST[0]} {SECOND[1]} u = Neg(w) t = Neg(c)", more=f", float[{M}, {N}] u, float[{M}] t")
    weights = constants(random)
    applied = apply(MERGE_LINEAR, text, weights)
    assert applied.outcome.changes == 1
    for name in "wc":
        np.testing.assert_array_equal(applied.weights[name], weights[name])


def test_in_a_branch(apply, random):
    result = f"float[n, 3, {N}]"
    text = f"""g (float[n, 3, {K}] x, bool q) => ({result} y) {{
        y = If(q) <then_branch = t () => ({result} p) {{ {FIRST[0]} j = MatMul(i, w) p = Add(j, d) }},
                   else_branch = e () => ({result} r) {{ k = MatMul(x, v) l = Add(k, c) r = MatMul(l, w) }}>
    }}"""
    for taken in (True, False):
        applied = apply(MERGE_LINEAR, text, constants(random), feeds={"q": np.array(taken)})
        assert applied.operators == ["If", "MatMul", "Add", "MatMul", "Add"]
