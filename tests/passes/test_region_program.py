"""The program of a region means what its function says: an interpreter reads each instruction."""

import numpy as np
import pytest
from region_interpreter import number_of_instructions


def after_conv(node):
    return f"c = Conv(x, w) y = {node}"


@pytest.mark.parametrize(
    ("attributes", "w", "shape"),
    [
        ("", (5, 4, 3, 3), (5, 5, 4)),
        ("kernel_shape = [3, 2], strides = [2, 1]", (5, 4, 3, 2), (5, 3, 5)),
        ("pads = [1, 0, 2, 3]", (5, 4, 3, 3), (5, 8, 7)),
        ("group = 4, pads = [1, 1, 1, 1]", (4, 1, 3, 3), (4, 7, 6)),
        ("group = 4", (8, 1, 1, 1), (8, 7, 6)),
        ("group = 2, strides = [2, 2]", (6, 2, 3, 3), (6, 3, 2)),
        ("dilations = [2, 1]", (5, 4, 3, 2), (5, 3, 5)),
        ('auto_pad = "VALID", dilations = [2, 3], strides = [2, 1]', (5, 4, 3, 2), (5, 2, 3)),
        ("group = 4, dilations = [1, 2], pads = [0, 2, 0, 2]", (4, 1, 2, 3), (4, 6, 6)),
        ('auto_pad = "SAME_UPPER", strides = [2, 2]', (5, 4, 3, 2), (5, 4, 3)),
        ('auto_pad = "SAME_LOWER", strides = [2, 2]', (5, 4, 4, 3), (5, 4, 3)),
        ('auto_pad = "VALID", strides = [3, 3]', (5, 4, 2, 2), (5, 2, 2)),
    ],
)
@pytest.mark.parametrize("bias", [False, True])
def test_convolutions(check, attributes, w, shape, bias):
    y = f"float[n, {', '.join(map(str, shape))}]"
    more = {"b": (w[0],)} if bias else {}
    check(f"y = Conv<{attributes}>(x, w{', b' if bias else ''})".replace("<>", ""), y, w=w, **more)


@pytest.mark.parametrize(
    ("attributes", "w", "shape"),
    [
        ("", (4, 5, 3, 3), (5, 9, 8)),
        ("kernel_shape = [2, 2], strides = [2, 2]", (4, 5, 2, 2), (5, 14, 12)),
        ("strides = [2, 2], pads = [1, 1, 1, 1]", (4, 5, 4, 4), (5, 14, 12)),
        ("strides = [2, 3], pads = [0, 1, 2, 3], output_padding = [1, 2]", (4, 5, 3, 4), (5, 14, 17)),
        ("strides = [2, 1], dilations = [2, 3], pads = [1, 0, 0, 2]", (4, 5, 3, 2), (5, 16, 7)),
        ("group = 2, strides = [2, 2]", (4, 4, 3, 3), (8, 15, 13)),
        ("group = 4, strides = [3, 2]", (4, 1, 3, 2), (4, 21, 12)),
        ('auto_pad = "VALID", strides = [2, 2]', (4, 5, 3, 3), (5, 15, 13)),
    ],
)
@pytest.mark.parametrize("bias", [False, True])
def test_transposed_convolutions(check, attributes, w, shape, bias):
    y = f"float[n, {', '.join(map(str, shape))}]"
    more = {"b": (shape[0],)} if bias else {}
    node = f"ConvTranspose<{attributes}>(x, w{', b' if bias else ''})".replace("<>", "")
    check(f"y = {node}", y, w=w, **more)


@pytest.mark.parametrize("operator", ["MaxPool", "AveragePool"])
@pytest.mark.parametrize(
    ("attributes", "plane"),
    [
        ("kernel_shape = [2, 2], strides = [2, 2]", "3, 3"),
        ("kernel_shape = [3, 2]", "5, 5"),
        ("kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]", "4, 3"),
        ("kernel_shape = [3, 3], strides = [2, 3], pads = [0, 1, 2, 0]", "4, 2"),
        ("kernel_shape = [2, 2], strides = [2, 2], ceil_mode = 1", "4, 3"),
        ("kernel_shape = [3, 3], strides = [2, 2], ceil_mode = 1", "3, 3"),
        ('kernel_shape = [3, 3], strides = [2, 2], auto_pad = "SAME_UPPER"', "4, 3"),
        ('kernel_shape = [2, 3], strides = [2, 2], auto_pad = "SAME_LOWER"', "4, 3"),
    ],
)
def test_pools(check, operator, attributes, plane):
    check(after_conv(f"{operator}<{attributes}>(c)"), f"float[n, 4, {plane}]")


@pytest.mark.parametrize("pads", ["1, 1, 1, 1", "0, 1, 1, 0"])
def test_an_average_that_counts_its_padding(check, pads):
    plane = "7, 6" if pads == "1, 1, 1, 1" else "6, 5"
    node = f"AveragePool<kernel_shape = [3, 3], pads = [{pads}], count_include_pad = 1>(c)"
    check(after_conv(node), f"float[n, 4, {plane}]")


@pytest.mark.parametrize(
    "node",
    [
        "Relu(c)",
        "Clip(c, low, high)",
        "Clip(c, low)",
        "Clip(c, , high)",
        "Clip(c)",
        "LeakyRelu(c)",
        "LeakyRelu<alpha = 0.25>(c)",
        "HardSwish(c)",
        "Sigmoid(c)",
        "Tanh(c)",
        "HardSigmoid(c)",
        "HardSigmoid<alpha = 0.3, beta = 0.1>(c)",
        "Gelu(c)",
    ],
)
def test_activations(check, node):
    check(after_conv(node), "float[n, 4, 7, 6]", low=np.float32(-0.5), high=np.array([0.75], "f4")[0])


@pytest.mark.parametrize(
    ("node", "weights"),
    [
        ("BatchNormalization(c, k, b, m, v)", {"k": (4,), "b": (4,), "m": (4,), "v": np.full(4, 2, "f4")}),
        ("BatchNormalization<epsilon = 0.5>(c, k, b, m, v)", {n: np.arange(4, dtype="f4") for n in "kbmv"}),
        ("Mul(c, k)", {"k": (4, 1, 1)}),
        ("Mul(k, c)", {"k": (1, 4, 1, 1)}),
        ("Mul(c, k)", {"k": ()}),
        ("Add(k, c)", {"k": (4, 1, 1)}),
        ("Add(c, k)", {"k": (1, 1, 1)}),
        ("Sub(c, k)", {"k": (4, 1, 1)}),
        ("Sub(k, c)", {"k": (4, 1, 1)}),
        ("Div(c, k)", {"k": np.array([1, 2, -3, 4], "f4").reshape(4, 1, 1)}),
    ],
)
def test_a_scale_and_shift_of_each_channel(check, node, weights):
    check(after_conv(node), "float[n, 4, 7, 6]", **weights)


def test_a_scale_of_each_feature(check):
    nodes = "c = Conv(x, w) f = Flatten(c) y = Mul(f, k)"
    check(nodes, "float[n, 168]", k=(168,))


@pytest.mark.parametrize(
    ("node", "channels", "weights"),
    [
        ("Slice(c, s, e, a)", 2, {"s": [1], "e": [3], "a": [1]}),
        ("Slice(c, s, e, a)", 3, {"s": [-3], "e": [2**31 - 1], "a": [-3]}),
        ("Slice(c, s, e, a, t)", 2, {"s": [0], "e": [9], "a": [1], "t": [2]}),
        ("Gather<axis = 1>(c, i)", 3, {"i": [3, 0, 3]}),
        ("Gather<axis = -3>(c, i)", 2, {"i": [-1, -4]}),
    ],
)
def test_selected_channels(check, node, channels, weights):
    check(after_conv(node), f"float[n, {channels}, 7, 6]", **{k: np.array(v) for k, v in weights.items()})


def test_selected_features(check):
    nodes = "c = Conv(x, w) f = Flatten(c) y = Slice(f, s, e, a)"
    check(nodes, "float[n, 40]", s=np.array([2]), e=np.array([42]), a=np.array([1]))


@pytest.mark.parametrize("product", ["Mul(c, e)", "Mul(e, c)"])
def test_squeeze_and_excite(check, product):
    nodes = f"c = Conv(x, w) p = GlobalAveragePool(c) q = Conv(p, v, b) e = Sigmoid(q) y = {product}"
    check(nodes, "float[n, 4, 7, 6]", v=(4, 4, 1, 1), b=(4,))


def test_squeeze_and_excite_by_linear_layers(check):
    nodes = """c = Conv(x, w) p = GlobalAveragePool(c) f = Flatten(p)
        h = Gemm<transB = 1>(f, v, b) r = Relu(h) q = Gemm(r, u) e = Sigmoid(q)
        s = Unsqueeze(e, axes) y = Mul(c, s)"""
    check(nodes, "float[n, 4, 7, 6]", v=(2, 4), b=(2,), u=(2, 4), axes=np.array([2, 3]))


@pytest.mark.parametrize(
    "flat",
    [
        "Flatten(c)",
        "Flatten<axis = -3>(c)",
        "Reshape(c, all)",
        "Reshape(c, kept)",
        "Reshape<allowzero = 1>(c, all)",
    ],
)
@pytest.mark.parametrize(
    "linear", ["Gemm(f, v, b)", "Gemm<transB = 1>(f, t, b)", "MatMul(f, v)", "Gemm(f, v)"]
)
def test_linear_layers_behind_a_flatten(check, flat, linear):
    shapes = {"all": np.array([-1, 168]), "kept": np.array([0, -1])}
    given = {name: shape for name, shape in shapes.items() if name in flat}
    given |= {"b": (3,)} if "b)" in linear else {}
    given |= {"t": (3, 168)} if "t" in linear.split("(")[1] else {"v": (168, 3)}
    check(f"c = Conv(x, w) f = {flat} y = {linear}", "float[n, 3]", **given)


@pytest.mark.parametrize("node", ["Softmax(f)", "LogSoftmax(f)", "Softmax<axis = 1>(f)"])
def test_softmax_of_rows(check, node):
    check(f"c = Conv(x, w) f = Flatten(c) y = {node}", "float[n, 168]")


@pytest.mark.parametrize(("axis", "flat"), [(1, False), (-3, False), (1, True), (-1, True)])
def test_concat_of_channels(check, axis, flat):
    join = f"Concat<axis = {axis}>"
    if flat:
        check(f"c = Conv(x, w) f = Flatten(c) g = Relu(f) y = {join}(g, f, g)", "float[n, 504]")
    else:
        check(f"c = Conv(x, w) r = Relu(c) y = {join}(r, c, x)", "float[n, 12, 7, 6]")


@pytest.mark.parametrize("source", ["x", "c"])
@pytest.mark.parametrize("each", [2, 7])
def test_a_few_channels_made_of_each_are_depthwise(check, source, each):
    """Of channels that are repeated before."""
    nodes = f"c = Conv(x, w) d = Conv<group = 4>({source}, v, b) y = Concat<axis = 1>(c, d)"
    region = check(nodes, f"float[n, {4 + 4 * each}, 7, 6]", v=(4 * each, 1, 1, 1), b=(4 * each,))
    code, channels = list(region.attribute[1].ints), [c for c in range(4) for _ in range(each)]
    assert [4 * each, *channels] in [code[i : i + 4 * each + 1] for i in range(len(code))]
    assert number_of_instructions(region) == 4


@pytest.mark.parametrize(
    ("node", "channels", "weight"),
    [
        ("Conv<group = 4>(c, v)", 32, (32, 1, 1, 1)),
        ("Conv<group = 4>(c, v)", 4, (4, 1, 1, 1)),
        ("Conv<group = 2>(c, v)", 4, (4, 2, 1, 1)),
        ("Conv(m, v)", 6, (6, 1, 1, 1)),
    ],
)
def test_channels_that_are_not_repeated(check, node, channels, weight):
    """Many of each, one of each, some of several; and of one channel all."""
    nodes = f"c = Conv(x, w) {'m = Conv(c, one) ' if 'm, v' in node else ''}y = {node}"
    region = check(nodes, f"float[n, {channels}, 7, 6]", v=weight, one=(1, 4, 1, 1))
    assert number_of_instructions(region) == nodes.count("Conv")


def test_a_residual(check):
    check("c = Conv(x, w) y = Add(c, x)", "float[n, 4, 7, 6]")


@pytest.mark.parametrize("difference", ["Sub(c, x)", "Sub(x, c)", "Sub(c, c)"])
def test_a_difference(check, difference):
    region = check(after_conv(difference), "float[n, 4, 7, 6]")
    assert number_of_instructions(region) == 2


@pytest.mark.parametrize(
    ("mode", "how"),
    [
        ('mode = "nearest", coordinate_transformation_mode = "asymmetric", nearest_mode = "floor"', 0),
        ('mode = "linear"', 1),
        ('mode = "linear", coordinate_transformation_mode = "align_corners"', 2),
    ],
)
@pytest.mark.parametrize(
    ("scales", "plane"), [((2, 2), (14, 12)), ((1, 3), (7, 18)), ((24 / 7, 0.5), (24, 3))]
)
def test_planes_of_another_size(check, mode, how, scales, plane):
    node = f"r = Resize<{mode}>(c, , s) y = Relu(r)"
    shape = f"float[n, 4, {plane[0]}, {plane[1]}]"
    region = check(f"c = Conv(x, w) {node}", shape, s=np.array((1, 1, *scales), "f4"))
    code = list(region.attribute[1].ints)
    assert [15, 4, 1, *plane, how] in [code[i : i + 6] for i in range(len(code))]


@pytest.mark.parametrize("n", ["n", "5", "1"])
def test_the_batch_may_be_free_or_fixed(check, n):
    nodes = "c = Conv(x, w) f = Reshape(c, s) y = Gemm(f, v)"
    shape = np.array([-1 if n == "n" else int(n), 168])
    check(nodes, f"float[{n}, 3]", x=f"float[{n}, 4, 7, 6] x", s=shape, v=(168, 3))


def test_the_program_of_a_small_chain(check):
    region = check(
        """c = Conv<strides = [2, 1], pads = [0, 1, 2, 3]>(x, w, b) r = Clip(c, low, high)
           f = Flatten(r) y = Gemm(f, v)""",
        "float[n, 3]",
        w=(5, 4, 3, 2),
        b=(5,),
        v=(5 * 4 * 9, 3),
        low=np.float32(0),
        high=np.float32(6),
    )
    schema, program, constants = region.attribute
    assert (schema.i, list(constants.floats)) == (1, [0, 6])
    assert list(region.input) == ["x", "w", "b", "v"]
    assert list(program.ints) == [
        *(1, 4, 4, 7, 6),  # one activation of rank 4: C, H, W
        4,  # instructions
        *(
            1,
            14,
            0,
            0,
            1,
            3,
            2,
            2,
            1,
            1,
            1,
            0,
            1,
            2,
            3,
            1,
        ),  # x, w, b, kernel, strides, dilations, pads, groups
        *(7, 4, 1, 2, 0, 1),  # clip between constants 0 and 1
        *(12, 1, 2),  # flatten
        *(6, 4, 3, 2, -1, 0),  # linear: weight 2, no bias, not transposed
        *(1, 4, 2),  # one output: value 4, rank 2
    ]


def test_constants_are_never_empty(check):
    region = check("c = Conv(x, w) y = Relu(c)", "float[n, 4, 7, 6]")
    assert list(region.attribute[2].floats) == [0.0]
