"""merge-convolutions: pairs with one kernel of 1 x 1, by where they look; and every refusal."""

import numpy as np
import pytest
from rewrites import BEYOND_FLOAT16, KINDS, NOT_CONSTANT, unchanged, unchanged_as_shared

from nncompile.passes.merge_convolutions import MERGE_CONVOLUTIONS

K, M, N = 4, 12, 6


def pair(first="", second="", *, dtype="float32", size="7, 8", biases="cd", outputs="", inputs="", more=""):
    kind, free = KINDS[dtype], ", ".join("hwd"[: size.count(",") + 1])
    one, two = ("v, c" if "c" in biases else "v"), ("w, d" if "d" in biases else "w")
    return (
        f"g ({kind}[n, {K}, {size}] x{inputs}) => ({kind}[n, {N}, {free}] y{outputs}) "
        f"{{ h = Conv{first}(x, {one}) y = Conv{second}(h, {two}) {more} }}"
    )


def constants(random, first=(3, 3), second=(1, 1), *, groups=(1, 1), dtype="float32", biases="cd"):
    one, other = groups
    values = {
        "v": random.standard_normal((M, K // one, *first)) / np.sqrt(K // one * np.prod(first)),
        "w": random.standard_normal((N, M // other, *second)) / np.sqrt(M // other * np.prod(second)),
        "c": random.standard_normal(M),
        "d": random.standard_normal(N),
    }
    return {name: values[name].astype(dtype) for name in ("v", "w", *biases)}


def merged(applied):
    """Attributes of the one convolution that is left."""
    assert applied.operators == ["Conv"]
    assert applied.outcome.changes == 1
    return {a.name: list(a.ints) or a.i for a in applied.node("Conv").attribute}


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("biases", ["", "c", "d", "cd"])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_a_pointwise_convolution_behind(apply, random, rank, biases, dtype):
    weights = constants(random, (3,) * rank, (1,) * rank, dtype=dtype, biases=biases)
    pads = [0, 2, 1][:rank] + [1, 0, 2][:rank]
    text = pair(f"<pads={pads}>", dtype=dtype, size=", ".join("567"[:rank]), biases=biases)
    # ONNX Runtime has no float64 convolution on the CPU.
    engines = ("reference",) if dtype == "float64" else ("onnxruntime",)
    applied = apply(MERGE_CONVOLUTIONS, text, weights, engines=engines)
    assert merged(applied)["pads"] == pads
    given = [applied.weights[name] for name in applied.node("Conv").input[1:]]
    assert [array.dtype.name for array in given] == [dtype] * (2 if biases else 1)
    assert given[0].shape == (N, K, *[3] * rank)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("<strides=[2, 1]>", "", {"strides": [2, 1]}),
        ("<strides=[2, 1], pads=[1, 0, 1, 2]>", "<strides=[1, 3]>", {"strides": [2, 3]}),
        ("<strides=[2, 2]>", "<strides=[2, 2]>", {"strides": [4, 4]}),
        ("<dilations=[2, 3]>", "<dilations=[5, 5]>", {"dilations": [2, 3], "strides": [1, 1]}),
        ('<auto_pad="VALID">', '<auto_pad="VALID">', {"pads": [0, 0, 0, 0]}),
        ("<kernel_shape=[3, 3]>", "<kernel_shape=[1, 1], group=1>", {"group": 1}),
    ],
)
@pytest.mark.parametrize("size", ["7, 8", "9, 10", "10, 11", "12, 13"])
def test_where_the_two_look(apply, random, first, second, expected, size):
    both = ("onnxruntime", "reference")
    applied = apply(MERGE_CONVOLUTIONS, pair(first, second, size=size), constants(random), engines=both)
    found = merged(applied)
    assert {name: found[name] for name in expected} == expected


@pytest.mark.parametrize("kernel", [(1, 3), (5, 2), (3, 3)])
@pytest.mark.parametrize("biases", ["d", "cd"])
@pytest.mark.parametrize(
    "second", ["", "<strides=[2, 3]>", "<dilations=[1, 2]>", "<strides=[2, 1], dilations=[1, 2]>"]
)
def test_a_pointwise_convolution_in_front(apply, random, second, biases, kernel):
    weights = constants(random, (1, 1), kernel, biases=biases)
    applied = apply(MERGE_CONVOLUTIONS, pair("", second, biases=biases), weights)
    assert merged(applied)["pads"] == [0, 0, 0, 0]
    assert applied.weights[applied.node("Conv").input[1]].shape == (N, K, *kernel)


@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize(
    "second",
    ["<pads=[1, 1, 1, 1]>", "<pads=[0, 2, 2, 0], strides=[2, 2]>", "<pads=[2, 2, 2, 2], dilations=[2, 2]>"],
)
def test_padding_behind_a_pointwise_convolution_without_bias(apply, random, second, zero):
    weights = constants(random, (1, 1), (3, 3), biases="cd" if zero else "d")
    if zero:
        weights["c"] = np.zeros(M, "f4")
    applied = apply(MERGE_CONVOLUTIONS, pair("", second, biases="cd" if zero else "d"), weights)
    assert merged(applied)["pads"] == list(map(int, second[7:].partition("]")[0].split(", ")))


def test_padding_behind_a_bias(apply, random):
    weights = constants(random, (1, 1), (3, 3))
    reason = "the second pads with 0 what the bias of the first would fill"
    unchanged(apply(MERGE_CONVOLUTIONS, pair("", "<pads=[0, 0, 0, 1]>"), weights), reason)


def test_more_padding_than_the_kernel_reaches(apply, random):
    weights = constants(random, (1, 1), (3, 3), biases="d")
    text = pair("", "<pads=[2, 1, 1, 1]>", biases="d")
    unchanged(apply(MERGE_CONVOLUTIONS, text, weights), "the second has more results than the first")


def test_strides_of_a_pointwise_convolution_in_front(apply, random):
    weights = constants(random, (1, 1), (3, 3))
    reason = "the first, of kernel 1 x 1, has strides [1, 2]"
    unchanged(apply(MERGE_CONVOLUTIONS, pair("<strides=[1, 2]>"), weights), reason)


def test_strides_of_two_pointwise_convolutions(apply, random):
    weights = constants(random, (1, 1), (1, 1))
    applied = apply(MERGE_CONVOLUTIONS, pair("<strides=[2, 2]>", "<strides=[1, 2]>"), weights)
    assert merged(applied)["strides"] == [2, 4]


def test_padding_of_a_pointwise_convolution(apply, random):
    """Behind a kernel of 3 x 3 it adds results; in front of one it is what the kernel reads."""
    reason = "neither has an unpadded kernel of 1 x 1"
    text = pair("", "<pads=[1, 0, 0, 0]>")
    unchanged(apply(MERGE_CONVOLUTIONS, text, constants(random)), reason)
    text = pair("<pads=[1, 0, 0, 0]>", "")
    unchanged(apply(MERGE_CONVOLUTIONS, text, constants(random, (1, 1), (3, 3))), reason)


def test_two_larger_kernels(apply, random):
    weights = constants(random, (1, 3), (3, 1))
    unchanged(apply(MERGE_CONVOLUTIONS, pair(), weights), "neither has an unpadded kernel of 1 x 1")


@pytest.mark.parametrize("same", ["SAME_UPPER", "SAME_LOWER"])
@pytest.mark.parametrize("second", [False, True])
def test_auto_pad(apply, random, same, second):
    attributes = ["", ""]
    attributes[second] = f'<auto_pad="{same}">'
    unchanged(apply(MERGE_CONVOLUTIONS, pair(*attributes), constants(random)), f"auto_pad is {same}")


@pytest.mark.parametrize(
    ("groups", "group"), [((1, 1), 1), ((2, 2), 2), ((4, 2), 2), ((2, 6), 2), ((1, 2), 1)]
)
@pytest.mark.parametrize("front", [False, True])
def test_groups(apply, random, groups, group, front):
    kernels = ((1, 1), (2, 2)) if front else ((2, 2), (1, 1))
    weights = constants(random, *kernels, groups=groups)
    text = pair(*(f"<group={number}>" for number in groups))
    assert merged(apply(MERGE_CONVOLUTIONS, text, weights))["group"] == group


@pytest.mark.parametrize("front", [False, True])
def test_groups_that_do_not_hold_each_other(apply, random, front):
    """Blocks of 0 would make NaN of what is infinite in a channel that a result does not depend on."""
    kernels = ((1, 1), (2, 2)) if front else ((2, 2), (1, 1))
    applied = apply(
        MERGE_CONVOLUTIONS, pair("<group=2>", "<group=3>"), constants(random, *kernels, groups=(2, 3))
    )
    unchanged(applied, "one convolution would be 0 between the blocks of 2 and 3 groups")


def test_a_depthwise_convolution_and_a_pointwise_one_stay_apart(apply, random):
    weights = {
        "v": random.standard_normal((M, 1, 3, 3)).astype("f4"),
        "w": random.standard_normal((N, M, 1, 1)).astype("f4"),
    }
    text = pair(f"<group={M}>", biases="").replace(f"n, {K},", f"n, {M},")
    reason = "one convolution would take 648 multiplications, the two take 180"
    unchanged(apply(MERGE_CONVOLUTIONS, text, weights), reason)


@pytest.mark.parametrize(("between", "merges"), [(1, False), (2, False), (3, True)])
def test_only_where_the_multiplications_fall(apply, random, between, merges):
    """2 x 2 of 1 channel to 4 through 2 values is 16 multiplications either way."""
    weights = {
        "v": random.standard_normal((between, 1, 2, 2)).astype("f4"),
        "w": random.standard_normal((4, between, 1, 1)).astype("f4"),
    }
    text = pair(biases="").replace(f"n, {K},", "n, 1,").replace(f"n, {N},", "n, 4,")
    applied = apply(MERGE_CONVOLUTIONS, text, weights)
    if merges:
        merged(applied)
    else:
        unchanged(applied, f"one convolution would take 16 multiplications, the two take {8 * between}")


def test_the_merged_weight_is_the_exact_one_rounded_once(apply, random):
    values = constants(random)
    applied = apply(MERGE_CONVOLUTIONS, pair(), values)
    v, w, c, d = (values[name].astype("f8") for name in "vwcd")
    weight, bias = (applied.weights[name] for name in applied.node("Conv").input[1:])
    np.testing.assert_allclose(weight, np.tensordot(w[:, :, 0, 0], v, 1), rtol=2**-23, atol=0)
    np.testing.assert_allclose(bias, w[:, :, 0, 0] @ c + d, rtol=2**-23, atol=0)


def test_a_chain_is_merged_whole(apply, random):
    text = (
        f"g (float[n, {K}, 7, 8] x) => (float[n, {N}, h, w] y) "
        "{ g = Conv(x, u) h = Conv(g, v, c) y = Conv(h, w, d) }"
    )
    weights = constants(random) | {"u": random.standard_normal((K, K, 1, 1)).astype("f4")}
    applied = apply(MERGE_CONVOLUTIONS, text, weights)
    assert applied.operators == ["Conv"]
    assert applied.outcome.changes == 2


@pytest.mark.parametrize("name", ["v", "w", "c", "d"])
@pytest.mark.parametrize("default", [True, False])
def test_a_weight_that_is_an_input(apply, random, name, default):
    weights = constants(random)
    feeds, shape = {name: weights[name]}, ", ".join(map(str, weights[name].shape))
    if not default:
        del weights[name]
    text = pair(inputs=f", float[{shape}] {name}")
    unchanged(apply(MERGE_CONVOLUTIONS, text, weights, feeds=feeds), NOT_CONSTANT)


def test_bfloat16(apply, random):
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    weights = constants(random, dtype=bfloat16)
    applied = apply(MERGE_CONVOLUTIONS, pair(dtype="bfloat16"), weights, engines=(), opset=22)
    unchanged(applied, "the weights are of dtype bfloat16")


@pytest.mark.parametrize(("name", "factor", "reason"), BEYOND_FLOAT16)
def test_what_the_dtype_cannot_hold(apply, random, name, factor, reason):
    weights = constants(random)
    weights["w"] = np.abs(weights["w"]) + np.float32(1)
    weights[name] = np.full_like(weights[name], factor)
    weights = {key: value.astype("f2") for key, value in weights.items()}
    unchanged(apply(MERGE_CONVOLUTIONS, pair(dtype="float16"), weights, engines=()), reason)


@pytest.mark.parametrize(
    ("outputs", "more"),
    [
        (f", float[n, {M}, e, f] z", "z = Relu(h)"),
        (f", float[n, {M}, e, f] h", ""),
        (f", float[n, {N}, e, f] z", "z = Conv(h, w)"),
    ],
)
def test_an_intermediate_that_others_read(apply, random, outputs, more):
    unchanged_as_shared(apply(MERGE_CONVOLUTIONS, pair(outputs=outputs, more=more), constants(random)))


def test_shared_weights_stay_for_their_other_readers(apply, random):
    outputs = f", float[n, {N}, e, f] z, float[{M}, {K}, 3, 3] u"
    text = pair(outputs=outputs, more="i = Conv(x, v) z = Conv(i, w, d) u = Neg(v)")
    weights = constants(random)
    applied = apply(MERGE_CONVOLUTIONS, text, weights)
    assert applied.operators == ["Conv", "Conv", "Neg"]
    assert applied.outcome.changes == 2
    for name in "vwcd":
        np.testing.assert_array_equal(applied.weights[name], weights[name])


def test_an_activation_between(apply, random):
    text = pair().replace("h = Conv(x, v, c)", "i = Conv(x, v, c) h = Relu(i)")
    unchanged(apply(MERGE_CONVOLUTIONS, text, constants(random)))


def test_in_a_branch(apply, random):
    result = f"float[n, {N}, e, f]"
    text = f"""g (float[n, {K}, 7, 8] x, bool q) => ({result} y) {{
        y = If(q) <then_branch = t () => ({result} p) {{ h = Conv(x, v, c) p = Conv(h, w) }},
                   else_branch = e () => ({result} r) {{ r = Conv(x, u) }}>
    }}"""
    weights = constants(random) | {"u": random.standard_normal((N, K, 3, 3)).astype("f4")}
    for taken in (True, False):
        applied = apply(MERGE_CONVOLUTIONS, text, weights, feeds={"q": np.array(taken)})
        assert applied.operators == ["If", "Conv", "Conv"]
