"""merge-branches: sums of parallel convolutions, batch norm and identity branches; and every refusal."""

import numpy as np
import pytest
from rewrites import KINDS, NORM_NOT_CONSTANT, NOT_CONSTANT, statistics, unchanged, unchanged_as_shared

from nncompile.passes.merge_branches import MERGE_BRANCHES

STATISTICS = ("scale", "shift", "mean", "var")
C = 4


def graph(*terms, dtype="float32", size="7, 8", channels=C, outputs="", inputs="", more=""):
    """Text that adds up terms, given as ONNX's text or as "x", from the left."""
    kind, free = KINDS[dtype], ", ".join("hwd"[: size.count(",") + 1])
    names = [f"t{i}" if "(" in term else term for i, term in enumerate(terms)]
    nodes = [f"{name} = {term}" for name, term in zip(names, terms, strict=True) if name != term]
    while len(names) > 1:
        total = "y" if len(names) == 2 else f"s{len(names)}"
        nodes.append(f"{total} = Add({names[0]}, {names[1]})")
        names[:2] = [total]
    return (
        f"g ({kind}[n, {C}, {size}] x{inputs}) => ({kind}[n, {channels}, {free}] y{outputs}) "
        f"{{ {' '.join(nodes)} {more} }}"
    )


def conv(weight, attributes="", bias=""):
    return f"Conv<{attributes}>(x, {weight}{bias and ', '}{bias})".replace("<>", "")


def kernels(random, dtype="float32", channels=C, group=1, **shapes):
    """Weights of the given planes, and `b` and `c` as biases."""
    values = {
        name: random.standard_normal((channels, C // group, *shape)) / 6 for name, shape in shapes.items()
    }
    values |= {name: random.standard_normal(channels) for name in "bc"}
    return {name: array.astype(dtype) for name, array in values.items()}


NORM = "BatchNormalization(x, scale, shift, mean, var)"
WIDE = "pads=[1, 1, 1, 1]"


def merged(applied, changes=1):
    """Attributes of the one convolution that is left, and its kernel's plane."""
    assert applied.operators == ["Conv"]
    assert applied.outcome.changes == changes
    node = applied.node("Conv")
    found = {a.name: list(a.ints) or a.i for a in node.attribute}
    return found | {"plane": list(applied.weights[node.input[1]].shape[2:])}


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
