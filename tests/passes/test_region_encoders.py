"""What bounds a region: the nodes that have no instruction, each with its reason."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from outlined import PLANE, regions

from nncompile.passes.outline_fused_regions import OUTLINE_FUSED_REGIONS

pytestmark = pytest.mark.usefixtures("whatever_it_is_worth")


def conv(more="", x="x", weight="w"):
    return f"y = Conv<{more}>({x}, {weight})" if more else f"y = Conv({x}, {weight})"


@pytest.mark.parametrize(
    ("nodes", "y", "weights", "reason"),
    [
        ("v = Neg(w) " + conv(weight="v"), "float[n, 4, 7, 6] y", {}, "a weight is not constant"),
        (conv(), "float[n, 4, 7, 6] y", {"x": f"{PLANE} x, float[4, 4, 1, 1] w"}, "a weight is not constant"),
        ("y = Conv(x, x)", "float[n, 4, 1, 1] y", {"x": "float[4, 4, 7, 6] x"}, "a weight is not constant"),
        (conv(), "float[n, 4, 7] y", {"w": (4, 4, 1), "x": "float[n, 4, 7] x"}, "rank is 3"),
        (conv(), "float[n, 4, 7, m] y", {"x": "float[n, 4, 7, m] x"}, "a size of its input is not known"),
        ("h = Cast<to = 10>(x) g = Conv(h, v) y = Cast<to = 1>(g)", "float[n, 4, 7, 6] y",
         {"v": np.ones((4, 4, 1, 1), "f2")}, "its input is float16, not float32"),
    ],
)  # fmt: skip
def test_convolutions_that_are_left_alone(outline, nodes, y, weights, reason):
    given = dict(weights)
    applied = outline(nodes, y, x=given.pop("x", f"{PLANE} x"), **given)
    assert applied.outcome.changes == 0
    (found,) = applied.reasons
    assert reason in found


@pytest.mark.parametrize(
    ("node", "y", "weights", "reason"),
    [
        ("y = Exp(c)", PLANE, {}, "the kernels have no Exp"),
        ('y = Gelu<approximate = "tanh">(c)', PLANE, {}, "it is approximated by tanh"),
        ("y = Add(c, one)", PLANE, {"one": (6,)}, "its constant is float32 of shape [6]"),
        ("y = Add(c, one)", PLANE, {"one": (4, 7, 6)}, "its constant is float32 of shape [4, 7, 6]"),
        ("y = Div(one, c)", PLANE, {"one": (4, 1, 1)}, "it divides a constant"),
        ("y = Div(c, one)", PLANE, {"one": np.zeros((4, 1, 1), "f4")}, "its scale or shift is not finite"),
        ("y = Sub(c, z)", PLANE, {"x": f"{PLANE} x, float[n, 4, 1, 1] z"}, "it subtracts tensors of shape"),
        ("y = Sub(z, c)", PLANE, {"x": f"{PLANE} x, float[1, 4, 7, 6] z"}, "it subtracts tensors of shape"),
        ("y = BatchNormalization(c, k, k, k, v)", PLANE, {"k": (4,), "v": np.full(4, -1, "f4")},
         "not finite"),
        ("y = BatchNormalization(c, k, k, k, v)", PLANE, {"k": (4,), "x": f"{PLANE} x, float[4] v"},
         "a weight is not constant"),
        ("y = Slice(c, s, e, a)", "float[n, 4, 2, 6]",
         {"s": np.array([1]), "e": np.array([3]), "a": np.array([2])}, "it slices axis 2"),
        ("y = Slice(c, s, e, a)", "float[n, 2, 2, 6]",
         {"s": np.array([1, 1]), "e": np.array([3, 3]), "a": np.array([1, 2])}, "the channels alone"),
        ("y = Slice(c, s, e, a, t)", PLANE,
         {"s": np.array([-1]), "e": np.array([-9]), "a": np.array([1]), "t": np.array([-1])}, "steps of -1"),
        ("y = Slice(c, s, e, a)", "float[n, 0, 7, 6]",
         {"s": np.array([3]), "e": np.array([3]), "a": np.array([1])}, "it takes 0 channels"),
        ("y = Gather<axis = 2>(c, i)", "float[n, 4, 2, 6]", {"i": np.array([1, 0])}, "along axis 2"),
        ("y = Gather<axis = 1>(c, i)", "float[n, 1, 2, 7, 6]", {"i": np.array([[1, 0]])}, "of rank 2"),
        ("y = Gather<axis = 1>(c, i)", "float[n, k, 7, 6]", {"x": f"{PLANE} x, int64[k] i"}, "not constant"),
        ("y = Add(c, z)", PLANE, {"x": f"{PLANE} x, float[n, 4, 1, 1] z"}, "it adds tensors of shape"),
        ("y = Add(c, z)", PLANE, {"x": f"{PLANE} x, float[1, 4, 7, 6] z"}, "it adds tensors of shape"),
        ("y = Mul(c, z)", PLANE, {"x": f"{PLANE} x, float[n, 1, 7, 1] z"}, "it multiplies tensors of shape"),
        ("y = Mul(c, z)", PLANE, {"x": f"{PLANE} x, float[1, 4, 1, 1] z"}, "it multiplies tensors of shape"),
        ("y = Mul(c, z)", PLANE, {"x": f"{PLANE} x, float[7, 6] z"}, "it multiplies tensors of shape"),
        ("y = Mul(c, z)", PLANE, {"x": f"{PLANE} x, float[n, 4, 7, 1] z"}, "it multiplies tensors of shape"),
        ("g = GlobalAveragePool(c) y = Mul(g, z)", PLANE, {"x": f"{PLANE} x, float[1, 1, 7, 6] z"},
         "it multiplies tensors of shape"),
        ("y = Pow(c, e)", PLANE, {"e": np.float32(3)}, "its exponent is not 2"),
        ("y = Pow(c, e)", PLANE, {"e": np.full(6, 2, "f4")}, "its exponent is not 2"),
        ("y = Pow(c, e)", PLANE, {"x": f"{PLANE} x, float e"}, "a weight is not constant"),
        ("y = Softmax<axis = 1>(c)", PLANE, {}, "over axis 1 of a tensor of rank 4"),
        ("y = Concat<axis = 2>(c, x)", "float[n, 4, 14, 6]", {}, "it joins along axis 2"),
        ("y = Concat<axis = 1>(c, z)", "float[n, 8, 7, 6]", {"x": f"{PLANE} x, {PLANE.replace('n', '3')} z"},
         "it joins tensors of shape"),
        ("y, i = MaxPool<kernel_shape = [2, 2]>(c)", "float[n, 4, 6, 5]", {"more": ", int64[n, 4, 6, 5] i"},
         "its second output is used"),
        ("y = MaxPool<kernel_shape = [2, 2], dilations = [2, 2]>(c)", "float[n, 4, 5, 4]", {}, "dilated"),
        ("y = MaxPool<kernel_shape = [2, 2], strides = [2, 2], pads = [0, 0, 1, 1], ceil_mode = 1>(c)",
         "float[n, 4, 4, k]", {}, "its recorded shape ends in [4, 4, 4]"),
        ("y = AveragePool<kernel_shape = [2, 2], strides = [2, 2], ceil_mode = 1, count_include_pad = 1>(c)",
         "float[n, 4, 4, 3]", {}, "its average counts what rounding up adds"),
        ("y = Clip(c, low, high)", PLANE, {"low": np.float32(2), "high": np.float32(1)}, "its bounds are"),
        ("y = Clip(c, low)", PLANE, {"x": f"{PLANE} x, float low"}, "a weight is not constant"),
        ("y = ConvTranspose<output_shape = [7, 6]>(c, v)", PLANE, {"v": (4, 4, 3, 3)}, "its padding follows"),
        ('y = ConvTranspose<auto_pad = "SAME_UPPER", strides = [2, 2]>(c, v)', "float[n, 4, 14, 12]",
         {"v": (4, 4, 3, 3)}, "its padding follows"),
        ("y = ConvTranspose<group = 2>(c, v)", "float[n, 6, 9, 8]", {"v": (4, 3, 3, 3)}, "makes only 3"),
        ("y = ConvTranspose<group = 2>(c, v)", "float[n, 2, 9, 8]", {"v": (4, 1, 3, 3)}, "makes only 1"),
        ("y = ConvTranspose(c, u)", PLANE, {"x": f"{PLANE} x, float[4, 4, 1, 1] u"}, "not constant"),
        ("y = Reshape(c, s)", "float[k, 12, 7, 2]", {"s": np.array([-1, 12, 7, 2])}, "it makes other rows"),
        ("y = Reshape(c, s)", "float[k, 84]", {"s": np.array([-1, 84])}, "it makes other rows"),
        ("y = Reshape(c, s)", "float[k, 168]", {"x": f"{PLANE} x, int64[2] s"}, "a weight is not constant"),
        ("y = Flatten<axis = 2>(c)", "float[k, 42]", {}, "it makes other rows"),
        ("g = GlobalAveragePool(c) y = Squeeze(g)", "float[n, 4]", {}, "it names no axes"),
        ("f = Flatten(c) y = Gemm<alpha = 2.0>(f, v)", "float[n, 3]", {"v": (168, 3)}, "alpha or beta"),
        ("f = Flatten(c) y = Gemm<beta = 2.0>(f, v, b)", "float[n, 3]", {"v": (168, 3), "b": (3,)}, "alpha"),
        ("f = Flatten(c) y = Gemm(f, v, b)", "float[n, 3]", {"v": (168, 3), "b": (1, 3)}, "of shape [1, 3]"),
        ("f = Flatten(c) y = Gemm(f, v, b)", "float[n, 3]", {"v": (168, 3), "b": (1,)}, "do not fit"),
        ("y = MatMul(c, v)", "float[n, 4, 7, 2]", {"v": (6, 2)}, "its input's rank is 4"),
        ("y = Transpose<perm = [0, 1, 3, 2]>(c)", "float[n, 4, 6, 7]", {}, "it orders axes by [0, 1, 3, 2]"),
        ("y = Transpose<perm = [0, 3, 1, 2]>(c)", "float[n, 6, 4, 7]", {}, "it orders axes by [0, 3, 1, 2]"),
        ("y = Transpose(c)", "float[6, 7, 4, n]", {}, "it orders axes by None"),
        ("t = Transpose<perm = [0, 2, 3, 1]>(c) y = Transpose<perm = [0, 2, 3, 1]>(t)", "float[n, 6, 4, 7]",
         {}, "it orders axes by [0, 2, 3, 1]"),
        ("t = Transpose<perm = [0, 2, 3, 1]>(c) y = GlobalAveragePool(t)", "float[n, 7, 1, 1]", {},
         "the channels last"),
        ("t = Transpose<perm = [0, 2, 3, 1]>(c) y = Concat<axis = 1>(t, t)", "float[n, 14, 6, 4]", {},
         "it joins along axis 1"),
        ("t = Transpose<perm = [0, 2, 3, 1]>(c) y = Gather<axis = 1>(t, a)", "float[n, 2, 6, 4]",
         {"a": np.array([1, 0])}, "along axis 1"),
        ("t = Transpose<perm = [0, 2, 3, 1]>(c) y = Slice(t, s, e, a)", "float[n, 2, 6, 4]",
         {"s": np.array([1]), "e": np.array([3]), "a": np.array([1])}, "it slices axis 1"),
        ("t = Transpose<perm = [0, 2, 3, 1]>(c) y = Add(t, z)", "float[n, 7, 6, 4]",
         {"x": f"{PLANE} x, float[n, 7, 6, 4] z"}, "it adds tensors of shape"),
        ("t = Transpose<perm = [0, 2, 3, 1]>(c) y = Mul(t, k)", "float[n, 7, 6, 4]", {"k": (6, 1)},
         "its constant is float32 of shape [6, 1]"),
        ("t = Transpose<perm = [0, 2, 3, 1]>(c) y = MatMul(t, v)", "float[n, 7, 6, 2]",
         {"v": (1, 7, 4, 2)}, "a weight is float32 of shape [1, 7, 4, 2]"),
        ("y = ReduceMean(c, a)", "float[n, 4, 1, 6]", {"a": np.array([2])}, "it reduces axes [2] of 4"),
        ("y = ReduceL2(c, a)", "float[n, 1, 7, 6]", {"a": np.array([1])}, "it reduces axes [1] of 4"),
        ("y = ReduceL2(c)", "float[1, 1, 1, 1]", {}, "it reduces axes None of 4"),
        ("y = ReduceMean<keepdims = 0>(c, a)", "float[n, 7, 6]", {"a": np.array([1])}, "it reduces axes [1]"),
        ("t = Transpose<perm = [0, 2, 3, 1]>(c) y = ReduceMean(t, a)", "float[n, 7, 1, 1]",
         {"a": np.array([2, 3])}, "it reduces axes [2, 3] of 4"),
        ("y = Div(c, z)", PLANE, {"x": f"{PLANE} x, float[n, 4, 1, 1] z"}, "it divides tensors of shape"),
        ("y = Div(z, c)", PLANE, {"x": f"{PLANE} x, float[1, 4, 7, 6] z"}, "it divides tensors of shape"),
        ("y = LayerNormalization(c, s)", PLANE, {"s": (6,)}, "it normalises rows of planes"),
        ("t = Transpose<perm = [0, 2, 3, 1]>(c) y = LayerNormalization<axis = 2>(t, s)", "float[n, 7, 6, 4]",
         {"s": (6, 4)}, "it normalises from axis 2 of 4 on"),
        ("t = Transpose<perm = [0, 2, 3, 1]>(c) y = LayerNormalization(t, s)", "float[n, 7, 6, 4]",
         {"s": (1,)}, "its weights do not fit its input"),
        ("t = Transpose<perm = [0, 2, 3, 1]>(c) y = LayerNormalization(t, s, z)", "float[n, 7, 6, 4]",
         {"s": (4,), "x": f"{PLANE} x, float[4] z"}, "a weight is not constant"),
        ("t = Transpose<perm = [0, 2, 3, 1]>(c) y, m = LayerNormalization(t, s)", "float[n, 7, 6, 4]",
         {"s": (4,), "more": ", float[n, 7, 6, 1] m"}, "its second output is used"),
        ("f = Flatten(c) y = MatMul(v, f)", "float[2, 168]",
         {"v": (2, 3), "x": "float[3, 4, 7, 6] x"}, "it reads a constant"),
    ],
)  # fmt: skip
def test_what_bounds_a_region(outline, node, y, weights, reason):
    """The convolution and what the kernels know become a region; the node in question stays outside."""
    given = dict(weights)
    x, more = given.pop("x", f"{PLANE} x"), given.pop("more", "")
    feeds = {"s": np.array([-1, 168]), "i": np.array([1, 0, 2]), "u": np.ones((4, 4, 1, 1), "f4")}
    feeds = {name: array for name, array in feeds.items() if f"] {name}" in x} or None
    applied = outline(f"c = Conv(x, w) {node}", f"{y} y{more}", x=x, feeds=feeds, **given)
    assert applied.outcome.changes == 1
    assert regions(applied)[0][0] == "Conv"
    assert f"{applied.operators[-1]}<" in node or f"{applied.operators[-1]}(" in node
    assert any(reason in found for found in applied.reasons), applied.reasons


@pytest.mark.parametrize(
    ("node", "reason"),
    [
        ("Add(t, z)", "it adds tensors of shape"),
        ("Sub(z, t)", "it subtracts tensors of shape"),
        ("Mul(t, z)", "it multiplies tensors of shape"),
        ("Div(z, t)", "it divides tensors of shape"),
        ("Concat<axis = -1>(t, z)", "it joins tensors of shape"),
    ],
)
def test_a_cube_whose_channels_are_elsewhere(outline, node, reason):
    """The shapes are the same, and the axes are not."""
    cube, wide = "float[n, 4, 4, 4]", "8" if "Concat" in node else "4"
    nodes = f"c = Conv(x, w) t = Transpose<perm = [0, 2, 3, 1]>(c) y = {node}"
    applied = outline(nodes, f"float[n, 4, 4, {wide}] y", x=f"{cube} x, {cube} z")
    assert regions(applied) == [["Conv", "Transpose"]]
    assert any(reason in found for found in applied.reasons), applied.reasons


@pytest.mark.parametrize(
    ("node", "reason"),
    [
        ("AveragePool<kernel_shape = [2, 2], pads = [2, 0, 0, 0]>(c)", "it pads by its kernel or more"),
        ("MaxPool<kernel_shape = [2, 2], pads = [0, 0, 0, 3]>(c)", "it pads by its kernel or more"),
        ("MaxPool<kernel_shape = [2, 2], pads = [0, -1, 0, 0]>(c)", "it pads by a negative number"),
        ("Conv(c, large)", "its kernel is larger than the plane"),
        ("Conv(c, narrow)", "its weights do not fit its input"),
        ("ConvTranspose<group = 3>(c, large)", "its weights do not fit its input"),
        ("ConvTranspose<pads = [0, -1, 0, 0]>(c, large)", "it pads by a negative number"),
        ("ConvTranspose<pads = [8, 0, 7, 0]>(c, large)", "it pads by more than it makes: a plane of 0 x 14"),
    ],
)
def test_what_onnx_runtime_refuses_is_left_to_it(parsed, random, node, reason):
    text = f"g ({PLANE} x) => (float[n, 4, h, v] y) {{ c = Conv(x, w) y = Identity(c) }}"
    model = ir.from_proto(parsed(text, {"w": random.standard_normal((4, 4, 1, 1)).astype("f4")}))
    for name, shape in (("large", (4, 4, 9, 9)), ("narrow", (4, 3, 1, 1))):
        weight = ir.Value(name=name, const_value=ir.tensor(np.zeros(shape, "f4"), name=name))
        weight.shape, weight.type = ir.Shape(shape), ir.TensorType(ir.DataType.FLOAT)
        model.graph.register_initializer(weight)
    parser = onnx.parser.parse_graph(f"g ({PLANE} c) => (float y) {{ y = {node} }}").node[0]
    first, last = model.graph
    inputs = [first.outputs[0], *(model.graph.initializers[name] for name in parser.input[1:])]
    odd = ir.node(parser.op_type, inputs, {a.name: list(a.ints) or a.i for a in parser.attribute}, name="odd")
    odd.outputs[0].name = "odd"
    model.graph.insert_before(last, odd)
    last.replace_input_with(0, odd.outputs[0])
    assert OUTLINE_FUSED_REGIONS.run(model).refusals[0].reason == reason


def test_a_shape_that_nobody_recorded(parsed, random):
    """What a convolution computes is known all the same; what a Reshape makes is not."""
    weights = {"w": random.standard_normal((4, 4, 1, 1)).astype("f4"), "s": np.array([-1, 168])}
    text = (
        f"g ({PLANE} x) => (float[n, 168] y) {{ c = Conv(x, w) r = Relu(c) f = Reshape(r, s) y = Relu(f) }}"
    )
    model = ir.from_proto(parsed(text, weights))
    for node in list(model.graph)[:-1]:
        node.outputs[0].shape = None
    outcome = OUTLINE_FUSED_REGIONS.run(model)
    assert [node.op_type for node in model.graph] == ["FusedRegion", "Reshape", "Relu"]
    assert [refusal.reason for refusal in outcome.refusals] == [
        "it makes other rows than one of 168 elements for each sample"
    ]


def test_rows_of_batches_without_a_name_are_never_combined(outline):
    x, z = PLANE.replace("n", "?"), PLANE.replace("n", "?")
    applied = outline("a = Conv(x, w) b = Conv(z, w) y = Add(a, b)", f"{x} y", x=f"{x} x, {z} z")
    assert regions(applied) == [["Conv"], ["Conv"]]


def test_rows_of_two_batches_are_never_combined(outline):
    """Both sizes are free and may differ: ONNX would broadcast, the kernels cannot."""
    applied = outline(
        "a = Conv(x, w) b = Conv(z, w) y = Add(a, b)", x=f"{PLANE} x, {PLANE.replace('n', 'm')} z"
    )
    assert regions(applied) == [["Conv"], ["Conv"]]
    assert "it adds tensors of shape ['n', 4, 7, 6] and ['m', 4, 7, 6]" in applied.reasons


@pytest.mark.parametrize(("n", "squeeze"), [("n", "Squeeze(g, axes)"), ("2", "Squeeze(g)")])
def test_a_squeeze_that_cannot_take_the_batch(outline, n, squeeze):
    nodes = f"c = Conv(x, w) g = GlobalAveragePool(c) y = {squeeze}"
    axes = {"axes": np.array([2, 3])} if "axes" in squeeze else {}
    (region,) = regions(outline(nodes, f"float[{n}, 4] y", x=f"float[{n}, 4, 7, 6] x", **axes))
    assert region[-3:] == ["Conv", "GlobalAveragePool", "Squeeze"]
