"""fold-padding: where a Pad and an operator's own padding are the same."""

import numpy as np
import pytest
from rewrites import FLOATS, KINDS, SHARED, unchanged

from nncompile.passes.fold_padding import FOLD_PADDING

NOT_CONSTANT = "the pads, their value or their axes are not constant"
BOTH = ("onnxruntime", "reference")
POOLS = ["AveragePool", "MaxPool"]
PADS = [0, 0, 1, 2, 0, 0, 2, 0]


def graph(
    layer="Conv(p, w)", pad="Pad(a, pads)", *, first="Relu", kind="float", size="9, 8", more="", nodes=""
):
    """Text of an operator, a Pad and the layer that should take it."""
    free = ", ".join("hvd"[: size.count(",") + 1])
    return (
        f"g ({kind}[n, 3, {size}] x) => ({kind}[n, c, {free}] y{more}) "
        f"{{ a = {first}(x) p = {pad} y = {layer} {nodes} }}"
    )


def make(random, dtype="float32", **more):
    return {
        "pads": np.array(PADS),
        "w": (random.standard_normal((4, 3, 3, 3)) / 3).astype(dtype),
        "b": random.standard_normal(4).astype(dtype),
        "zero": np.zeros((), dtype),
    } | more


@pytest.fixture
def weights(random):
    return make(random)


def folded(applied, operator, pads):
    assert applied.operators[-1] == operator
    assert "Pad" not in applied.operators
    assert applied.outcome.changes == 1
    found = {attribute.name: attribute for attribute in applied.node(operator).attribute}
    assert list(found["pads"].ints) == pads
    assert "auto_pad" not in found
    if operator == "AveragePool":
        assert found["count_include_pad"].i == 1


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("layer", ["Conv(p, w)", "Conv(p, w, b)"])
def test_conv(apply, random, layer, dtype):
    engines = ("reference",) if dtype == "float64" else BOTH
    text = graph(layer, first="Neg", kind=KINDS[dtype])
    folded(apply(FOLD_PADDING, text, make(random, dtype), engines=engines), "Conv", [1, 2, 2, 0])


@pytest.mark.parametrize(
    ("attributes", "pads"),
    [
        ("kernel_shape=[3, 3]", [1, 2, 2, 0]),
        ("strides=[2, 1], dilations=[1, 2]", [1, 2, 2, 0]),
        ("strides=[2, 3], pads=[1, 0, 2, 3]", [2, 2, 4, 3]),
        ('auto_pad="VALID", strides=[2, 2]', [1, 2, 2, 0]),
        ('auto_pad="NOTSET", pads=[0, 0, 0, 1]', [1, 2, 2, 1]),
    ],
)
@pytest.mark.parametrize("size", ["8, 8", "9, 10"])
def test_conv_keeps_its_attributes(apply, weights, attributes, pads, size):
    applied = apply(FOLD_PADDING, graph(f"Conv<{attributes}>(p, w)", first="Neg", size=size), weights)
    folded(applied, "Conv", pads)
    (before,) = [node for node in applied.before.graph.node if node.op_type == "Conv"]
    moved = ("pads", "auto_pad")
    after = {a.name: a for a in applied.node("Conv").attribute if a.name not in moved}
    assert after == {a.name: a for a in before.attribute if a.name not in moved}


def test_depthwise_conv(apply, random):
    weights = make(random, w=random.standard_normal((6, 1, 3, 3)).astype("f4"))
    folded(apply(FOLD_PADDING, graph("Conv<group=3>(p, w)"), weights), "Conv", [1, 2, 2, 0])


@pytest.mark.parametrize("rank", [1, 3])
def test_conv_of_other_ranks(apply, random, rank):
    pads = [0, 0, *range(1, rank + 1), 0, 0, *[2] * rank]
    weights = make(random, w=random.standard_normal((4, 3, *[3] * rank)).astype("f4"), pads=np.array(pads))
    text = graph(size=", ".join(["6"] * rank))
    folded(apply(FOLD_PADDING, text, weights), "Conv", [*range(1, rank + 1), *[2] * rank])


def test_weights_that_are_computed(apply, weights):
    folded(
        apply(FOLD_PADDING, graph("Conv(p, v)", nodes="").replace("y =", "v = Neg(w) y ="), weights),
        "Conv",
        [1, 2, 2, 0],
    )


@pytest.mark.parametrize(
    "pad", ["Pad(a, pads, zero)", 'Pad<mode="constant">(a, pads)', "Pad(a, pads, minus)"]
)
@pytest.mark.parametrize(
    "layer", ["Conv(p, w)", "AveragePool<kernel_shape=[3, 3]>(p)", "MaxPool<kernel_shape=[3, 3]>(p)"]
)
def test_how_a_zero_is_given(apply, weights, layer, pad):
    applied = apply(FOLD_PADDING, graph(layer, pad), weights | {"minus": np.float32(-0.0)})
    folded(applied, layer.partition("(")[0].partition("<")[0], [1, 2, 2, 0])


@pytest.mark.parametrize(
    ("axes", "pads", "expected"),
    [
        ([2, 3], [1, 2, 0, 1], [1, 2, 0, 1]),
        ([-1], [1, 2], [0, 1, 0, 2]),
        ([3, -2], [1, 2, 0, 1], [2, 1, 1, 0]),
        ([1, 2], [0, 2, 0, 1], [2, 0, 1, 0]),
    ],
)
def test_axes(apply, weights, axes, pads, expected):
    weights |= {"axes": np.array(axes), "pads": np.array(pads)}
    # With strides of 1 the reference takes uneven pads of a MaxPool in another order.
    for layer in ("Conv(p, w)", "MaxPool<kernel_shape=[3, 3], strides=[2, 2]>(p)"):
        applied = apply(FOLD_PADDING, graph(layer, "Pad(a, pads, , axes)"), weights, engines=BOTH)
        folded(applied, layer.partition("(")[0].partition("<")[0], expected)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("operator", POOLS)
@pytest.mark.parametrize("size", ["8, 8", "9, 10"])
@pytest.mark.parametrize(
    ("attributes", "pads"),
    [
        ("", [1, 2, 2, 0]),
        (", strides=[2, 3]", [1, 2, 2, 0]),
        (", strides=[2, 2], count_include_pad=1, pads=[1, 0, 0, 2]", [2, 2, 2, 2]),
        (', auto_pad="VALID", strides=[3, 1]', [1, 2, 2, 0]),
    ],
)
def test_pools(apply, random, attributes, pads, size, operator, dtype):
    if operator == "MaxPool":
        attributes = attributes.replace(", count_include_pad=1", "")
    lacking = dtype == "float64" and operator == "AveragePool"
    text = graph(f"{operator}<kernel_shape=[3, 4]{attributes}>(p)", kind=KINDS[dtype], size=size)
    engines = ("reference",) if lacking else ("onnxruntime",)
    folded(apply(FOLD_PADDING, text, make(random, dtype), engines=engines), operator, pads)


@pytest.mark.parametrize("operator", POOLS)
@pytest.mark.parametrize("strides", ["[2, 2]", "[1, 2]"])
def test_pools_by_the_reference(apply, weights, operator, strides):
    text = graph(f"{operator}<kernel_shape=[3, 3], strides={strides}>(p)")
    folded(apply(FOLD_PADDING, text, weights, engines=BOTH), operator, [1, 2, 2, 0])


@pytest.mark.parametrize("include", [0, 1])
def test_a_pool_that_has_no_padding_may_count_it_or_not(apply, weights, include):
    text = graph(f"AveragePool<kernel_shape=[3, 3], count_include_pad={include}>(p)", first="Neg")
    folded(apply(FOLD_PADDING, text, weights, engines=BOTH), "AveragePool", [1, 2, 2, 0])


@pytest.mark.parametrize("opset", [11, 13, 18, 22])
@pytest.mark.parametrize(
    "layer", ["Conv(p, w)", "AveragePool<kernel_shape=[3, 3]>(p)", "MaxPool<kernel_shape=[3, 3]>(p)"]
)
def test_opsets(apply, weights, layer, opset):
    applied = apply(FOLD_PADDING, graph(layer), weights, opset=opset)
    folded(applied, layer.partition("(")[0].partition("<")[0], [1, 2, 2, 0])


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("first", ["Neg", "Relu"])
def test_maximum_beside_minus_infinity(apply, random, first, dtype):
    weights = make(random, dtype, low=np.array(-np.inf, dtype))
    text = graph(
        "MaxPool<kernel_shape=[3, 3], strides=[2, 2]>(p)", "Pad(a, pads, low)", first=first, kind=KINDS[dtype]
    )
    folded(apply(FOLD_PADDING, text, weights), "MaxPool", [1, 2, 2, 0])


@pytest.mark.parametrize(
    "nodes",
    [
        "a = Relu(x)",
        "a = Sigmoid(x)",
        "a = Softmax(x)",
        "a = HardSigmoid(x)",
        "a = Abs(x)",
        "a = Clip(x, zero)",
        "a = Clip(x, half, one)",
        "r = Relu(x) a = MaxPool<kernel_shape=[2, 2]>(r)",
        "r = Relu(x) a = MaxPool<kernel_shape=[2, 2], pads=[1, 0, 0, 1]>(r)",
        "r = Relu(x) a = MaxPool<kernel_shape=[2, 2], dilations=[2, 2]>(r)",
        "r = Relu(x) a = AveragePool<kernel_shape=[2, 2], pads=[1, 0, 0, 1]>(r)",
        "r = Relu(x) q = AveragePool<kernel_shape=[2, 2]>(r) a = MaxPool<kernel_shape=[2, 2]>(q)",
    ],
)
@pytest.mark.parametrize("value", ["", ", zero", ", below"])
def test_maximum_of_what_is_not_negative(apply, weights, nodes, value):
    weights |= {"half": np.float32(0.5), "one": np.float32(1), "below": np.float32(-3)}
    text = graph("MaxPool<kernel_shape=[3, 3], strides=[2, 1]>(p)", f"Pad(a, pads{value})")
    applied = apply(FOLD_PADDING, text.replace("a = Relu(x)", nodes), weights)
    assert applied.outcome.changes == 1
    assert "Pad" not in applied.operators


@pytest.mark.parametrize(
    "nodes",
    [
        "a = Neg(x)",
        "a = Tanh(x)",
        "a = LeakyRelu(x)",
        "a = Clip(x)",
        "a = Clip(x, below)",
        "a = Clip(x, , one)",
        "a = Clip(x, zero, below)",
        "m = ReduceMin<keepdims=0>(x) a = Clip(x, m)",
        "m = ReduceMin<keepdims=0>(x) a = Clip(x, zero, m)",
        "r = Tanh(x) a = MaxPool<kernel_shape=[2, 2]>(r)",
        "r = Relu(x) a = MaxPool<kernel_shape=[2, 2], pads=[1, 1, 1, 1], dilations=[2, 2]>(r)",
        "r = Relu(x) a = MaxPool<kernel_shape=[1, 1], strides=[2, 2], ceil_mode=1>(r)",
        "r = Relu(x) a = Sub(r, one)",
    ],
)
def test_maximum_of_what_may_be_negative(apply, weights, nodes):
    weights |= {"one": np.float32(1), "below": np.float32(-3)}
    text = graph("MaxPool<kernel_shape=[3, 3]>(p)").replace("a = Relu(x)", nodes)
    reason = "the Pad's value is 0, which may be more than the elements beside it"
    unchanged(apply(FOLD_PADDING, text, weights), reason)


@pytest.mark.parametrize(("first", "folds"), [("Abs", False), ("Relu", True)])
def test_the_least_integer_is_its_own_absolute_value(apply, weights, first, folds):
    text = graph("MaxPool<kernel_shape=[3, 3]>(p)", first=first, kind="int8")
    applied = apply(FOLD_PADDING, text, weights, feeds={"x": np.full((3, 3, 9, 8), -128, "i1")})
    assert applied.outcome.changes == folds


def test_maximum_of_an_input(apply, weights):
    text = graph("MaxPool<kernel_shape=[3, 3]>(p)", "Pad(x, pads)")
    reason = "the Pad's value is 0, which may be more than the elements beside it"
    unchanged(apply(FOLD_PADDING, text, weights), reason)


@pytest.mark.parametrize("value", [0.5, np.finfo("f4").min, np.nan, np.inf])
def test_maximum_beside_other_values(apply, weights, value):
    weights["v"] = np.float32(value)
    first = "Neg" if value < 0 else "Relu"
    text = graph("MaxPool<kernel_shape=[3, 3]>(p)", "Pad(a, pads, v)", first=first)
    reason = f"the Pad's value is {np.float32(value):g}, which may be more than the elements beside it"
    unchanged(apply(FOLD_PADDING, text, weights), reason)


@pytest.mark.parametrize("value", [1.5, -np.inf, np.nan])
@pytest.mark.parametrize("layer", ["Conv(p, w)", "AveragePool<kernel_shape=[3, 3]>(p)"])
def test_other_values(apply, weights, layer, value):
    weights["v"] = np.float32(value)
    applied = apply(FOLD_PADDING, graph(layer, "Pad(a, pads, v)"), weights)
    unchanged(applied, f"the Pad's value is {value:g}, not 0")


LAYERS = ["Conv(p, w)", *(f"{pool}<kernel_shape=[3, 3]>(p)" for pool in POOLS)]


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("mode", ["reflect", "edge", "wrap"])
def test_modes(apply, weights, layer, mode):
    text = graph(layer, f'Pad<mode="{mode}">(a, pads)')
    unchanged(apply(FOLD_PADDING, text, weights), f"the Pad's mode is {mode}")


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize(
    ("pads", "reason"),
    [
        ([0, 0, 1, -1, 0, 0, 1, 1], "a pad is negative"),
        ([0, 0, 1, 1, 0, 0, -2, 1], "a pad is negative"),
        ([1, 0, 1, 1, 0, 0, 1, 1], "the batch or channel axis is padded"),
        ([0, 0, 1, 1, 0, 1, 1, 1], "the batch or channel axis is padded"),
    ],
)
def test_pads(apply, random, layer, pads, reason):
    weights = make(
        random, pads=np.array(pads), w=random.standard_normal((4, 3 + (pads[5]), 3, 3)).astype("f4")
    )
    unchanged(apply(FOLD_PADDING, graph(layer), weights), reason)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("given", ["pads", "zero", "axes"])
@pytest.mark.parametrize("default", [True, False])
def test_what_a_caller_gives(apply, weights, layer, given, default):
    weights["axes"] = np.array([2, 3, 0, 1])
    weights["pads"] = np.array([1, 2, 0, 0, 2, 0, 0, 0])
    kind = {"pads": "int64[8]", "zero": "float", "axes": "int64[4]"}[given]
    text = graph(layer, "Pad(a, pads, zero, axes)").replace(" x)", f" x, {kind} {given})")
    feeds = {given: weights[given]}
    if not default:
        del weights[given]
    unchanged(apply(FOLD_PADDING, text, weights, feeds=feeds), NOT_CONSTANT)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("same", ["SAME_UPPER", "SAME_LOWER"])
def test_auto_pad(apply, weights, layer, same):
    layer = layer.replace("<", "<kernel_shape=[3, 3], ").replace(
        "kernel_shape=[3, 3]>", f'auto_pad="{same}">'
    )
    layer = layer.replace("Conv(", f'Conv<auto_pad="{same}">(')
    unchanged(apply(FOLD_PADDING, graph(layer), weights), f"auto_pad is {same}")


@pytest.mark.parametrize("operator", POOLS)
@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ("kernel_shape=[3, 3], ceil_mode=1", "the pool has ceil_mode"),
        ("kernel_shape=[3, 3], dilations=[1, 2]", "the pool is dilated"),
        ("kernel_shape=[2, 3]", "the padding would be as large as the kernel"),
        ("kernel_shape=[3, 2]", "the padding would be as large as the kernel"),
        ("kernel_shape=[3, 3], pads=[0, 1, 0, 0]", "the padding would be as large as the kernel"),
    ],
)
def test_pools_refused(apply, weights, operator, attributes, reason):
    unchanged(apply(FOLD_PADDING, graph(f"{operator}<{attributes}>(p)"), weights), reason)


def test_a_pool_that_does_not_count_its_own_padding(apply, weights):
    text = graph("AveragePool<kernel_shape=[4, 4], pads=[0, 1, 0, 0]>(p)")
    unchanged(apply(FOLD_PADDING, text, weights), "the pool does not count its own padding")


def test_the_places_of_the_maxima(apply, weights):
    text = graph("MaxPool<kernel_shape=[3, 3]>(p)").replace("y =", "y, k =")
    unchanged(apply(FOLD_PADDING, text, weights), "the pool returns the places of its maxima")


def test_a_kernel_of_unknown_shape(apply, weights):
    text = (
        graph("Conv(p, v)").replace(" x)", " x, float[4, 3, k, l] v)").replace("n, c, h, v]", "n, c, h, q]")
    )
    unchanged(apply(FOLD_PADDING, text, weights, feeds={"v": weights["w"]}), "the kernel is not known")


@pytest.mark.parametrize("layer", LAYERS)
def test_pads_as_an_attribute(apply, weights, layer):
    text = graph(layer, f"Pad<pads={PADS}>(a)")
    unchanged(apply(FOLD_PADDING, text, weights, opset=10), NOT_CONSTANT)


@pytest.mark.parametrize("layer", LAYERS)
def test_the_padded_tensor_used_twice_or_as_an_output(apply, weights, layer):
    inner = "float[n, c2, i, j]"
    unchanged(apply(FOLD_PADDING, graph(layer, more=f", {inner} z", nodes="z = Exp(p)"), weights), SHARED)
    unchanged(apply(FOLD_PADDING, graph(layer, more=f", {inner} p"), weights), SHARED)


def test_two_layers_share_their_pads(apply, random):
    text = graph(nodes="r = Relu(y) q = Pad(r, pads) z = Conv(q, w2)").replace(" y) {", " z) {")
    weights = make(random) | {"w2": random.standard_normal((2, 4, 3, 3)).astype("f4")}
    applied = apply(FOLD_PADDING, text, weights)
    assert applied.operators == ["Relu", "Conv", "Relu", "Conv"]
    assert applied.outcome.changes == 2


def test_two_pads_in_a_row(apply, weights):
    text = graph(pad="Pad(q, pads)").replace("p =", "q = Pad(a, pads) p =")
    folded_twice = apply(FOLD_PADDING, text, weights)
    assert folded_twice.operators == ["Relu", "Conv"]
    assert list(folded_twice.node("Conv").attribute[0].ints) == [2, 4, 4, 0]
