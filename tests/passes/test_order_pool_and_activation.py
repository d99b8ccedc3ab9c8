"""order-pool-and-activation: Relu moves up to its convolution, other activations down behind the pool."""

import numpy as np
import pytest
from rewrites import KINDS, SHARED, unchanged

from nncompile.passes.order_pool_and_activation import ORDER_POOL_AND_ACTIVATION

EMPTY = "a window of the pool may lie wholly in the padding"
PLACES = "the pool returns the places of its maxima"
NO_CONV = "the pool does not follow a convolution"
BOTH = ("onnxruntime", "reference")
POOL = "kernel_shape=[2, 2], strides=[2, 2]"
ACTIVATIONS = [
    "Clip(IN, low, high)",
    "Clip(IN, low)",
    "Clip(IN, , high)",
    "Clip(IN, high, low)",
    "Elu(IN)",
    "Elu<alpha=0.4>(IN)",
    "HardSigmoid(IN)",
    "HardSigmoid<alpha=0.0, beta=0.3>(IN)",
    "LeakyRelu(IN)",
    "LeakyRelu<alpha=0.0>(IN)",
    "LeakyRelu<alpha=1.5>(IN)",
    "Sigmoid(IN)",
    "Softplus(IN)",
    "Tanh(IN)",
]
WINDOWS = [
    "kernel_shape=[2, 2], strides=[1, 2]",
    "kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]",
    "kernel_shape=[3, 2], strides=[2, 3], pads=[2, 0, 1, 1]",
    "kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1",
    "kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1",
    "kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], ceil_mode=1",
    "kernel_shape=[3, 3], strides=[1, 2], dilations=[2, 1]",
    "kernel_shape=[1, 1], strides=[3, 3]",
    'kernel_shape=[2, 2], strides=[2, 2], auto_pad="VALID"',
    'kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER"',
    'kernel_shape=[2, 3], strides=[2, 1], auto_pad="SAME_LOWER"',
]


def up(pool=POOL, *, kind="float", size=9, more="", nodes="", conv="Conv(x, w)", activation="Relu"):
    """Text of Conv, MaxPool, Relu."""
    return (
        f"g ({kind}[n, 3, {size}, {size}] x) => ({kind}[n, 4, h, v] y{more}) "
        f"{{ c = {conv} p = MaxPool<{pool}>(c) y = {activation}(p) {nodes} }}"
    )


def down(activation="Tanh(IN)", pool=POOL, *, kind="float", size=9, more="", nodes=""):
    """Text of Conv, activation, MaxPool."""
    return (
        f"g ({kind}[n, 3, {size}, {size}] x) => ({kind}[n, 4, h, v] y{more}) "
        f"{{ c = Conv(x, w) a = {activation.replace('IN', 'c')} y = MaxPool<{pool}>(a) {nodes} }}"
    )


@pytest.fixture
def weights(random):
    return make(random)


def make(random, dtype="float32"):
    return {
        "w": (random.standard_normal((4, 3, 3, 3)) / 3).astype(dtype),
        "low": np.array(-0.5, dtype),
        "high": np.array(0.75, dtype),
    }


def fired(applied, operators):
    assert applied.outcome.changes == 1
    assert applied.operators == operators
    (before,) = [node for node in applied.before.graph.node if node.op_type == "MaxPool"]
    assert list(applied.node("MaxPool").attribute) == list(before.attribute)


def name_of(activation):
    return activation.partition("(")[0].partition("<")[0]


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_relu_moves_up(apply, random, dtype):
    engines = ("reference",) if dtype == "float64" else ("onnxruntime",)
    text = up(kind=KINDS[dtype])
    applied = apply(ORDER_POOL_AND_ACTIVATION, text, make(random, dtype), engines=engines)
    fired(applied, ["Conv", "Relu", "MaxPool"])


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_others_move_down(apply, random, activation, dtype):
    engines = ("reference",) if dtype == "float64" else ("onnxruntime",)
    text = down(activation, kind=KINDS[dtype])
    applied = apply(ORDER_POOL_AND_ACTIVATION, text, make(random, dtype), engines=engines)
    fired(applied, ["Conv", "MaxPool", name_of(activation)])


@pytest.mark.parametrize("pool", WINDOWS)
@pytest.mark.parametrize("size", [8, 9, 10])
def test_every_window(apply, weights, size, pool):
    fired(apply(ORDER_POOL_AND_ACTIVATION, up(pool, size=size), weights), ["Conv", "Relu", "MaxPool"])
    for activation in ("Sigmoid(IN)", "Clip(IN, low)"):
        applied = apply(ORDER_POOL_AND_ACTIVATION, down(activation, pool, size=size), weights)
        fired(applied, ["Conv", "MaxPool", name_of(activation)])


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("pads", ["[1, 1, 1, 1]", "[2, 2, 2, 2]"])
def test_all_values_of_one_sign(apply, weights, pads, sign):
    weights["w"] = sign * np.abs(weights["w"])
    feeds = {"x": np.random.default_rng(0).uniform(0.1, 1, (3, 3, 9, 9)).astype("f4")}
    pool = f"kernel_shape=[3, 3], strides=[2, 2], pads={pads}"
    for text in (up(pool), down("LeakyRelu(IN)", pool), down("HardSigmoid(IN)", pool)):
        applied = apply(ORDER_POOL_AND_ACTIVATION, text, weights, feeds=feeds, engines=BOTH)
        assert applied.outcome.changes == 1


@pytest.mark.parametrize(
    "text", [up(), *(down(a) for a in ACTIVATIONS if name_of(a) in ("Clip", "LeakyRelu"))]
)
def test_where_rounding_is_monotone_the_bits_are_equal(apply, weights, text):
    from onnxruntime import GraphOptimizationLevel, InferenceSession, SessionOptions

    applied = apply(ORDER_POOL_AND_ACTIVATION, text, weights)
    options = SessionOptions()
    options.graph_optimization_level = GraphOptimizationLevel.ORT_DISABLE_ALL
    x = {"x": np.random.default_rng(3).standard_normal((5, 3, 9, 9)).astype("f4") * 100}
    before, after = (
        InferenceSession(model.SerializeToString(), options).run(None, x)[0]
        for model in (applied.before, applied.after)
    )
    np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("rank", [1, 3])
def test_other_ranks(apply, random, rank):
    ones = lambda number: str([number] * rank)  # noqa: E731
    weights = {"w": random.standard_normal((3, 2, *[3] * rank)).astype("f4")}
    for first, second in (("MaxPool", "Relu"), ("Tanh", "MaxPool")):
        nodes = f"c = Conv(x, w) p = {first}(c) y = {second}(p)"
        nodes = nodes.replace("MaxPool", f"MaxPool<kernel_shape={ones(2)}, strides={ones(2)}>")
        free = ", ".join("abc"[:rank])
        text = f"g (float[n, 2, {', '.join(['7'] * rank)}] x) => (float[n, 3, {free}] y) {{ {nodes} }}"
        assert apply(ORDER_POOL_AND_ACTIVATION, text, weights).operators == ["Conv", second, first]


@pytest.mark.parametrize("opset", [9, 11, 13, 22])
def test_opsets(apply, weights, opset):
    fired(apply(ORDER_POOL_AND_ACTIVATION, up(), weights, opset=opset), ["Conv", "Relu", "MaxPool"])
    clip = "Clip<min=-0.5, max=0.5>(IN)" if opset < 11 else "Clip(IN, low, high)"
    applied = apply(ORDER_POOL_AND_ACTIVATION, down(clip), weights, opset=opset)
    fired(applied, ["Conv", "MaxPool", "Clip"])


def test_the_shape_of_the_new_value_is_known(apply, weights):
    for text, operator, sizes in ((up(), "Relu", [4, 7, 7]), (down(), "MaxPool", [4, 3, 3])):
        applied = apply(ORDER_POOL_AND_ACTIVATION, text, weights)
        (inner,) = [v for v in applied.after.graph.value_info if v.name == applied.node(operator).output[0]]
        assert [d.dim_value for d in inner.type.tensor_type.shape.dim][1:] == sizes


@pytest.mark.parametrize(
    "pool",
    [
        "kernel_shape=[2, 2], strides=[2, 2], pads=[1, 1, 1, 1], dilations=[2, 2]",
        "kernel_shape=[1, 1], strides=[3, 3], ceil_mode=1",
        "kernel_shape=[2, 2], strides=[2, 2], pads=[0, 0, 1, 1], ceil_mode=1",
        "kernel_shape=[2, 2], strides=[2, 2], dilations=[1, 2], ceil_mode=1",
        'kernel_shape=[3, 3], strides=[2, 2], dilations=[2, 2], auto_pad="SAME_UPPER"',
        "kernel_shape=[2, 2], strides=[2, 2], pads=[2, 0, 0, 0]",
        "kernel_shape=[2, 2], strides=[2, 2], pads=[0, 0, 0, 2]",
    ],
)
def test_a_window_without_elements(apply, weights, pool):
    for text in (up(pool), down(pool=pool)):
        # ONNX Runtime does not load a pool whose padding is as large as its kernel.
        unchanged(apply(ORDER_POOL_AND_ACTIVATION, text, weights, engines=()), EMPTY)


@pytest.mark.parametrize("operator", ["LeakyRelu", "HardSigmoid", "Elu"])
def test_a_negative_alpha(apply, weights, operator):
    text = down(f"{operator}<alpha=-0.1>(IN)")
    applied = apply(ORDER_POOL_AND_ACTIVATION, text, weights)
    unchanged(applied, "with alpha -0.1 the activation is not monotone")


@pytest.mark.parametrize("operator", ["HardSwish", "Gelu", "Mish", "Neg", "Abs", "Relu"])
def test_others_do_not_move_down(apply, weights, operator):
    unchanged(apply(ORDER_POOL_AND_ACTIVATION, down(f"{operator}(IN)"), weights))


@pytest.mark.parametrize("operator", ["HardSwish", "Gelu", "Mish", "Neg", "Sigmoid", "LeakyRelu"])
def test_others_do_not_move_up(apply, weights, operator):
    unchanged(apply(ORDER_POOL_AND_ACTIVATION, up(activation=operator), weights))


def test_silu(apply, weights):
    text = down("Mul(c, s)").replace("a =", "s = Sigmoid(c) a =")
    unchanged(apply(ORDER_POOL_AND_ACTIVATION, text, weights))


def test_a_pool_without_strides_saves_nothing(apply, weights):
    unchanged(apply(ORDER_POOL_AND_ACTIVATION, down(pool="kernel_shape=[2, 2]"), weights))


def test_the_places_of_the_maxima(apply, weights):
    unchanged(apply(ORDER_POOL_AND_ACTIVATION, up().replace("p = Max", "p, k = Max"), weights), PLACES)
    for more in ("", ", int64[n, 4, i, j] k"):
        text = down(more=more).replace("y = Max", "y, k = Max")
        unchanged(apply(ORDER_POOL_AND_ACTIVATION, text, weights), SHARED if more else PLACES)


@pytest.mark.parametrize(("text", "inner"), [(up, "p"), (down, "a")])
def test_the_inner_value_used_twice_or_as_an_output(apply, weights, text, inner):
    shape = "float[n, 4, i, j]"
    twice = text(more=f", {shape} z", nodes=f"z = Exp({inner})")
    unchanged(apply(ORDER_POOL_AND_ACTIVATION, twice, weights), SHARED)
    unchanged(apply(ORDER_POOL_AND_ACTIVATION, text(more=f", {shape} {inner}"), weights), SHARED)


@pytest.mark.parametrize(
    ("more", "nodes"), [(", float[n, 4, 7, 7] c", ""), (", float[n, 4, 7, 7] z", "z = Exp(c)")]
)
def test_the_convolution_used_elsewhere(apply, weights, more, nodes):
    reason = "the convolution's result is used elsewhere or is a graph output"
    unchanged(apply(ORDER_POOL_AND_ACTIVATION, up(more=more, nodes=nodes), weights), reason)
    applied = apply(ORDER_POOL_AND_ACTIVATION, down(more=more, nodes=nodes), weights)
    assert applied.outcome.changes == 1


def test_no_convolution(apply, weights):
    text = f"g (float[n, 3, 8, 8] x) => (float[n, 3, h, v] y) {{ p = MaxPool<{POOL}>(x) y = Relu(p) }}"
    unchanged(apply(ORDER_POOL_AND_ACTIVATION, text), NO_CONV)
    text = up(conv="ConvTranspose(x, w)")
    unchanged(apply(ORDER_POOL_AND_ACTIVATION, text, {"w": np.ones((3, 4, 2, 2), "f4")}), NO_CONV)
    text = f"g (float[n, 3, 8, 8] x) => (float[n, 3, h, v] y) {{ a = Tanh(x) y = MaxPool<{POOL}>(a) }}"
    assert apply(ORDER_POOL_AND_ACTIVATION, text).operators == ["MaxPool", "Tanh"]


def test_a_convolution_outside_the_subgraph(apply, weights):
    text = f"""g (float[n, 3, 9, 9] x, bool b) => (float[n, 4, 3, 3] y) {{
        c = Conv(x, w)
        y = If(b) <then_branch = t () => (float[n, 4, 3, 3] q) {{ p = MaxPool<{POOL}>(c) q = Relu(p) }},
                   else_branch = e () => (float[n, 4, 3, 3] r) {{ r = MaxPool<{POOL}>(c) }}>
    }}"""
    unchanged(apply(ORDER_POOL_AND_ACTIVATION, text, weights, feeds={"b": np.array(True)}), NO_CONV)


def test_two_layers_share_their_bounds(apply, random):
    text = (
        "g (float[n, 3, 20, 20] x) => (float[n, 4, h, v] y) { "
        f"c = Conv(x, w) p = Clip(c, low, high) q = MaxPool<{POOL}>(p) "
        f"d = Conv(q, w2) r = Clip(d, low, high) y = MaxPool<{POOL}>(r) }}"
    )
    weights = make(random) | {"w2": random.standard_normal((4, 4, 3, 3)).astype("f4")}
    applied = apply(ORDER_POOL_AND_ACTIVATION, text, weights)
    assert applied.operators == ["Conv", "MaxPool", "Clip"] * 2
    assert applied.outcome.changes == 2


def test_an_activation_passes_several_pools(apply, weights):
    text = down(nodes=f"z = MaxPool<{POOL}>(y)").replace(" y) {", " z) {")
    assert apply(ORDER_POOL_AND_ACTIVATION, text, weights).operators == ["Conv", "MaxPool", "MaxPool", "Tanh"]


@pytest.mark.parametrize("default", [True, False])
def test_a_bound_from_outside(apply, weights, default):
    text = down("Clip(IN, low)").replace(" x)", " x, float low)")
    if not default:
        del weights["low"]
    assert apply(ORDER_POOL_AND_ACTIVATION, text, weights).operators == ["Conv", "MaxPool", "Clip"]
