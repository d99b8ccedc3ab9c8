"""merge-branches: sums of parallel convolutions, batch norm and identity branches."""

import numpy as np
import pytest
from branches import NORM, STATISTICS, WIDE, C, conv, graph, kernels, merged
from rewrites import statistics, unchanged

from nncompile.passes.merge_branches import MERGE_BRANCHES


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("biases", ["", "b", "c", "bc"])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_a_pointwise_branch(apply, random, rank, biases, dtype):
    weights = kernels(random, dtype, v=(3,) * rank, w=(1,) * rank)
    first = conv("v", f"pads={[1] * 2 * rank}", "b" if "b" in biases else "")
    second = conv("w", bias="c" if "c" in biases else "")
    # ONNX Runtime has no float64 convolution on the CPU.
    engines = ("reference",) if dtype == "float64" else ("onnxruntime", "reference")
    for terms in ((first, second), (second, first)):
        text = graph(*terms, dtype=dtype, size=", ".join("567"[:rank]))
        applied = apply(MERGE_BRANCHES, text, weights, engines=engines)
        found = merged(applied)
        assert found["plane"] == [3] * rank
        assert found["pads"] == [1] * 2 * rank
        assert {array.dtype.name for array in applied.weights.values()} == {dtype}


@pytest.mark.parametrize("strides", ["[1, 1]", "[2, 2]", "[3, 1]"])
@pytest.mark.parametrize("size", ["7, 8", "9, 10", "6, 11"])
@pytest.mark.parametrize(
    ("first", "second", "plane", "pads", "dilations"),
    [
        # (kernel, attributes) twice
        (((3, 3), WIDE), ((3, 3), WIDE), [3, 3], [1] * 4, [1, 1]),
        (((5, 5), "pads=[2, 2, 2, 2]"), ((3, 3), WIDE), [5, 5], [2] * 4, [1, 1]),
        (((3, 3), WIDE), ((1, 3), "pads=[0, 1, 0, 1]"), [3, 3], [1] * 4, [1, 1]),
        (((3, 1), "pads=[1, 0, 1, 0]"), ((1, 1), ""), [3, 1], [1, 0, 1, 0], [1, 1]),
        (((3, 3), "pads=[2, 2, 2, 2], dilations=[2, 2]"), ((1, 1), ""), [3, 3], [2] * 4, [2, 2]),
        (
            ((3, 3), "pads=[2, 2, 2, 2], dilations=[2, 2]"),
            ((5, 5), "pads=[2, 2, 2, 2]"),
            [5, 5],
            [2] * 4,
            [1, 1],
        ),
        (
            ((3, 3), "pads=[2, 2, 2, 2], dilations=[2, 2]"),
            ((3, 3), "pads=[2, 2, 2, 2], dilations=[2, 2]"),
            [3, 3],
            [2] * 4,
            [2, 2],
        ),
        (((4, 3), "pads=[2, 1, 1, 1]"), ((2, 3), "pads=[0, 1, 1, 1]"), [4, 3], [2, 1, 1, 1], [1, 1]),
        (((3, 3), "pads=[2, 1, 0, 1]"), ((3, 3), "pads=[1, 1, 1, 1]"), [4, 3], [2, 1, 1, 1], [1, 1]),
        (((2, 2), ""), ((2, 2), 'auto_pad="VALID"'), [2, 2], [0] * 4, [1, 1]),
        (((1, 1), ""), ((1, 1), "dilations=[3, 3]"), [1, 1], [0] * 4, [1, 1]),
    ],
)
def test_where_the_branches_look(apply, random, first, second, plane, pads, dilations, size, strides):
    weights = kernels(random, v=first[0], w=second[0])
    terms = [
        conv(name, ", ".join(filter(None, (branch[1], f"strides={strides}"))), bias)
        for name, branch, bias in (("v", first, "b"), ("w", second, "c"))
    ]
    found = merged(apply(MERGE_BRANCHES, graph(*terms, size=size), weights))
    expected = {"plane": plane, "pads": pads, "dilations": dilations, "strides": eval(strides), "group": 1}
    assert found == expected


@pytest.mark.parametrize(
    ("first", "second", "group"),
    [
        (((3, 3), "pads=[2, 0, 0, 2]"), ((3, 2), "pads=[1, 0, 1, 1]"), 1),  # two corners of 4 x 3
        (
            ((3, 1), "pads=[1, 0, 1, 0]"),
            ((5, 1), "pads=[2, 0, 2, 0], group=2"),
            2,
        ),
    ],
)
def test_what_neither_branch_reads(apply, random, first, second, group):
    """A weight of 0 there would make NaN of results that do not depend on an infinite pixel."""
    weights = kernels(random, group=group, w=second[0]) | kernels(random, v=first[0])
    x = np.zeros((3, C, 7, 8), np.float32)
    x[:, 1, 3, 4] = np.inf, -np.inf, np.nan
    text = graph(conv("v", first[1]), conv("w", second[1]))
    reason = "one convolution would read, with a weight of 0, what neither of the two reads"
    unchanged(apply(MERGE_BRANCHES, text, weights, feeds={"x": x}), reason)


def test_taps_between_those_of_the_other(apply, random):
    """Places -2, 0, 2 and -1, 1: one kernel of 5 for 3 and 2."""
    weights = kernels(random, v=(3, 1), w=(2, 1))
    terms = [conv(name, f"pads=[{p}, 0, {p}, 0], dilations=[2, 1]") for name, p in (("v", 2), ("w", 1))]
    found = merged(apply(MERGE_BRANCHES, graph(*terms), weights))
    assert (found["plane"], found["pads"], found["dilations"]) == ([5, 1], [2, 0, 2, 0], [1, 1])


def test_x_between_the_taps_of_the_other(apply, random):
    """Places -1, 1 and 0: a norm takes a multiplication for each channel, x alone takes none."""
    weights = kernels(random, group=C, v=(2, 1)) | statistics(random, C)
    term = conv("v", f"pads=[1, 0, 1, 0], dilations=[2, 1], group={C}")
    assert merged(apply(MERGE_BRANCHES, graph(term, NORM), weights))["plane"] == [3, 1]
    reason = "one convolution would take 12 multiplications, the two take 8"
    unchanged(apply(MERGE_BRANCHES, graph(term, "x"), weights), reason)


def test_taps_that_lie_apart_are_merged_on_one_grid_where_that_is_no_work(apply, random):
    """Dilations of 2 and 4 read places 2 apart: 5 x 1 there, against 3 x 1 and 3 x 1."""
    weights = kernels(random, v=(3, 1), w=(3, 1))
    terms = [conv(name, f"pads=[{d}, 0, {d}, 0], dilations=[{d}, 1]") for name, d in (("v", 2), ("w", 4))]
    found = merged(apply(MERGE_BRANCHES, graph(*terms), weights))
    assert found["dilations"] == [2, 1]
    assert found["plane"] == [5, 1]


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("group", [1, 2, C])
@pytest.mark.parametrize("other", [NORM, "x"])
def test_an_identity_branch(apply, random, other, group, dtype):
    weights = kernels(random, dtype, group=group, v=(3, 3)) | statistics(random, C, dtype)
    weights = {name: value for name, value in weights.items() if other == NORM or name not in STATISTICS}
    term = conv("v", f"{WIDE}, group={group}", "b")
    engines = ("reference",) if dtype == "float64" else ("onnxruntime",)
    for terms in ((term, other), (other, term)):
        applied = apply(MERGE_BRANCHES, graph(*terms, dtype=dtype), weights, engines=engines)
        found = merged(applied)
        assert (found["plane"], found["group"]) == ([3, 3], group)


@pytest.mark.parametrize("other", [NORM, "x"])
@pytest.mark.parametrize("rank", [1, 3])
def test_an_identity_branch_of_other_ranks(apply, random, rank, other):
    weights = kernels(random, v=(3,) * rank) | statistics(random, C)
    term = conv("v", f"pads={[1] * 2 * rank}")
    applied = apply(MERGE_BRANCHES, graph(term, other, size=", ".join("567"[:rank])), weights)
    assert merged(applied)["plane"] == [3] * rank


def test_an_identity_branch_of_a_dilated_convolution(apply, random):
    term = conv("v", "pads=[2, 2, 2, 2], dilations=[2, 2]")
    found = merged(apply(MERGE_BRANCHES, graph(term, "x"), kernels(random, v=(3, 3))))
    assert (found["plane"], found["dilations"]) == ([3, 3], [2, 2])


def test_a_block_of_repvgg(apply, random):
    weights = kernels(random, v=(3, 3), w=(1, 1)) | statistics(random, C)
    text = graph(conv("w", bias="c"), NORM, conv("v", WIDE, "b"))
    assert merged(apply(MERGE_BRANCHES, text, weights), changes=2)["plane"] == [3, 3]


def test_a_depthwise_block_of_mobileone(apply, random):
    weights = kernels(random, group=C, u=(1, 1), v=(3, 3), w=(3, 3)) | statistics(random, C)
    terms = [conv("u", f"group={C}"), NORM, *(conv(n, f"{WIDE}, group={C}", "b") for n in "vw")]
    found = merged(apply(MERGE_BRANCHES, graph(*terms), weights), changes=3)
    assert (found["plane"], found["group"]) == ([3, 3], C)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize(
    ("first", "second"),
    [
        (conv("v", WIDE, "b"), conv("w", bias="c")),
        (conv("w", bias="c"), conv("v", WIDE, "b")),
        (conv("v", WIDE, "b"), NORM),
        (NORM, conv("v", WIDE, "b")),
        (conv("v", WIDE, "b"), "x"),
        ("x", conv("v", WIDE, "b")),
    ],
)
def test_a_difference(apply, random, first, second, dtype):
    """Which of the two is subtracted is seen in the numbers."""
    used = kernels(random, dtype, v=(3, 3), w=(1, 1)) | statistics(random, C, dtype)
    weights = {name: array for name, array in used.items() if name in f"{first} {second}".replace("Conv", "")}
    text = graph(first, second, dtype=dtype).replace("Add(", "Sub(")
    assert merged(apply(MERGE_BRANCHES, text, weights))["plane"] == [3, 3]


def test_the_token_mixer_of_fastvit(apply, random):
    """What is left of a block and the norm of its input: a difference of sums."""
    weights = kernels(random, group=C, v=(3, 3), w=(1, 1)) | statistics(random, C)
    nodes = f"p = {conv('v', WIDE + f', group={C}', 'b')} q = {conv('w', f'group={C}', 'c')} s = Add(p, q)"
    text = graph("x", NORM).replace("{", f"{{ {nodes}").replace("y = Add(x, t1)", "y = Sub(s, t1)")
    assert merged(apply(MERGE_BRANCHES, text, weights), changes=2)["group"] == C


def test_a_depthwise_branch_of_a_dense_convolution(apply, random):
    weights = kernels(random, v=(3, 3)) | {"w": random.standard_normal((C, 1, 1, 1)).astype("f4")}
    found = merged(apply(MERGE_BRANCHES, graph(conv("v", WIDE), conv("w", f"group={C}")), weights))
    assert found["group"] == 1


def test_groups_with_a_common_divisor(apply, random):
    """Of 4 and 6 groups it is 2, and 12 x 6 x 9 weights."""

    def applied(group, plane, attributes):
        """A 3 x 3 of so many groups, and a kernel of 6 groups."""
        weights = {
            "v": random.standard_normal((12, 12 // group, 3, 3)).astype("f4") / 4,
            "w": random.standard_normal((12, 2, *plane)).astype("f4"),
        }
        text = graph(conv("v", f"{WIDE}, group={group}"), conv("w", f"group=6{attributes}"), channels=12)
        return apply(MERGE_BRANCHES, text.replace(f"n, {C}, 7", "n, 12, 7"), weights)

    reason = "one convolution would take 648 multiplications, the two take {}"
    unchanged(applied(4, (3, 3), f", {WIDE}"), reason.format(540))
    unchanged(applied(4, (1, 1), ""), reason.format(348))
    assert merged(applied(2, (1, 1), ""))["group"] == 2


def test_only_where_the_multiplications_do_not_rise(apply, random):
    weights = kernels(random, v=(1, 3), w=(3, 1), u=(3, 3))
    rows, columns = conv("v", "pads=[0, 1, 0, 1]"), conv("w", "pads=[1, 0, 1, 0]")
    reason = "one convolution would take 144 multiplications, the two take 96"
    unchanged(apply(MERGE_BRANCHES, graph(rows, columns), weights), reason)
    text = graph(rows, conv("u", WIDE), columns)
    assert merged(apply(MERGE_BRANCHES, text, weights), changes=2)["plane"] == [3, 3]


@pytest.mark.parametrize("other", [conv("w"), NORM, "x"])
@pytest.mark.parametrize(("pads", "row"), [([1, 0, 0, 0], 1), ([0, 0, 1, 0], 0)])
def test_the_row_of_an_even_kernel_that_stands_on_x(apply, random, pads, row, other):
    weights = kernels(random, v=(2, 1), w=(1, 1)) | statistics(random, C)
    applied = apply(MERGE_BRANCHES, graph(conv("v", f"pads={pads}"), other), weights)
    assert merged(applied)["pads"] == pads
    change = applied.weights[applied.node("Conv").input[1]] != weights["v"]
    assert change[:, :, row].any()
    assert not change[:, :, 1 - row].any()


def test_the_merged_weight_is_the_exact_one_rounded_once(apply, random):
    values = kernels(random, v=(3, 3), w=(1, 1)) | statistics(random, C)
    text = graph(conv("v", WIDE, "b"), conv("w", bias="c"))
    applied = apply(MERGE_BRANCHES, text, values)
    expected = values["v"].astype("f8")
    expected[:, :, 1:2, 1:2] += values["w"]
    weight, bias = (applied.weights[name] for name in applied.node("Conv").input[1:])
    np.testing.assert_array_equal(weight, expected.astype("f4"))
    np.testing.assert_array_equal(bias, (values["b"].astype("f8") + values["c"]).astype("f4"))
