"""pool-before-linear: 1 x 1 Conv and batch norm in front of both average pools; and every refusal."""

import numpy as np
import pytest
from rewrites import FLOATS, KINDS, SHARED, statistics, unchanged

from nncompile.passes.pool_before_linear import POOL_BEFORE_LINEAR

NO_ONE = "the elements of a window may not weigh 1 together, and the layer has a bias"
HALVES = "AveragePool<kernel_shape=[2, 2], strides=[2, 2]>"
NORM = "BatchNormalization<epsilon=0.001>"
C, K = 4, 6


def conv(pool, attributes="", *, dtype="float32", plane="7, 8", bias=True, inputs="", outputs="", more=""):
    kind, free = KINDS[dtype], "".join(f", d{i}" for i in range(plane.count(",") + 1))
    return (
        f"g ({kind}[n, {C}, {plane}] x{inputs}) => ({kind}[n, {K}{free}] y{outputs}) "
        f"{{ h = Conv{attributes}(x, w{', b' if bias else ''}) y = {pool}(h) {more} }}"
    )


def norm(pool, attributes="<epsilon=0.001>", result="h", dtype="float32"):
    kind = KINDS[dtype]
    return (
        f"g ({kind}[n, {C}, 7, 8] x) => ({kind}[n, {C}, d0, d1] y) "
        f"{{ {result} = BatchNormalization{attributes}(x, scale, shift, mean, var) y = {pool}(h) }}"
    )


def constants(random, w=(K, C, 1, 1), dtype="float32", bias=True):
    values = {"w": random.standard_normal(w)} | ({"b": random.standard_normal(K)} if bias else {})
    return {name: array.astype(dtype) for name, array in values.items()}


def engines(dtype):
    # ONNX Runtime has no float64 convolution, nor pool, on the CPU.
    return ("reference",) if dtype == "float64" else ("onnxruntime", "reference")


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("pool", ["GlobalAveragePool", HALVES])
def test_conv(apply, random, pool, bias, dtype):
    text = conv(pool, dtype=dtype, bias=bias)
    applied = apply(
        POOL_BEFORE_LINEAR, text, constants(random, dtype=dtype, bias=bias), engines=engines(dtype)
    )
    assert applied.operators == [pool.partition("<")[0], "Conv"]
    assert applied.outcome.changes == 1
    assert list(applied.node("Conv").input[1:]) == ["w", "b"][: 1 + bias]


@pytest.mark.parametrize("plane", ["9", "7, 8", "3, 4, 5"])
@pytest.mark.parametrize("known", [True, False])
def test_ranks_and_planes_of_unknown_size(apply, random, plane, known):
    rank = plane.count(",") + 1
    size = plane if known else ", ".join(f"s{i}" for i in range(rank))
    applied = apply(
        POOL_BEFORE_LINEAR, conv("GlobalAveragePool", plane=size), constants(random, (K, C, *[1] * rank))
    )
    assert applied.operators == ["GlobalAveragePool", "Conv"]


@pytest.mark.parametrize(
    "attributes",
    [
        "<kernel_shape=[1, 1], strides=[1, 1], pads=[0, 0, 0, 0], dilations=[2, 3], group=2>",
        '<auto_pad="VALID", group=2>',
    ],
)
def test_conv_keeps_its_attributes(apply, random, attributes):
    weights = constants(random, (K, C // 2, 1, 1))
    applied = apply(
        POOL_BEFORE_LINEAR,
        conv("GlobalAveragePool", attributes),
        weights,
        engines=("onnxruntime", "reference"),
    )
    assert applied.operators == ["GlobalAveragePool", "Conv"]
    (before,) = [node for node in applied.before.graph.node if node.op_type == "Conv"]
    assert {a.name: a for a in applied.node("Conv").attribute} == {a.name: a for a in before.attribute}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("attributes", "with_bias"),
    [
        ("kernel_shape=[2, 3], strides=[2, 3]", True),
        ("kernel_shape=[3, 3], strides=[2, 2]", True),
        ("kernel_shape=[2, 2], strides=[2, 2], dilations=[2, 1]", True),
        ("kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]", True),
        ("kernel_shape=[3, 3], strides=[2, 2], pads=[2, 0, 1, 2]", True),
        ('kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER"', True),
        ('kernel_shape=[2, 2], strides=[2, 2], auto_pad="VALID"', True),
        ("kernel_shape=[2, 2], strides=[2, 2], count_include_pad=1", True),
        ("kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], count_include_pad=1", False),
        ('kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_LOWER", count_include_pad=1', False),
        ("kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], dilations=[1, 2]", False),
        ("kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1", False),
        ("kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1, count_include_pad=1", False),
        ("kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1, pads=[1, 1, 1, 1]", False),
    ],
)
def test_windows(apply, random, attributes, with_bias, bias):
    """Where a window may weigh less than 1, a bias would too."""
    applied = apply(
        POOL_BEFORE_LINEAR, conv(f"AveragePool<{attributes}>", bias=bias), constants(random, bias=bias)
    )
    if bias and not with_bias:
        unchanged(applied, NO_ONE)
        return
    assert applied.operators == ["AveragePool", "Conv"]
    (before,) = [node for node in applied.before.graph.node if node.op_type == "AveragePool"]
    assert {a.name: a for a in applied.node("AveragePool").attribute} == {a.name: a for a in before.attribute}


def test_a_bias_of_zeros_is_none(apply, random):
    weights = constants(random) | {"b": np.zeros(K, "f4")}
    pool = "AveragePool<kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], count_include_pad=1>"
    assert apply(POOL_BEFORE_LINEAR, conv(pool), weights).operators == ["AveragePool", "Conv"]
    text = conv(pool, inputs=f", float[{K}] b")
    unchanged(apply(POOL_BEFORE_LINEAR, text, weights), NO_ONE)
    del weights["b"]
    unchanged(apply(POOL_BEFORE_LINEAR, text, weights), NO_ONE)


def test_a_window_that_may_lie_in_the_padding(apply, random):
    pool = "AveragePool<kernel_shape=[2, 2], strides=[2, 2], pads=[2, 0, 0, 0]>"
    unchanged(apply(POOL_BEFORE_LINEAR, conv(pool), constants(random), engines=()), NO_ONE)


def test_weights_from_outside(apply, random):
    text = conv("GlobalAveragePool", inputs=f", float[{K}, {C}, 1, 1] w, float[{K}] b")
    assert apply(POOL_BEFORE_LINEAR, text).operators == ["GlobalAveragePool", "Conv"]


@pytest.mark.parametrize("pool", ["GlobalAveragePool", HALVES])
@pytest.mark.parametrize(
    ("w", "attributes", "reason"),
    [
        ((K, C, 3, 3), "", "the kernel is 3 x 3"),
        ((K, C, 1, 2), "", "the kernel is 1 x 2"),
        ((K, C, 1, 1), "<strides=[1, 2]>", "the convolution has strides [1, 2]"),
        ((K, C, 1, 1), "<pads=[0, 1, 0, 0]>", "the convolution pads by [0, 1, 0, 0]"),
        ((K, C, 1, 1), '<auto_pad="SAME_UPPER">', "the convolution pads as SAME_UPPER"),
        ((K, C, 1, 1), '<auto_pad="SAME_LOWER">', "the convolution pads as SAME_LOWER"),
    ],
)
def test_other_convolutions(apply, random, w, attributes, reason, pool):
    unchanged(apply(POOL_BEFORE_LINEAR, conv(pool, attributes), constants(random, w)), reason)


def test_a_kernel_of_unknown_size(apply, random):
    text = conv("GlobalAveragePool", inputs=f", float[{K}, {C}, k, 1] w")
    feeds = {"w": constants(random, (K, C, 2, 1))["w"]}
    unchanged(apply(POOL_BEFORE_LINEAR, text, {"b": np.ones(K, "f4")}, feeds=feeds), "the kernel is ? x 1")


@pytest.mark.parametrize(
    ("c", "k", "pool", "reason"),
    [
        # 1 x 2 + 4 x 2 = 10 before, 4 x 1 + 2 = 6 after
        (1, 2, "kernel_shape=[2, 2]", None),
        (6, 6, "kernel_shape=[2, 2]", "a result would cost 60 operations instead of 60"),
        (16, 1, "kernel_shape=[2, 2]", "a result would cost 80 operations instead of 20"),
        (16, 2, "kernel_shape=[2, 2], strides=[2, 2]", None),
        (16, 1, "kernel_shape=[2, 2], strides=[2, 2]", "a result would cost 80 operations instead of 68"),
        (32, 8, "kernel_shape=[2, 2], strides=[2, 2]", None),
        (
            24,
            12,
            "kernel_shape=[2, 2], strides=[2, 2]",
            "the pool would have 24 channels instead of 12, and no multiple of 16",
        ),
        (24, 24, "kernel_shape=[2, 2], strides=[2, 2]", None),
    ],
)
def test_only_where_it_saves_work(apply, random, c, k, pool, reason):
    weights = {"w": random.standard_normal((k, c, 1, 1)).astype("f4"), "b": np.ones(k, "f4")}
    nodes = f"h = Conv(x, w, b) y = AveragePool<{pool}>(h)"
    text = f"g (float[n, {c}, 6, 6] x) => (float[n, {k}, d0, d1] y) {{ {nodes} }}"
    applied = apply(POOL_BEFORE_LINEAR, text, weights)
    if reason is None:
        assert applied.operators == ["AveragePool", "Conv"]
    else:
        unchanged(applied, reason)


def test_groups_count_in_the_work(apply, random):
    """A depthwise convolution costs too little: 4 x 8 + 4 x 8 against 4 x 8 + 8, 8 groups of 1."""
    text = (
        "g (float[n, 8, 6, 6] x) => (float[n, 8, 3, 3] y) { h = Conv<group=8>(x, w) y = " + HALVES + "(h) }"
    )
    weights = {"w": random.standard_normal((8, 1, 1, 1)).astype("f4")}
    assert apply(POOL_BEFORE_LINEAR, text, weights).operators == ["AveragePool", "Conv"]
    text = text.replace(", strides=[2, 2]", "").replace("3, 3] y", "5, 5] y")
    unchanged(apply(POOL_BEFORE_LINEAR, text, weights), "a result would cost 40 operations instead of 40")


def test_channels_that_are_not_known(apply, random):
    text = conv(HALVES, inputs=f", float[k, {C}, 1, 1] w").replace(f"float[n, {K}, d0", "float[n, k, d0")
    feeds = {"w": constants(random)["w"]}
    applied = apply(POOL_BEFORE_LINEAR, text, {"b": np.ones(K, "f4")}, feeds=feeds)
    unchanged(applied, "the number of channels is not known")


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("pool", ["GlobalAveragePool", HALVES])
def test_batch_norm(apply, random, pool, dtype):
    weights = statistics(random, C, dtype)
    applied = apply(POOL_BEFORE_LINEAR, norm(pool, dtype=dtype), weights, engines=engines(dtype))
    assert applied.operators == [pool.partition("<")[0], "BatchNormalization"]
    assert applied.node("BatchNormalization").attribute[0].f == np.float32(0.001)


@pytest.mark.parametrize("pool", ["GlobalAveragePool", HALVES])
def test_batch_norm_in_training_mode(apply, random, pool):
    text = norm(pool, "<training_mode=1>", "h, m, v")
    unchanged(apply(POOL_BEFORE_LINEAR, text, statistics(random, C)), "the batch norm is in training mode")
    applied = apply(POOL_BEFORE_LINEAR, norm(pool, "", "h, m, v, p, q"), statistics(random, C), opset=13)
    unchanged(applied, "the batch norm is in training mode")


def test_batch_norm_of_opset_7_may_differ_by_position(apply, random):
    weights = {name: np.ones((C, 7, 8), "f4") for name in ("scale", "shift", "mean", "var")}
    text = norm("GlobalAveragePool", "<spatial=0>")
    unchanged(
        apply(POOL_BEFORE_LINEAR, text, weights, opset=7, engines=()), "the batch norm differs by position"
    )


def test_batch_norm_in_front_of_padding_that_counts(apply, random):
    pool = "AveragePool<kernel_shape=[2, 2], strides=[2, 2], pads=[1, 1, 1, 1], count_include_pad=1>"
    unchanged(apply(POOL_BEFORE_LINEAR, norm(pool), statistics(random, C)), NO_ONE)


def test_batch_norm_in_front_of_a_pool_that_leaves_all_elements(apply, random):
    unchanged(apply(POOL_BEFORE_LINEAR, norm("AveragePool<kernel_shape=[2, 2]>"), statistics(random, C)))


def test_a_chain_of_layers_goes_behind_the_pool_whole(apply, random):
    text = f"""g (float[n, {C}, 7, 8] x) => (float[n, {K}, 1, 1] y) {{
        h = Conv(x, w, b) i = Conv(h, v) y = GlobalAveragePool(i) }}"""
    weights = constants(random) | {"v": random.standard_normal((K, K, 1, 1)).astype("f4")}
    applied = apply(POOL_BEFORE_LINEAR, text, weights)
    assert applied.operators == ["GlobalAveragePool", "Conv", "Conv"]
    assert applied.outcome.changes == 2


@pytest.mark.parametrize("pool", ["GlobalAveragePool", HALVES])
@pytest.mark.parametrize(
    ("outputs", "more"),
    [(f", float[n, {K}, 7, 8] z", "z = Relu(h)"), (f", float[n, {K}, 7, 8] h", "")],
)
def test_an_intermediate_that_others_read(apply, random, pool, outputs, more):
    unchanged(apply(POOL_BEFORE_LINEAR, conv(pool, outputs=outputs, more=more), constants(random)), SHARED)


@pytest.mark.parametrize(
    "nodes",
    [
        "h = Conv(x, w, b) i = Relu(h) y = GlobalAveragePool(i)",
        "h = Conv(x, w, b) y = GlobalMaxPool(h)",
        "h = Conv(x, w, b) y = MaxPool<kernel_shape=[2, 2]>(h)",
        "h = GlobalAveragePool(x) y = Conv(h, w, b)",
    ],
)
def test_other_graphs_are_left_alone_without_a_word(apply, random, nodes):
    text = f"g (float[n, {C}, 7, 8] x) => (float[n, {K}, d0, d1] y) {{ {nodes} }}"
    unchanged(apply(POOL_BEFORE_LINEAR, text, constants(random)))


def test_in_a_branch(apply, random):
    result = f"float[n, {K}, 1, 1]"
    text = f"""g (float[n, {C}, 7, 8] x, bool q) => ({result} y) {{
        y = If(q) <then_branch = t () => ({result} p) {{ h = Conv(x, w) p = GlobalAveragePool(h) }},
                   else_branch = e () => ({result} r) {{ i = Conv(x, w, b) r = GlobalAveragePool(i) }}>
    }}"""
    for taken in (True, False):
        applied = apply(POOL_BEFORE_LINEAR, text, constants(random), feeds={"q": np.array(taken)})
        assert applied.operators == ["If", "GlobalAveragePool", "Conv", "GlobalAveragePool", "Conv"]
