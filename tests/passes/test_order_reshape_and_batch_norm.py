"""order-pool-and-activation: Relu up through a Reshape to its layer, batch norm down behind a MaxPool."""

import numpy as np
import pytest
from rewrites import FLOATS, KINDS, NORM_NOT_CONSTANT, SHARED, statistics, unchanged

from nncompile.passes.order_pool_and_activation import ORDER_POOL_AND_ACTIVATION

CONV = "c = Conv(x, w, b)"
IMAGE = "n, 3, 6, 6"
NORM = "h = BatchNormalization<epsilon=0.001>(x, scale, shift, mean, var)"
POOL = "kernel_shape=[2, 2], strides=[2, 2]"


def graph(nodes, *, dtype="float32", shape=IMAGE, result="n, 64", inputs="", more=""):
    kind = KINDS[dtype]
    return f"g ({kind}[{shape}] x{inputs}) => ({kind}[{result}] y{more}) {{ {nodes} }}"


def constants(random, dtype="float32"):
    values = {"w": random.standard_normal((4, 3, 3, 3)) / 3, "b": random.standard_normal(4)}
    return {name: array.astype(dtype) for name, array in values.items()} | {"s": np.array([0, -1])}


def normed(pool, result="n, 3, d0, d1", norm=NORM, **options):
    return graph(f"{norm} y = MaxPool<{pool}>(h)", result=result, **options)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize(
    ("reshape", "attributes"),
    [
        ("Reshape(c, s)", {}),
        ("Reshape<allowzero=0>(c, s)", {"allowzero": 0}),
        ("Flatten<axis=-3>(c)", {"axis": -3}),
    ],
)
def test_relu_behind_a_flattened_convolution(apply, random, reshape, attributes, dtype):
    text = graph(f"{CONV} f = {reshape} y = Relu(f)", dtype=dtype)
    applied = apply(ORDER_POOL_AND_ACTIVATION, text, constants(random, dtype))
    name = reshape.partition("(")[0].partition("<")[0]
    assert applied.operators == ["Conv", "Relu", name]
    assert {a.name: a.i for a in applied.node(name).attribute} == attributes


def test_relu_behind_a_reshaped_gemm(apply, random):
    text = graph("c = Gemm(x, v) r = Reshape(c, s) y = Relu(r)", shape="n, 8", result="n, 2, 3")
    weights = {"v": random.standard_normal((8, 6)).astype("f4"), "s": np.array([-1, 2, 3])}
    assert apply(ORDER_POOL_AND_ACTIVATION, text, weights).operators == ["Gemm", "Relu", "Reshape"]


def test_relu_goes_up_to_its_convolution_through_a_pool_too(apply, random):
    text = graph(f"{CONV} p = MaxPool<{POOL}>(c) f = Flatten(p) y = Relu(f)", result="n, 16")
    applied = apply(ORDER_POOL_AND_ACTIVATION, text, constants(random))
    assert applied.operators == ["Conv", "Relu", "MaxPool", "Flatten"]
    assert applied.outcome.changes == 2


@pytest.mark.parametrize(
    "layer", ["Neg(x)", "MatMul(x, m)", "ConvTranspose(x, w2)", "AveragePool<kernel_shape=[2, 2]>(x)"]
)
def test_what_is_not_fused_with_a_relu(apply, random, layer):
    weights = constants(random)
    weights |= {"m": np.ones((6, 6), "f4"), "w2": random.standard_normal((3, 2, 3, 3)).astype("f4")}
    unchanged(
        apply(
            ORDER_POOL_AND_ACTIVATION,
            graph(f"c = {layer} f = Flatten(c) y = Relu(f)", result="n, m"),
            weights,
        )
    )


def test_a_flattened_input(apply):
    unchanged(apply(ORDER_POOL_AND_ACTIVATION, graph("f = Flatten(x) y = Relu(f)", result="n, 108")))


@pytest.mark.parametrize(
    ("more", "output"), [(" z = Neg(c)", ", float[n, 4, 4, 4] z"), ("", ", float[n, 4, 4, 4] c")]
)
def test_a_result_that_others_read(apply, random, more, output):
    text = graph(f"{CONV} f = Flatten(c) y = Relu(f){more}", more=output)
    applied = apply(ORDER_POOL_AND_ACTIVATION, text, constants(random))
    unchanged(applied, "the result of the Conv is used elsewhere or is a graph output")


@pytest.mark.parametrize(("more", "output"), [(" z = Neg(f)", ", float[n, 64] z"), ("", ", float[n, 64] f")])
def test_a_flattened_value_that_others_read(apply, random, more, output):
    text = graph(f"{CONV} f = Flatten(c) y = Relu(f){more}", more=output)
    unchanged(apply(ORDER_POOL_AND_ACTIVATION, text, constants(random)), SHARED)


def test_a_pool_that_returns_places(apply, random):
    text = graph(f"p, q = MaxPool<{POOL}>(x) f = Flatten(p) y = Relu(f)", result="n, 27")
    unchanged(apply(ORDER_POOL_AND_ACTIVATION, text), "the pool returns the places of its maxima")


def test_a_convolution_outside_the_branch(apply, random):
    text = f"""g (float[{IMAGE}] x, bool q) => (float[n, 64] y) {{
        {CONV} y = If(q) <then_branch = t () => (float[n, 64] p) {{ f = Flatten(c) p = Relu(f) }},
                          else_branch = e () => (float[n, 64] r) {{ r = Flatten(c) }}>
    }}"""
    applied = apply(ORDER_POOL_AND_ACTIVATION, text, constants(random), feeds={"q": np.array(True)})
    unchanged(applied)


def test_in_a_branch(apply, random):
    text = f"""g (float[{IMAGE}] x, bool q) => (float[n, 64] y) {{
        y = If(q) <then_branch = t () => (float[n, 64] p) {{ {CONV} f = Flatten(c) p = Relu(f) }},
                   else_branch = e () => (float[n, 64] r) {{ d = Conv(x, w) r = Flatten(d) }}>
    }}"""
    applied = apply(ORDER_POOL_AND_ACTIVATION, text, constants(random), feeds={"q": np.array(True)})
    assert applied.operators == ["If", "Conv", "Relu", "Flatten", "Conv", "Flatten"]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(
    "pool",
    [
        POOL,
        "kernel_shape=[3, 3], strides=[2, 1], pads=[1, 1, 1, 1]",
        "kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1",
        'kernel_shape=[2, 2], strides=[2, 2], auto_pad="SAME_UPPER"',
    ],
)
def test_batch_norm_in_front_of_a_pool(apply, random, pool, dtype):
    applied = apply(ORDER_POOL_AND_ACTIVATION, normed(pool, dtype=dtype), statistics(random, 3, dtype))
    assert applied.operators == ["MaxPool", "BatchNormalization"]
    assert applied.node("BatchNormalization").attribute[0].f == np.float32(0.001)
    assert applied.outcome.changes == 1


def test_a_scale_of_zero_is_monotone(apply, random):
    weights = statistics(random, 3)
    weights["scale"][1] = 0
    assert apply(ORDER_POOL_AND_ACTIVATION, normed(POOL), weights).operators == [
        "MaxPool",
        "BatchNormalization",
    ]


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("scale", -1e-3, "the batch norm is not monotone: a channel has a negative scale"),
        ("scale", np.nan, "the running statistics give a scale that is not finite"),
        ("var", -1.0, "the running statistics give a scale that is not finite"),
    ],
)
def test_a_batch_norm_that_is_not_monotone(apply, random, name, value, reason):
    weights = statistics(random, 3)
    weights[name][2] = value
    unchanged(apply(ORDER_POOL_AND_ACTIVATION, normed(POOL), weights), reason)


def test_a_batch_norm_in_training_mode(apply, random):
    norm = NORM.replace("<epsilon=0.001>", "<training_mode=1>").replace("h =", "h, m, v =")
    unchanged(
        apply(ORDER_POOL_AND_ACTIVATION, normed(POOL, norm=norm), statistics(random, 3)),
        "the batch norm is in training mode",
    )


@pytest.mark.parametrize("name", ["scale", "shift", "mean", "var"])
def test_a_statistic_from_outside(apply, random, name):
    text = normed(POOL, inputs=f", float[3] {name}")
    unchanged(apply(ORDER_POOL_AND_ACTIVATION, text, statistics(random, 3)), NORM_NOT_CONSTANT)


def test_a_pool_that_leaves_as_many_elements(apply, random):
    unchanged(apply(ORDER_POOL_AND_ACTIVATION, normed("kernel_shape=[2, 2]"), statistics(random, 3)))


def test_a_window_that_may_be_empty(apply, random):
    pool = "kernel_shape=[2, 2], strides=[2, 2], dilations=[2, 2], pads=[1, 1, 1, 1]"
    unchanged(
        apply(ORDER_POOL_AND_ACTIVATION, normed(pool), statistics(random, 3)),
        "a window of the pool may lie wholly in the padding",
    )


def test_a_batch_norm_that_others_read(apply, random):
    text = graph(f"{NORM} y = MaxPool<{POOL}>(h)", result="n, 3, 3, 3", more=f", float[{IMAGE}] h")
    unchanged(apply(ORDER_POOL_AND_ACTIVATION, text, statistics(random, 3)), SHARED)
