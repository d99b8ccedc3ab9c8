"""simplify-tails: each operator with a simpler equal, and each near-miss."""

import numpy as np
import onnxruntime
import pytest
from rewrites import SHARED, unchanged

from nncompile.passes.simplify_tails import SIMPLIFY_TAILS

BOTH = ("onnxruntime", "reference")
KINDS = {"float16": "float16", "float32": "float", "float64": "double", "int8": "int8", "int32": "int32"}
SHAPE = (3, 2, 5)
EDGES = [-np.inf, np.inf, np.nan, -0.0, 0.0, -1e-30, 1e-30]


def graph(nodes, *, kind="float", shape="n, 2, 5", result=None, more=""):
    return f"g ({kind}[{shape}] x) => ({kind}[{result or shape}] y{more}) {{ {nodes} }}"


def edges(dtype="float32"):
    """Negative and positive numbers, infinities, NaN and both zeros."""
    x = np.random.default_rng(1).standard_normal(30).astype(dtype) * 4
    if x.dtype.kind == "f":
        x[: len(EDGES)] = EDGES
    return {"x": x.reshape(SHAPE)}


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("axis", ["", "<axis=0>", "<axis=-2>"])
def test_log_of_softmax(apply, axis, dtype):
    text = graph(f"p = Softmax{axis}(x) y = Log(p)", kind=KINDS[dtype])
    applied = apply(SIMPLIFY_TAILS, text, engines=BOTH)
    assert applied.operators == ["LogSoftmax"]
    assert applied.outcome.changes == 1


def test_log_of_softmax_before_opset_13_flattens_alike(apply):
    applied = apply(SIMPLIFY_TAILS, graph("p = Softmax(x) y = Log(p)"), opset=11)
    assert applied.operators == ["LogSoftmax"]


def test_log_softmax_stays_finite_where_the_probability_is_too_small(apply):
    x = np.array([[[0, -200, 0, 0, 0]] * 2] * 3, "f4")
    applied = apply(SIMPLIFY_TAILS, graph("p = Softmax(x) y = Log(p)"), feeds={"x": x}, engines=())
    session = onnxruntime.InferenceSession(
        applied.after.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (got,) = session.run(None, {"x": x})
    np.testing.assert_allclose(got[0, 0, 1], -200 - np.log(4), rtol=1e-6)


@pytest.mark.parametrize("dtype", list(KINDS))
@pytest.mark.parametrize("zero", [0.0, -0.0])
@pytest.mark.parametrize("engine", BOTH)
@pytest.mark.parametrize("nodes", ["Clip(x, c)", "Clip(x, c, )", "Max(x, c)", "Max(c, x)"])
def test_relu(apply, nodes, zero, dtype, engine):
    feeds = edges(dtype)
    if engine == "onnxruntime" and "Clip" in nodes and dtype.startswith("float"):
        feeds["x"][feeds["x"] == np.inf] = 1  # its Clip bounds inf by the largest number
    text = graph(f"y = {nodes}", kind=KINDS[dtype])
    applied = apply(SIMPLIFY_TAILS, text, {"c": np.array(zero, dtype)}, feeds=feeds, engines=(engine,))
    assert applied.operators == ["Relu"]


def test_clip_with_an_infinite_upper_bound(apply):
    weights = {"low": np.float32(0), "high": np.float32(np.inf)}
    text = graph("y = Clip(x, low, high)")
    assert apply(SIMPLIFY_TAILS, text, weights, feeds=edges(), engines=BOTH).operators == ["Relu"]


@pytest.mark.parametrize(
    ("low", "high"), [(0, 6), (-1, None), (1, None), (np.nan, None), (0, np.finfo("f4").max), (None, 3)]
)
def test_clip_with_other_bounds_is_no_near_miss(apply, low, high):
    bounds = {"low": low, "high": high}
    weights = {name: np.float32(bound) for name, bound in bounds.items() if bound is not None}
    names = [name if name in weights else "" for name in bounds]
    unchanged(apply(SIMPLIFY_TAILS, graph(f"y = Clip(x, {', '.join(names)})"), weights))


def test_clip_without_bounds(apply):
    unchanged(apply(SIMPLIFY_TAILS, graph("y = Clip(x)")))


def test_clip_with_bounds_as_attributes(apply):
    unchanged(apply(SIMPLIFY_TAILS, graph("y = Clip<min=0.0>(x)"), opset=9))


@pytest.mark.parametrize("bound", ["low", "high"])
def test_clip_with_a_bound_that_a_caller_can_override(apply, bound):
    weights = {"low": np.float32(0), "high": np.float32(np.inf)}
    text = f"g (float[n] x, float {bound}) => (float[n] y) {{ y = Clip(x, low, high) }}"
    unchanged(apply(SIMPLIFY_TAILS, text, weights), "a bound is not constant")


@pytest.mark.parametrize(("dtype", "opset"), [("int64", 20), ("int32", 13), ("uint8", 20)])
@pytest.mark.parametrize("nodes", ["Clip(x, c)", "Max(x, c)"])
def test_no_relu_of_this_dtype(apply, nodes, dtype, opset):
    text = graph(f"y = {nodes}", kind=dtype)
    applied = apply(SIMPLIFY_TAILS, text, {"c": np.zeros((), dtype)}, opset=opset)
    unchanged(applied, f"ONNX Runtime has no Relu of {dtype}")


@pytest.mark.parametrize(
    ("shape", "fires"), [((1,), True), ((2, 5), True), ((1, 1, 1, 1), False), ((2, 2, 5), False)]
)
def test_max_with_zeros_that_broadcast(apply, shape, fires):
    text = (
        f"g (float[n, 2, 5] x) => (float[{', '.join('abcd'[-max(3, len(shape)) :])}] y) {{ y = Max(x, c) }}"
    )
    feeds = {"x": np.random.default_rng(2).standard_normal((1, 2, 5)).astype("f4")}
    applied = apply(SIMPLIFY_TAILS, text, {"c": np.zeros(shape, "f4")}, feeds=feeds, engines=BOTH)
    if fires:
        assert applied.operators == ["Relu"]
    else:
        unchanged(applied, f"zeros of shape {list(shape)} may enlarge the result")


@pytest.mark.parametrize("constants", [{"c": np.float32(1)}, {"c": np.array([0, 1, 0, 0, 0], "f4")}])
def test_max_with_something_else(apply, constants):
    unchanged(apply(SIMPLIFY_TAILS, graph("y = Max(x, c)"), constants))


def test_max_of_other_numbers_of_tensors(apply):
    unchanged(apply(SIMPLIFY_TAILS, graph("y = Max(x, c, c)"), {"c": np.float32(0)}))
    unchanged(apply(SIMPLIFY_TAILS, graph("a = Neg(x) y = Max(x, a)")))
    unchanged(apply(SIMPLIFY_TAILS, graph("y = Max(x)")))


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize(
    "slope", [np.array(0.25), np.array([0.1]), np.full((2, 1), 0.3), np.array([-0.7]), np.zeros(1)]
)
@pytest.mark.parametrize("engine", BOTH)
def test_prelu(apply, slope, dtype, engine):
    text = graph("y = PRelu(x, c)", kind=KINDS[dtype])
    feeds = edges(dtype)
    feeds["x"][feeds["x"] == -np.inf] = -3  # 0 * inf
    applied = apply(SIMPLIFY_TAILS, text, {"c": slope.astype(dtype)}, feeds=feeds, engines=(engine,))
    assert applied.operators == ["LeakyRelu"]
    assert applied.node("LeakyRelu").attribute[0].f == slope.astype(dtype).flat[0]


@pytest.mark.parametrize(
    ("kind", "slope", "reason"),
    [
        ("double", np.array(0.1), "ONNX Runtime has no LeakyRelu of float64"),
        ("int32", np.array(2, "i4"), "ONNX Runtime has no LeakyRelu of int32"),
        ("float", np.array([[0.1], [0.2]], "f4"), "the slopes differ"),
        ("float", np.array([np.nan], "f4"), "the slopes differ"),
        ("float", np.full((3, 1, 1), 0.5, "f4"), "slopes of shape [3, 1, 1] may enlarge the result"),
    ],
)
def test_prelu_refused(apply, kind, slope, reason):
    engines = () if kind == "double" else ("reference",)
    applied = apply(SIMPLIFY_TAILS, graph("y = PRelu(x, c)", kind=kind), {"c": slope}, engines=engines)
    unchanged(applied, reason)


def test_prelu_with_a_slope_from_outside(apply):
    text = "g (float[n] x, float[1] c) => (float[n] y) { y = PRelu(x, c) }"
    unchanged(apply(SIMPLIFY_TAILS, text), "the slope is not constant")


def test_a_slope_that_two_layers_share(apply):
    text = graph("a = PRelu(x, c) y = PRelu(a, c)")
    applied = apply(SIMPLIFY_TAILS, text, {"c": np.full(1, 0.25, "f4")})
    assert applied.operators == ["LeakyRelu", "LeakyRelu"]
    assert applied.outcome.changes == 2


@pytest.mark.parametrize("nodes", ["Cast<to=1>(a)", "Transpose<perm=[0, 1, 2]>(a)"])
def test_what_does_nothing(apply, nodes):
    applied = apply(SIMPLIFY_TAILS, graph(f"a = Neg(x) b = {nodes} y = Exp(b)"), engines=BOTH)
    assert applied.operators == ["Neg", "Identity", "Exp"]


@pytest.mark.parametrize("nodes", ["Cast<to=1>(x)", "Transpose<perm=[0, 1, 2]>(x)"])
def test_what_does_nothing_between_input_and_output(apply, nodes):
    assert apply(SIMPLIFY_TAILS, graph(f"y = {nodes}")).operators == ["Identity"]


@pytest.mark.parametrize("zero", [np.zeros((), "f4"), np.zeros((1, 1), "f4"), np.zeros((2, 5), "f4")])
@pytest.mark.parametrize("node", ["Add(a, zero)", "Add(zero, a)"])
def test_nothing_is_added(apply, node, zero):
    applied = apply(SIMPLIFY_TAILS, graph(f"a = Neg(x) b = {node} y = Exp(b)"), {"zero": zero}, engines=BOTH)
    assert applied.operators == ["Neg", "Identity", "Exp"]


@pytest.mark.parametrize("added", [np.float32(1e-30), np.array([0, 0, 0, 0, 1], "f4")])
def test_something_is_added(apply, added):
    unchanged(apply(SIMPLIFY_TAILS, graph("y = Add(x, added)"), {"added": added}))


def test_zeros_that_enlarge(apply):
    text = "g (float[n, 1, 5] x) => (float[n, 2, 5] y) { y = Add(x, zero) }"
    applied = apply(SIMPLIFY_TAILS, text, {"zero": np.zeros((2, 1), "f4")})
    unchanged(applied, "zeros of shape [2, 1] may enlarge the result")


def test_a_vector_has_one_axis_to_reverse(apply):
    assert apply(SIMPLIFY_TAILS, graph("y = Transpose(x)", shape="n")).operators == ["Identity"]


@pytest.mark.parametrize(
    ("nodes", "result"),
    [
        ("Transpose<perm=[0, 2, 1]>(x)", "float[n, 5, 2]"),
        ("Transpose(x)", "float[5, 2, n]"),
        ("Cast<to=11>(x)", "double[n, 2, 5]"),
    ],
)
def test_what_does_something(apply, nodes, result):
    unchanged(apply(SIMPLIFY_TAILS, f"g (float[n, 2, 5] x) => ({result} y) {{ y = {nodes} }}"))


@pytest.mark.parametrize(
    ("allowzero", "second", "result"),
    [(0, [-1, 5], "m, 5"), (0, [5, -1], "5, m"), (1, [2, -1], "2, m"), (0, [30], "30")],
)
@pytest.mark.parametrize("first", [[0, 10], [-1], [5, -1, 1]])
def test_reshape_of_reshape(apply, first, second, result, allowzero):
    text = graph(f"a = Reshape(x, s) y = Reshape<allowzero={allowzero}>(a, t)", result=result)
    applied = apply(SIMPLIFY_TAILS, text, {"s": np.array(first), "t": np.array(second)}, engines=BOTH)
    assert applied.operators == ["Reshape"]
    assert list(applied.node("Reshape").input) == ["x", "t"]


def test_reshape_of_an_empty_tensor(apply):
    nodes = "a = Reshape<allowzero=1>(x, s) y = Reshape<allowzero=1>(a, t)"
    text = f"g (float[0, 4] x) => (float[3, 0] y) {{ {nodes} }}"
    applied = apply(SIMPLIFY_TAILS, text, {"s": np.array([0, 7]), "t": np.array([3, 0])}, engines=BOTH)
    assert applied.operators == ["Reshape"]


def test_three_reshapes(apply):
    shapes = {"s": np.array([-1]), "t": np.array([5, -1]), "u": np.array([-1, 2])}
    text = graph("a = Reshape(x, s) b = Reshape(a, t) y = Reshape(b, u)", result="m, 2")
    assert apply(SIMPLIFY_TAILS, text, shapes).operators == ["Reshape"]


def test_reshape_that_copies_a_size(apply):
    text = graph("a = Reshape(x, s) y = Reshape(a, t)", result="k, m")
    applied = apply(SIMPLIFY_TAILS, text, {"s": np.array([10, -1]), "t": np.array([0, -1])})
    unchanged(applied, "the second shape copies a size of the first")


def test_reshape_to_a_shape_from_outside(apply):
    text = "g (float[n, 2, 5] x, int64[2] t) => (float[k, m] y) { a = Reshape(x, s) y = Reshape(a, t) }"
    applied = apply(SIMPLIFY_TAILS, text, {"s": np.array([-1])}, feeds={"t": np.array([5, 6])})
    unchanged(applied, "the second shape is not constant")


def test_relu_of_relu(apply):
    applied = apply(SIMPLIFY_TAILS, graph("a = Relu(x) b = Relu(a) y = Relu(b)"), feeds=edges(), engines=BOTH)
    assert applied.operators == ["Relu"]
    assert applied.outcome.changes == 2


def test_one_rewrite_opens_the_next(apply):
    text = graph("a = Clip(x, c) b = Max(c, a) y = Relu(b)")
    assert apply(SIMPLIFY_TAILS, text, {"c": np.float32(0)}).operators == ["Relu"]


@pytest.mark.parametrize(
    ("first", "second"),
    [("Softmax(x)", "Log(a)"), ("Relu(x)", "Relu(a)"), ("Reshape(x, s)", "Reshape(a, t)")],
)
@pytest.mark.parametrize("twice", [True, False])
def test_an_inner_value_that_others_need(apply, first, second, twice):
    shape = "6, 5"
    nodes = f"a = {first} y = {second}" + (" z = Exp(a)" if twice else "")
    output = f", float[{shape}] {'z' if twice else 'a'}"
    shapes = {"s": np.array([6, 5]), "t": np.array([6, 5])} if "Reshape" in first else {}
    text = graph(nodes, shape=shape, more=output)
    unchanged(apply(SIMPLIFY_TAILS, text, shapes), SHARED)


def test_in_a_subgraph(apply):
    text = """g (float[3] x, bool c) => (float[3] y) {
        y = If(c) <then_branch = t () => (float[3] p) { a = Relu(x) p = Relu(a) },
                   else_branch = e () => (float[3] q) { q = Max(x, zero) }>
    }"""
    applied = apply(SIMPLIFY_TAILS, text, {"zero": np.float32(0)}, feeds={"c": np.array(False)})
    assert applied.operators == ["If", "Relu", "Relu"]
