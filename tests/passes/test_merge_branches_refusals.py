"""merge-branches: every refusal, by its reason."""

import numpy as np
import pytest
from branches import NORM, STATISTICS, WIDE, C, conv, graph, kernels
from rewrites import NORM_NOT_CONSTANT, NOT_CONSTANT, statistics, unchanged, unchanged_as_shared

from nncompile.passes.merge_branches import MERGE_BRANCHES


@pytest.mark.parametrize(
    ("first", "second", "reason"),
    [
        ("strides=[2, 2], " + WIDE, "strides=[1, 2]", "the strides are [2, 2] and [1, 2]"),
        ('auto_pad="SAME_UPPER"', "", "auto_pad is SAME_UPPER"),
        (WIDE, 'auto_pad="SAME_LOWER"', "auto_pad is SAME_LOWER"),
    ],
)
def test_windows_that_differ(apply, random, first, second, reason):
    weights = kernels(random, v=(3, 3), w=(1, 1))
    text = graph(conv("v", first), conv("w", second), size="1, 3")
    unchanged(apply(MERGE_BRANCHES, text, weights), reason)


@pytest.mark.parametrize("operator", ["Add", "Sub"])
@pytest.mark.parametrize("other", [conv("w"), NORM, "x"])
def test_a_term_that_is_one_row_for_all(apply, random, other, operator):
    """A convolution of the whole plane has one result, which Add and Sub broadcast."""
    weights = kernels(random, v=(3, 3), w=(1, 1)) | statistics(random, C)
    text = graph(conv("v"), other, size="3, 3").replace("Add(", f"{operator}(")
    unchanged(apply(MERGE_BRANCHES, text, weights), "the two terms differ in size")


@pytest.mark.parametrize("other", [NORM, "x"])
@pytest.mark.parametrize("inputs", [1, C])
def test_a_term_that_is_one_channel_for_all(apply, random, inputs, other):
    outputs = C if inputs == 1 else 1
    weights = statistics(random, inputs)
    weights["v"] = random.standard_normal((outputs, inputs, 3, 3)).astype("f4")
    text = graph(conv("v", WIDE), other).replace(f"n, {C}, 7", f"n, {inputs}, 7")
    unchanged(apply(MERGE_BRANCHES, text, weights), "the two terms differ in size")


def test_results_of_the_same_size_by_chance(apply, random):
    """3 x 3 without padding and strides of 4 has as many results as 1 x 1, but for some sizes only."""
    weights = kernels(random, v=(3, 3), w=(1, 1))
    text = graph(conv("v", "strides=[4, 4]"), conv("w", "strides=[4, 4]"), size="8, 8")
    unchanged(apply(MERGE_BRANCHES, text, weights), "the two terms differ in size")


@pytest.mark.parametrize("other", [NORM, "x"])
def test_an_identity_branch_of_strides(apply, random, other):
    weights = kernels(random, v=(3, 3)) | statistics(random, C)
    text = graph(conv("v", "strides=[2, 2], pads=[1, 1, 1, 1]"), other, size="1, 1")
    unchanged(apply(MERGE_BRANCHES, text, weights), "the strides are [2, 2] and [1, 1]")


def test_a_norm_in_training_mode(apply, random):
    weights = kernels(random, v=(3, 3)) | statistics(random, C)
    text = graph(conv("v", WIDE), NORM.replace("(", "<training_mode=1>(", 1))
    text = text.replace("t1 =", "t1, m1, v1 =")
    unchanged(apply(MERGE_BRANCHES, text, weights, engines=()), "the batch norm is in training mode")


@pytest.mark.parametrize("name", ["v", "w", "b"])
@pytest.mark.parametrize("default", [True, False])
def test_a_weight_that_is_an_input(apply, random, name, default):
    weights = kernels(random, v=(3, 3), w=(1, 1))
    feeds, shape = {name: weights[name]}, ", ".join(map(str, weights[name].shape))
    if not default:
        del weights[name]
    text = graph(conv("v", WIDE, "b"), conv("w"), inputs=f", float[{shape}] {name}")
    unchanged(apply(MERGE_BRANCHES, text, weights, feeds=feeds), NOT_CONSTANT)


@pytest.mark.parametrize("name", STATISTICS)
def test_statistics_that_are_an_input(apply, random, name):
    weights = kernels(random, v=(3, 3)) | statistics(random, C)
    text = graph(conv("v", WIDE), NORM, inputs=f", float[{C}] {name}")
    unchanged(apply(MERGE_BRANCHES, text, weights), NORM_NOT_CONSTANT)


def test_bfloat16(apply, random):
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    weights = kernels(random, bfloat16, v=(3, 3), w=(1, 1))
    text = graph(conv("v", WIDE), conv("w"), dtype="bfloat16")
    applied = apply(MERGE_BRANCHES, text, weights, engines=(), opset=22)
    unchanged(applied, "the weights are of dtype bfloat16")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"v": np.nan}, "a folded weight is not finite"),
        ({"b": np.inf}, "a folded weight is not finite"),
        ({"v": 6e4, "w": 6e4}, "a folded weight is beyond the range of float16"),
        ({"b": 6e4, "c": 6e4}, "a folded weight is beyond the range of float16"),
        ({"v": -6e-5, "w": 6.2e-5}, "the folded weights of a channel are too small for float16"),
        ({"v": 6.2e-5, "w": -6e-5}, "the folded weights of a channel are too small for float16"),
    ],
)
def test_what_the_dtype_cannot_hold(apply, random, change, reason):
    weights = kernels(random, v=(1, 1), w=(1, 1))
    weights |= {name: np.full_like(weights[name], value) for name, value in change.items()}
    weights = {key: value.astype("f2") for key, value in weights.items()}
    text = graph(conv("v", bias="b"), conv("w", bias="c"), dtype="float16")
    unchanged(apply(MERGE_BRANCHES, text, weights, engines=()), reason)


def test_a_norm_without_variance(apply, random):
    weights = kernels(random, v=(3, 3)) | statistics(random, C) | {"var": np.full(C, -1, "f4")}
    applied = apply(MERGE_BRANCHES, graph(conv("v", WIDE), NORM), weights, engines=())
    unchanged(applied, "the running statistics give a scale that is not finite")


@pytest.mark.parametrize("name", ["t0", "t1"])
@pytest.mark.parametrize("as_output", [True, False])
def test_a_term_that_others_read(apply, random, name, as_output):
    weights = kernels(random, v=(3, 3), w=(1, 1))
    inner = f", float[n, {C}, e, f]"
    text = graph(
        conv("v", WIDE),
        conv("w"),
        outputs=f"{inner} {name if as_output else 'z'}",
        more="" if as_output else f"z = Relu({name})",
    )
    unchanged_as_shared(apply(MERGE_BRANCHES, text, weights))


def test_shared_weights_stay_for_their_other_readers(apply, random):
    weights = kernels(random, v=(3, 3), w=(1, 1))
    outputs = f", float[n, {C}, e, f] z, float[{C}, {C}, 3, 3] u"
    text = graph(
        conv("v", WIDE, "b"), conv("w"), outputs=outputs, more=f"z = {conv('w', bias='b')} u = Neg(v)"
    )
    applied = apply(MERGE_BRANCHES, text, weights)
    assert sorted(applied.operators) == ["Conv", "Conv", "Neg"]
    for name in "vwb":
        np.testing.assert_array_equal(applied.weights[name], weights[name])


@pytest.mark.parametrize(
    "nodes",
    [
        "r = Relu(x) g = Conv(x, w) h = Conv(r, w) y = Add(g, h)",
        "r = Relu(x) g = Conv(x, w) y = Add(g, r)",
        f"g = {NORM} h = {NORM} y = Add(g, h)",
        "g = Conv(x, w) h = Conv(x, w) y = Mul(g, h)",
        f"g = {NORM} y = Sub(g, x)",
        "y = Add(x, x)",
    ],
)
def test_other_graphs_are_left_alone_without_a_word(apply, random, nodes):
    weights = kernels(random, w=(1, 1)) | statistics(random, C)
    text = f"g (float[n, {C}, 7, 8] x) => (float[n, {C}, 7, 8] y) {{ {nodes} }}"
    unchanged(apply(MERGE_BRANCHES, text, weights))


def test_in_a_branch_of_an_if(apply, random):
    result = f"float[n, {C}, 7, 8]"
    inner = f"h = {conv('v', WIDE)} i = {conv('w')} p = Add(h, i)"
    text = f"""g (float[n, {C}, 7, 8] x, bool q) => ({result} y) {{
        y = If(q) <then_branch = t () => ({result} p) {{ {inner} }},
                   else_branch = e () => ({result} r) {{ r = Relu(x) }}>
    }}"""
    weights = kernels(random, v=(3, 3), w=(1, 1))
    for taken in (True, False):
        applied = apply(MERGE_BRANCHES, text, weights, feeds={"q": np.array(taken)})
        assert applied.operators == ["If", "Conv", "Relu"]
