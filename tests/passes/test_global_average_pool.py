"""global-average-pool: a mean over exactly the plane, however it is written."""

import numpy as np
import pytest
from rewrites import KINDS, unchanged

from nncompile.passes.global_average_pool import GLOBAL_AVERAGE_POOL

BOTH = ("onnxruntime", "reference")
SIZES = {3: "7", 4: "5, 7", 5: "3, 4, 5"}


def mean(*, rank=4, keepdims=1, kind="float", plane=None, opset=20, axes="a", noop=0):
    result = "n, 6" + ", 1" * (rank - 2) * keepdims
    attributes = f"keepdims={keepdims}"
    if opset >= 18:
        attributes += f", noop_with_empty_axes={noop}"
    arguments = f"x, {axes}" if opset >= 18 and axes else "x"
    if opset < 18 and axes:
        attributes += f", axes={axes}"
    return (
        f"g ({kind}[n, 6, {plane or SIZES[rank]}] x) => ({kind}[{result}] y) "
        f"{{ y = ReduceMean<{attributes}>({arguments}) }}"
    )


def pool(attributes, size="5, 7", *, result="1, 1", kind="float"):
    return f"g ({kind}[n, 6, {size}] x) => ({kind}[n, 6, {result}] y) {{ y = AveragePool<{attributes}>(x) }}"


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize(
    "axes", [[2], [-1], [2, 3], [-2, -1], [3, 2], [2, -1], [2, 3, 4], [-1, -3, -2]], ids=str
)
def test_mean(apply, axes, keepdims, dtype):
    rank = len(axes) + 2
    text = mean(rank=rank, keepdims=keepdims, kind=KINDS[dtype])
    applied = apply(GLOBAL_AVERAGE_POOL, text, {"a": np.array(axes)}, engines=BOTH)
    assert applied.operators == ["GlobalAveragePool"] + ["Flatten"] * (1 - keepdims)
    assert applied.outcome.changes == 1


@pytest.mark.parametrize("opset", [9, 13, 17])
@pytest.mark.parametrize(("axes", "keepdims"), [("[2, 3]", 1), ("[-1, -2]", 0)])
def test_axes_as_an_attribute(apply, axes, keepdims, opset):
    if opset < 11 and "-" in axes:
        axes = "[3, 2]"
    applied = apply(GLOBAL_AVERAGE_POOL, mean(keepdims=keepdims, opset=opset, axes=axes), opset=opset)
    assert applied.operators[0] == "GlobalAveragePool"


@pytest.mark.parametrize("opset", [18, 20, 22])
def test_axes_as_an_input(apply, opset):
    applied = apply(GLOBAL_AVERAGE_POOL, mean(), {"a": np.array([2, 3])}, opset=opset)
    assert applied.operators == ["GlobalAveragePool"]


@pytest.mark.parametrize("keepdims", [0, 1])
def test_a_plane_of_unknown_size(apply, keepdims):
    text = mean(keepdims=keepdims, plane="h, w")
    assert apply(GLOBAL_AVERAGE_POOL, text, {"a": np.array([2, 3])}).outcome.changes == 1


@pytest.mark.parametrize("noop", [0, 1])
def test_axes_named_beside_noop(apply, noop):
    applied = apply(GLOBAL_AVERAGE_POOL, mean(noop=noop), {"a": np.array([2, 3])}, engines=BOTH)
    assert applied.operators == ["GlobalAveragePool"]


@pytest.mark.parametrize("noop", [0, 1])
@pytest.mark.parametrize("axes", ["", "a"])
def test_no_axes_mean_all_or_none(apply, axes, noop):
    result = "n, 6, 5, 7" if noop else "1, 1, 1, 1"
    text = mean(axes=axes, noop=noop).replace("n, 6, 1, 1", result)
    unchanged(apply(GLOBAL_AVERAGE_POOL, text, {"a": np.array([], "i8")} if axes else {}))


@pytest.mark.parametrize(
    ("axes", "result"),
    [([3], "n, 6, 5, 1"), ([1, 2, 3], "n, 1, 1, 1"), ([1, 2], "n, 1, 1, 7"), ([-4, -1], "1, 6, 5, 1")],
)
def test_other_axes(apply, axes, result):
    text = mean().replace("n, 6, 1, 1", result)
    unchanged(apply(GLOBAL_AVERAGE_POOL, text, {"a": np.array(axes)}))


def test_axes_that_a_caller_gives(apply):
    text = mean().replace(" x)", " x, int64[2] a)")
    for weights in ({}, {"a": np.array([2, 3])}):
        applied = apply(GLOBAL_AVERAGE_POOL, text, weights, feeds={"a": np.array([2, 3])})
        unchanged(applied, "the axes are not constant")


def test_an_unknown_rank(apply):
    text = """g (float[n, 6, 5, 7] x, int64[k] s) => (float[n, 6, 1, 1] y) {
        r = Reshape(x, s) y = ReduceMean(r, a) }"""
    applied = apply(GLOBAL_AVERAGE_POOL, text, {"a": np.array([2, 3])}, feeds={"s": np.array([3, 6, 5, 7])})
    unchanged(applied, "the rank is not known")


@pytest.mark.parametrize("rank", [2, 6])
def test_other_ranks(apply, rank):
    shapes = ("n, 6", "n, 1") if rank == 2 else ("n, 6, 2, 3, 2, 2", "n, 6, 1, 1, 1, 1")
    text = "g (float[{}] x) => (float[{}] y) {{ y = ReduceMean(x, a) }}".format(*shapes)
    axes = [1] if rank == 2 else [2, 3, 4, 5]
    unchanged(apply(GLOBAL_AVERAGE_POOL, text, {"a": np.array(axes)}))


@pytest.mark.parametrize("kind", ["double", "int32"])
def test_other_dtypes(apply, kind):
    applied = apply(GLOBAL_AVERAGE_POOL, mean(kind=kind), {"a": np.array([2, 3])})
    unchanged(applied, f"ONNX Runtime has no GlobalAveragePool of {kind}")


@pytest.mark.parametrize(
    "nodes",
    [
        "m = ReduceMean(x, a) y = Sub(x, m)",
        "s = Mul(x, x) m = ReduceMean(s, a) y = Div(x, m)",
        "s = Pow(x, two) m = ReduceMean(s, a) y = Div(x, m)",
    ],
)
def test_a_mean_of_a_normalisation(apply, nodes):
    text = f"g (float[n, 6, 5] x) => (float[n, 6, 5] y) {{ {nodes} }}"
    applied = apply(GLOBAL_AVERAGE_POOL, text, {"a": np.array([-1]), "two": np.float32(2)})
    unchanged(applied, "the mean is part of a normalisation")


def test_a_gate_is_no_normalisation(apply):
    text = "g (float[n, 6, 5, 5] x) => (float[n, 6, 5, 5] y) { m = ReduceMean(x, a) y = Mul(x, m) }"
    applied = apply(GLOBAL_AVERAGE_POOL, text, {"a": np.array([2, 3])})
    assert applied.operators == ["GlobalAveragePool", "Mul"]


def test_the_mean_used_twice_and_as_an_output(apply):
    text = """g (float[n, 6, 5, 5] x) => (float[n, 6] m, float[n, 6] y) {
        m = ReduceMean<keepdims=0>(x, a) e = Exp(m) y = Add(e, m) }"""
    applied = apply(GLOBAL_AVERAGE_POOL, text, {"a": np.array([2, 3])})
    assert applied.operators == ["GlobalAveragePool", "Flatten", "Exp", "Add"]


def test_two_means_share_their_axes(apply):
    text = """g (float[n, 6, 5, 5] x) => (float[n, 6, 1, 1] y, float[n, 6] z) {
        y = ReduceMean(x, a) e = Exp(x) z = ReduceMean<keepdims=0>(e, a) }"""
    applied = apply(GLOBAL_AVERAGE_POOL, text, {"a": np.array([2, 3])})
    assert applied.outcome.changes == 2


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize(
    "more",
    [
        "",
        ", strides=[5, 7]",
        ", strides=[1, 3]",
        ", ceil_mode=1, strides=[2, 2]",
        ", count_include_pad=1",
        ", pads=[0, 0, 0, 0]",
        ', auto_pad="VALID"',
        ", dilations=[1, 1]",
    ],
)
def test_pool(apply, more, dtype):
    text = pool(f"kernel_shape=[5, 7]{more}", kind=KINDS[dtype])
    applied = apply(GLOBAL_AVERAGE_POOL, text, engines=BOTH)
    assert applied.operators == ["GlobalAveragePool"]


def test_pool_of_float64(apply):
    text = pool("kernel_shape=[5, 7]", kind="double")
    applied = apply(GLOBAL_AVERAGE_POOL, text, engines=("reference",))  # ONNX Runtime has neither
    assert applied.operators == ["GlobalAveragePool"]


@pytest.mark.parametrize(("size", "kernel"), [("7", "[7]"), ("3, 4, 5", "[3, 4, 5]")])
def test_pool_of_other_ranks(apply, size, kernel):
    text = pool(f"kernel_shape={kernel}", size, result=", ".join("1" for _ in size.split(",")))
    assert apply(GLOBAL_AVERAGE_POOL, text).operators == ["GlobalAveragePool"]


@pytest.mark.parametrize("attributes", ["kernel_shape=[4, 7]", "kernel_shape=[2, 2], strides=[2, 2]"])
def test_a_smaller_kernel(apply, attributes):
    unchanged(apply(GLOBAL_AVERAGE_POOL, pool(attributes, result="h, w")))


@pytest.mark.parametrize(
    ("attributes", "size", "reason"),
    [
        ("kernel_shape=[5, 7]", "h, 7", "the size of the plane is not known"),
        ("kernel_shape=[5, 7], pads=[0, 0, 1, 0], strides=[7, 7]", "5, 7", "the pool pads"),
        ("kernel_shape=[5, 7], pads=[1, 1, 1, 1], count_include_pad=1", "5, 7", "the pool pads"),
        ('kernel_shape=[5, 7], auto_pad="SAME_UPPER"', "5, 7", "the pool pads"),
    ],
)
def test_pool_refused(apply, attributes, size, reason):
    feeds = {"x": np.random.default_rng(0).standard_normal((3, 6, 5, 7)).astype("f4")}
    unchanged(apply(GLOBAL_AVERAGE_POOL, pool(attributes, size, result="i, j"), feeds=feeds), reason)


def test_a_dilated_pool(apply):
    # Its window would be larger than the plane; a plane of size 1 is the only one it fits.
    text = pool("kernel_shape=[1, 1], dilations=[2, 2]", "1, 1")
    unchanged(apply(GLOBAL_AVERAGE_POOL, text), "the pool is dilated")


def test_an_empty_plane(apply):
    # ONNX Runtime has its mean, NaN, but no GlobalAveragePool of it.
    with pytest.warns(RuntimeWarning):
        applied = apply(GLOBAL_AVERAGE_POOL, mean(plane="0, 7"), {"a": np.array([2, 3])}, engines=BOTH)
    unchanged(applied, "the plane is empty")
