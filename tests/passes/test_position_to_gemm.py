"""position-to-gemm: 1 x 1 convolutions of one position; and every refusal."""

import numpy as np
import pytest
from rewrites import KINDS, SHARED, unchanged

from nncompile.passes.position_to_gemm import POSITION_TO_GEMM

ROWS = "the result is not one row for each row of the input"
C, K = 4, 6


def graph(conv="Conv", flatten="Flatten(c)", *, dtype="float32", plane="1, 1", bias=True, inputs="", more=""):
    kind, arguments = KINDS[dtype], "x, w, b" if bias else "x, w"
    outputs, nodes = more.partition(";")[::2]
    return (
        f"g ({kind}[n, {C}, {plane}] x{inputs}) => ({kind}[d0, d1] y{outputs}) "
        f"{{ c = {conv}({arguments}) y = {flatten} {nodes} }}"
    )


def constants(random, w=(K, C, 1, 1), dtype="float32", bias=True):
    values = {"w": random.standard_normal(w)} | ({"b": random.standard_normal(K)} if bias else {})
    return {name: array.astype(dtype) for name, array in values.items()} | {"s": np.array([-1, K])}


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("flatten", ["Flatten(c)", "Flatten<axis=-3>(c)", "Reshape(c, s)"])
def test_one_position(apply, random, flatten, bias, dtype):
    # ONNX Runtime has no float64 convolution on the CPU.
    engines = ("reference",) if dtype == "float64" else ("onnxruntime", "reference")
    weights = constants(random, dtype=dtype, bias=bias)
    applied = apply(
        POSITION_TO_GEMM, graph(flatten=flatten, dtype=dtype, bias=bias), weights, engines=engines
    )
    assert applied.operators == ["Flatten", "Gemm"]
    assert applied.outcome.changes == 1
    matrix = applied.weights[applied.node("Gemm").input[1]]
    np.testing.assert_array_equal(matrix, weights["w"][:, :, 0, 0])
    assert list(applied.node("Gemm").input[2:]) == ["b"] * bias


@pytest.mark.parametrize("rank", [1, 3])
def test_other_ranks(apply, random, rank):
    weights = constants(random, (K, C, *[1] * rank))
    assert apply(POSITION_TO_GEMM, graph(plane=", ".join("1" * rank)), weights).operators == [
        "Flatten",
        "Gemm",
    ]


@pytest.mark.parametrize(
    "conv",
    [
        "Conv<kernel_shape=[1, 1], strides=[2, 3], dilations=[2, 1], pads=[0, 0, 0, 0], group=1>",
        'Conv<auto_pad="VALID">',
    ],
)
def test_attributes(apply, random, conv):
    assert apply(POSITION_TO_GEMM, graph(conv), constants(random)).operators == ["Flatten", "Gemm"]


def test_a_bias_from_outside(apply, random):
    weights = constants(random, bias=False)
    applied = apply(POSITION_TO_GEMM, graph(inputs=f", float[{K}] b"), weights)
    assert applied.operators == ["Flatten", "Gemm"]


@pytest.mark.parametrize("plane", ["1, 2", "h, 1", "5, 5"])
def test_more_positions_are_no_near_miss(apply, random, plane):
    feeds = {"x": random.standard_normal((3, C, 1, 2)).astype("f4")} if plane == "1, 2" else {}
    unchanged(apply(POSITION_TO_GEMM, graph(plane=plane), constants(random), feeds=feeds))


@pytest.mark.parametrize(
    ("w", "conv", "reason"),
    [
        ((K, 2, 1, 1), "Conv<group=2>", "the convolution has 2 groups"),
        ((K, C, 3, 3), "Conv<pads=[1, 1, 1, 1]>", "the kernel is 3 x 3"),
        ((K, C, 1, 1), "Conv<pads=[0, 0, 0, 1]>", "the convolution pads"),
        ((K, C, 1, 1), 'Conv<auto_pad="SAME_UPPER">', "the convolution pads"),
    ],
)
def test_other_convolutions(apply, random, w, conv, reason):
    unchanged(apply(POSITION_TO_GEMM, graph(conv), constants(random, w)), reason)


@pytest.mark.parametrize(
    ("flatten", "target"),
    [
        ("Reshape(c, s)", [1, -1]),
        ("Reshape(c, s)", [-1, 2 * K]),
        ("Flatten<axis=0>(c)", []),
        ("Flatten<axis=2>(c)", []),
        ("Flatten<axis=4>(c)", []),
    ],
)
def test_other_rows(apply, random, flatten, target):
    weights = constants(random) | {"s": np.array(target, "i8")}
    feeds = {"x": random.standard_normal((2, C, 1, 1)).astype("f4")}
    unchanged(apply(POSITION_TO_GEMM, graph(flatten=flatten), weights, feeds=feeds), ROWS)


def test_another_rank(apply, random):
    text = graph(flatten="Reshape(c, s)").replace("[d0, d1]", "[d0, d1, d2]")
    unchanged(apply(POSITION_TO_GEMM, text, constants(random) | {"s": np.array([-1, K, 1])}), ROWS)


@pytest.mark.parametrize("default", [True, False])
def test_a_weight_from_outside(apply, random, default):
    weights = constants(random)
    if not default:
        del weights["w"]
    text = graph(inputs=f", float[{K}, {C}, 1, 1] w")
    unchanged(apply(POSITION_TO_GEMM, text, weights), "the weight is not constant")


def test_bfloat16(apply, random):
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    applied = apply(
        POSITION_TO_GEMM, graph(dtype="bfloat16"), constants(random, dtype=bfloat16), engines=(), opset=22
    )
    unchanged(applied, "ONNX Runtime has no Gemm of bfloat16")


@pytest.mark.parametrize("more", [f", float[n, {K}, 1, 1] c", f", float[n, {K}, 1, 1] z; z = Neg(c)"])
def test_a_result_that_others_read(apply, random, more):
    unchanged(apply(POSITION_TO_GEMM, graph(more=more), constants(random)), SHARED)


def test_a_weight_that_others_read_stays(apply, random):
    text = graph(more=f", float[{K}, {C}, 1, 1] u; u = Neg(w)")
    weights = constants(random)
    applied = apply(POSITION_TO_GEMM, text, weights)
    assert applied.operators == ["Flatten", "Gemm", "Neg"]
    np.testing.assert_array_equal(applied.weights["w"], weights["w"])


def test_in_a_branch(apply, random):
    text = f"""g (float[n, {C}, 1, 1] x, bool q) => (float[n, {K}] y) {{
        y = If(q) <then_branch = t () => (float[n, {K}] p) {{ c = Conv(x, w, b) p = Flatten(c) }},
                   else_branch = e () => (float[n, {K}] r) {{ d = Conv(x, w) r = Reshape(d, s) }}>
    }}"""
    for taken in (True, False):
        applied = apply(POSITION_TO_GEMM, text, constants(random), feeds={"q": np.array(taken)})
        assert applied.operators == ["If", "Flatten", "Gemm", "Flatten", "Gemm"]
