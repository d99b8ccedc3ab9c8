"""conv-transpose-to-conv: by where it looks, its groups and its rank; and every refusal."""

import numpy as np
import pytest
from rewrites import KINDS, as_an_input, unchanged

from nncompile.passes.conv_transpose_to_conv import CONV_TRANSPOSE_TO_CONV

BOTH = ("onnxruntime", "reference")


def graph(attributes="", *, dtype="float32", size="6, 7", inputs=4, bias=True, more=""):
    kind, free = KINDS[dtype], ", ".join("hwd"[: size.count(",") + 1])
    layer = f"ConvTranspose<{attributes}>".replace("<>", "")
    return (
        f"g ({kind}[n, {inputs}, {size}] x{more}) => ({kind}[n, c, {free}] y) "
        f"{{ y = {layer}(x, w{', b' if bias else ''}) }}"
    )


def constants(random, plane=(3, 4), *, inputs=4, outputs=16, group=1, dtype="float32"):
    weight = random.standard_normal((inputs, outputs // group, *plane)) / 5
    return {"w": weight.astype(dtype), "b": random.standard_normal(outputs).astype(dtype)}


def convolved(applied):
    assert applied.operators == ["Conv"]
    assert applied.outcome.changes == 1
    return {a.name: list(a.ints) or a.i for a in applied.node("Conv").attribute}


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("plane", [(3, 4), (1, 1), (2, 5), (3, 2, 3)])
def test_kernels(apply, random, plane, bias, dtype):
    weights = constants(random, plane, dtype=dtype)
    if not bias:
        del weights["b"]
    # ONNX Runtime has no float64 convolution on the CPU.
    engines = ("reference",) if dtype == "float64" else ("onnxruntime",)
    text = graph(dtype=dtype, size=", ".join("675"[: len(plane)]), bias=bias)
    applied = apply(CONV_TRANSPOSE_TO_CONV, text, weights, engines=engines)
    assert convolved(applied)["pads"] == [size - 1 for size in plane] * 2
    assert applied.weights[applied.node("Conv").input[1]].dtype == dtype


@pytest.mark.parametrize(
    ("attributes", "pads"),
    [
        ("pads=[1, 0, 2, 3]", [1, 3, 0, 0]),
        ("pads=[0, 1, 1, 2], dilations=[2, 3]", [4, 8, 3, 7]),
        ("pads=[4, 0, 3, 9], dilations=[2, 3]", [0, 9, 1, 0]),
        ("kernel_shape=[3, 4], strides=[1, 1], group=1, output_padding=[0, 0]", [2, 3, 2, 3]),
        ('auto_pad="VALID"', [2, 3, 2, 3]),
    ],
)
def test_where_it_looks(apply, random, attributes, pads):
    engines = ("onnxruntime",) if "auto_pad" in attributes else BOTH
    found = convolved(apply(CONV_TRANSPOSE_TO_CONV, graph(attributes), constants(random), engines=engines))
    assert found["pads"] == pads


@pytest.mark.parametrize(("inputs", "outputs", "group"), [(4, 32, 2), (6, 6, 6), (6, 48, 3), (3, 48, 3)])
def test_groups(apply, random, inputs, outputs, group):
    weights = constants(random, inputs=inputs, outputs=outputs, group=group)
    applied = apply(
        CONV_TRANSPOSE_TO_CONV, graph(f"group={group}, pads=[1, 1, 1, 1]", inputs=inputs), weights
    )
    assert convolved(applied)["group"] == group
    assert applied.weights[applied.node("Conv").input[1]].shape == (outputs, inputs // group, 3, 4)


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ("strides=[1, 2]", "the strides are [1, 2]"),
        ("strides=[2, 2]", "the strides are [2, 2]"),
        ('auto_pad="SAME_UPPER"', "the padding follows from the size of the result"),
        ('auto_pad="SAME_LOWER"', "the padding follows from the size of the result"),
        ("output_shape=[6, 7]", "the padding follows from the size of the result"),
        ("dilations=[2, 2], output_padding=[0, 1]", "the result is padded"),
        ("pads=[3, 0, 0, 0]", "the padding is larger than what the kernel reaches"),
        ("pads=[0, 0, 0, 4]", "the padding is larger than what the kernel reaches"),
    ],
)
def test_refusals(apply, random, attributes, reason):
    # ONNX Runtime refuses to run a padded result without strides.
    engines = () if "output_padding" in attributes else ("onnxruntime",)
    unchanged(apply(CONV_TRANSPOSE_TO_CONV, graph(attributes), constants(random), engines=engines), reason)


@pytest.mark.parametrize(
    ("plane", "inputs", "outputs", "group"),
    [
        ((3, 3), 16, 8, 1),
        ((3, 3), 1, 1, 1),
        ((3, 3), 16, 24, 1),
        ((3, 3), 65, 16, 1),
        ((3, 3), 32, 32, 4),
        ((3, 3), 32, 16, 16),
        ((3,), 4, 16, 1),
        ((3,), 4, 4, 4),
    ],
)
def test_where_it_is_no_faster(apply, random, plane, inputs, outputs, group):
    weights = constants(random, plane, inputs=inputs, outputs=outputs, group=group)
    text = graph(f"group={group}", size=", ".join("67"[: len(plane)]), inputs=inputs)
    channels = f"{inputs // group} channels to {outputs // group} in {len(plane)} dimensions"
    unchanged(apply(CONV_TRANSPOSE_TO_CONV, text, weights), f"{channels} are no faster as a convolution")


@pytest.mark.parametrize(("size", "plane"), [("1, 1", (3, 4)), ("3, 2", (4, 3)), ("1, 1, 3", (1, 4, 4))])
def test_results_much_larger_than_the_input(apply, random, size, plane):
    reason = "most of what the convolution reads would be padding"
    unchanged(apply(CONV_TRANSPOSE_TO_CONV, graph(size=size), constants(random, plane)), reason)


@pytest.mark.parametrize(
    ("size", "attributes"),
    [("1, 1", "pads=[1, 1, 1, 2]"), ("1, 1", "pads=[1, 1, 1, 0]"), ("a, b", ""), ("1, b", "")],
)
def test_results_not_much_larger_or_of_no_known_size(apply, random, size, attributes):
    """1 and 3 elements of 1; a symbolic size may be any."""
    convolved(apply(CONV_TRANSPOSE_TO_CONV, graph(attributes, size=size), constants(random)))


@pytest.mark.parametrize("default", [True, False])
def test_weights_that_are_an_input(apply, random, default):
    weights = constants(random)
    feeds = {"w": weights["w"]}
    text = graph(more=as_an_input(weights, "w", default))
    unchanged(apply(CONV_TRANSPOSE_TO_CONV, text, weights, feeds=feeds), "the weights are not constant")


def test_a_bias_that_is_an_input_stays_one(apply, random):
    weights = constants(random)
    del weights["b"]
    applied = apply(CONV_TRANSPOSE_TO_CONV, graph(more=", float[16] b"), weights)
    convolved(applied)
    assert applied.node("Conv").input[2] == "b"


def test_the_weights_are_the_same_numbers(apply, random):
    weights = constants(random)
    applied = apply(CONV_TRANSPOSE_TO_CONV, graph(), weights)
    turned = applied.weights[applied.node("Conv").input[1]]
    np.testing.assert_array_equal(turned, np.flip(weights["w"], (2, 3)).swapaxes(0, 1))


def test_two_layers_share_their_weights(apply, random):
    weights = constants(random, (3, 3), inputs=16)
    text = graph("pads=[1, 1, 1, 1]", inputs=16).replace("y =", "h = ConvTranspose(x, w) r = Relu(h) y =")
    applied = apply(CONV_TRANSPOSE_TO_CONV, text.replace("(x, w, b)", "(r, w, b)"), weights)
    assert applied.operators == ["Conv", "Relu", "Conv"]
    assert applied.outcome.changes == 2


def test_a_result_that_is_read_twice_and_is_an_output(apply, random):
    text = graph().replace(" y) {", " y, float[n, c, h, w2] u, float[n, c, h, w2] z) {")
    text = text.replace(" }", " u = Relu(y) z = Neg(y) }")
    applied = apply(CONV_TRANSPOSE_TO_CONV, text, constants(random))
    assert applied.operators == ["Conv", "Relu", "Neg"]


def test_in_a_branch(apply, random):
    text = """g (float[n, 4, 6, 7] x, bool q) => (float[n, c, h, v] y) {
        y = If(q) <then_branch = t () => (float[n, 16, h1, v1] p) { p = ConvTranspose(x, w, b) },
                   else_branch = e () => (float[n, 4, 6, 7] r) { r = Relu(x) }>
    }"""
    for taken in (True, False):
        applied = apply(CONV_TRANSPOSE_TO_CONV, text, constants(random), feeds={"q": np.array(taken)})
        assert applied.operators == ["If", "Conv", "Relu"]
