"""The program of a region means what its function says: an interpreter reads each instruction."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch.nn import functional

from nncompile.passes.outline_fused_regions import OUTLINE_FUSED_REGIONS
from nncompile.passes.region_program import Opcode, Resizing

pytestmark = pytest.mark.usefixtures("whatever_it_is_worth")

ROWS = 3
SEQUENCE, LAST = 3, 5  # the layouts of N x H x C and N x H x W x C
ACTIVATIONS = {
    1: lambda x, a, b: torch.relu(x),
    2: lambda x, a, b: x.clamp(a, b),
    3: lambda x, a, b: functional.leaky_relu(x, a),
    4: lambda x, a, b: functional.silu(x),
    5: lambda x, a, b: functional.hardswish(x),
    6: lambda x, a, b: torch.sigmoid(x),
    7: lambda x, a, b: torch.tanh(x),
    8: lambda x, a, b: (a * x + b).clamp(0, 1),
    9: lambda x, a, b: functional.gelu(x),
    10: lambda x, a, b: a * torch.relu(x) ** 2 + b,
}


def padded(x, pads, ceil, kernel, strides, value):
    """The plane with its padding, and what rounding up makes of the last window."""
    top, left, bottom, right = pads
    if ceil:
        for_rows, for_columns = (
            -(size + sum(p) - k) % s
            for size, p, k, s in zip(
                x.shape[2:], ((top, bottom), (left, right)), kernel, strides, strict=True
            )
        )
        bottom, right = bottom + for_rows, right + for_columns
    return functional.pad(x, (left, right, top, bottom), value=value)


def pool(opcode, x, fields):
    kernel, strides, pads, ceil = fields[:2], fields[2:4], fields[4:8], fields[8]
    if opcode is Opcode.MAX_POOL:
        return functional.max_pool2d(padded(x, pads, ceil, kernel, strides, -torch.inf), kernel, strides)
    sums = functional.avg_pool2d(
        padded(x, pads, ceil, kernel, strides, 0.0), kernel, strides, divisor_override=1
    )
    ones = functional.pad(torch.ones_like(x), (pads[1], pads[3], pads[0], pads[2]), value=float(fields[9]))
    counted = padded(ones, (0, 0, 0, 0), ceil, kernel, strides, 0.0)
    return sums / functional.avg_pool2d(counted, kernel, strides, divisor_override=1)


def interpret(region, arrays):
    """Run a region's program.

    Args:
        region: The node.
        arrays: Values of its inputs.
    """
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in region.attribute}
    assert attributes["schema"] == 1
    code, constants = iter(attributes["program"]), attributes["constants"]
    take = lambda count: [next(code) for _ in range(count)]  # noqa: E731
    tensors = [torch.from_numpy(array.copy()) for array in arrays]
    (activations,) = take(1)
    values, weights = [], tensors[activations:]
    for tensor in tensors[:activations]:
        layout, *shape = take(4)
        tensor = tensor.movedim(-1, 1) if layout in (SEQUENCE, LAST) else tensor
        assert tuple(tensor.shape[1:]) == tuple(shape[: min(layout, 4) - 1])
        assert layout != SEQUENCE or shape[2] == 1
        values.append(tensor.reshape(-1, *shape))
    for _ in range(*take(1)):
        opcode, count = take(2)
        fields = take(count)
        values.append(step(Opcode(opcode), fields, values, weights, constants))
    results = []
    for _ in range(*take(1)):
        value, layout = values[take(1)[0]], take(1)[0]
        last = value.movedim(1, -1)
        results.append({2: value.flatten(1), SEQUENCE: last.flatten(1, 2), 4: value, LAST: last}[layout])
    assert list(code) == []
    return [result.numpy() for result in results]


def step(opcode, fields, values, weights, constants):
    def weight(number):
        return None if number < 0 else weights[number]

    x = None if opcode is Opcode.CONCAT else values[fields[0]]
    match opcode:
        case Opcode.CONV:
            w, b, kh, kw, sh, sw, dh, dw, *pads, groups = fields[1:]
            assert (kh, kw) == tuple(weights[w].shape[2:])
            x = padded(x, pads, 0, (kh, kw), (sh, sw), 0.0)
            return functional.conv2d(x, weights[w], weight(b), (sh, sw), 0, (dh, dw), groups)
        case Opcode.CONV_TRANSPOSE:
            w, b, kh, kw, sh, sw, dh, dw, top, left, height, width, groups = fields[1:]
            assert (kh, kw) == tuple(weights[w].shape[2:])
            y = functional.conv_transpose2d(x, weights[w], None, (sh, sw), 0, 0, groups, (dh, dw))
            y = functional.pad(y, (0, sw + dw, 0, sh + dh))[..., top : top + height, left : left + width]
            return y if b < 0 else y + weights[b][:, None, None]
        case Opcode.MAX_POOL | Opcode.AVERAGE_POOL:
            return pool(opcode, x, fields[1:])
        case Opcode.GLOBAL_AVERAGE:
            return x.mean((2, 3), keepdim=True)
        case Opcode.ADD:
            return x + values[fields[1]]
        case Opcode.SUBTRACT:
            return x - values[fields[1]]
        case Opcode.MULTIPLY:
            gate = values[fields[1]]
            outer = x.shape[2:] == (1, 1) and gate.shape[1] == 1
            assert outer or gate.shape[1:] in (x.shape[1:], (x.shape[1], 1, 1), (1, *x.shape[2:]))
            return x * gate
        case Opcode.DIVIDE:
            assert values[fields[1]].shape[1:] in (x.shape[1:], (1, *x.shape[2:]))
            return x / values[fields[1]]
        case Opcode.PLANE_NORM:
            return torch.linalg.vector_norm(x, dim=(2, 3), keepdim=True)
        case Opcode.CHANNEL_MEAN:
            return x.mean(1, keepdim=True)
        case Opcode.LINEAR:
            w, b, transposed = fields[1:]
            matrix = weights[w] if transposed else weights[w].T
            return functional.linear(x.movedim(1, -1), matrix, weight(b)).movedim(-1, 1)
        case Opcode.LAYER_NORM:
            s, b, epsilon = fields[1:]
            y = x.movedim(1, -1)
            y = functional.layer_norm(y, y.shape[-1:], weights[s], weight(b), constants[epsilon])
            return y.movedim(-1, 1)
        case Opcode.ACTIVATION:
            kind, *indices = fields[1:]
            return ACTIVATIONS[kind](x, *(None if i < 0 else constants[i] for i in indices))
        case Opcode.SOFTMAX:
            return torch.softmax(x, 1)
        case Opcode.LOG_SOFTMAX:
            return torch.log_softmax(x, 1)
        case Opcode.CONCAT:
            count, *parts = fields
            assert count == len(parts)
            return torch.cat([values[part] for part in parts], 1)
        case Opcode.RESIZE:
            height, width, how = fields[1:]
            if how == Resizing.NEAREST:
                return functional.interpolate(x, (height, width))
            corners = how == Resizing.CORNERS
            return functional.interpolate(x, (height, width), mode="bilinear", align_corners=corners)
        case Opcode.FLATTEN:
            return x.flatten(1)[:, :, None, None]
        case Opcode.SELECT:
            count, *channels = fields[1:]
            assert count == len(channels)
            return x[:, channels]


@pytest.fixture
def check(apply, random):
    """`check(nodes, y=..., x=...)`: one region is made, and its program computes what its function does."""

    def run(nodes, y, x="float[n, 4, 7, 6] x", **weights):
        weights = {
            name: random.standard_normal(w).astype("f4") if isinstance(w, tuple) else w
            for name, w in weights.items()
        }
        weights.setdefault("w", random.standard_normal((4, 4, 1, 1)).astype("f4"))
        applied = apply(OUTLINE_FUSED_REGIONS, f"g ({x}) => ({y} y) {{ {nodes} }}", weights)
        assert applied.operators == ["FusedRegion"]
        (region,) = applied.after.graph.node
        given = applied.weights
        feeds = {}
        for value in applied.after.graph.input:
            shape = [d.dim_value or ROWS for d in value.type.tensor_type.shape.dim]
            given[value.name] = feeds[value.name] = random.standard_normal(shape).astype("f4")
        (got,) = interpret(region, [given[name] for name in region.input])
        before = onnxruntime.InferenceSession(
            applied.before.SerializeToString(), providers=["CPUExecutionProvider"]
        )
        (expected,) = before.run(None, feeds)
        assert got.shape == expected.shape
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
        return region

    return run


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


@pytest.mark.parametrize("product", ["Mul(c, s)", "Mul(s, c)"])
def test_silu_is_one_instruction(check, product):
    region = check(f"c = Conv(x, w) s = Sigmoid(c) y = {product}", "float[n, 4, 7, 6]")
    assert region.attribute[1].ints[5] == 2  # the number of instructions


@pytest.mark.parametrize(
    "nodes", ["s = Sigmoid(c) m = Mul(c, s) y = Add(m, s)", "s = Sigmoid(c) y = Mul(s, s)"]
)
def test_a_sigmoid_that_is_read_twice_stays(check, nodes):
    region = check(f"c = Conv(x, w) {nodes}", "float[n, 4, 7, 6]")
    assert region.attribute[1].ints[5] == 2 + nodes.count("= ") - 1


@pytest.mark.parametrize("square", ["Pow(r, two)", "Mul(r, r)"])
@pytest.mark.parametrize(
    "rest",
    ["", " s = Mul(p, a)", " s = Mul(a, p)", " s = Add(p, b)", " m = Mul(a, p) s = Add(m, b)",
     " m = Add(p, b) s = Mul(m, a)", " m = Mul(p, alike) s = Sub(b, m)"],
)  # fmt: skip
def test_star_relu_is_one_instruction(check, square, rest):
    numbers = {"two": np.float32(2), "a": np.float32(0.7), "b": np.array([-0.4], "f4")}
    nodes = f"c = Conv(x, w) r = Relu(c) p = {square}{rest} y = Conv({'s' if rest else 'p'}, w)"
    region = check(nodes, "float[n, 4, 7, 6]", **numbers, alike=np.full((4, 1, 1), 1.5, "f4"))
    assert region.attribute[1].ints[5] == 3  # the number of instructions


@pytest.mark.parametrize(
    ("nodes", "instructions"),
    [
        ("r = Relu(c) p = Mul(r, r) y = Add(p, r)", 4),
        ("r = Relu(c) p = Mul(r, c) y = Add(p, c)", 4),
        ("r = Tanh(c) y = Mul(r, r)", 3),
        ("y = Pow(c, two)", 2),
        ("r = Relu(c) p = Mul(r, r) y = Mul(p, each)", 3),
        ("r = Relu(c) p = Mul(r, r) m = Mul(p, two) y = Add(m, p)", 4),
    ],
)
def test_what_is_not_star_relu(check, nodes, instructions):
    """Another activation, a scale for each channel, or a part that is read elsewhere."""
    weights = {"two": np.float32(2), "each": np.arange(4, dtype="f4").reshape(4, 1, 1)}
    region = check(f"c = Conv(x, w) {nodes}", "float[n, 4, 7, 6]", **weights)
    assert region.attribute[1].ints[5] == instructions


def test_a_scale_that_overflows_stays_by_itself(check):
    """Infinity would stand where 0 times the square of what is not positive is 0."""
    nodes = "c = Conv(x, w) r = Relu(c) p = Mul(r, r) m = Mul(p, tiny) s = Mul(m, a) y = Mul(s, b)"
    scales = {"tiny": np.float32(1e-38), "a": np.float32(1e38), "b": np.float32(1)}
    assert check(nodes, "float[n, 4, 7, 6]", **scales).attribute[1].ints[5] == 2
    nodes = "c = Conv(x, w) k = Mul(c, none) r = Relu(k) p = Mul(r, r) m = Mul(p, a) y = Mul(m, a)"
    scales = {"none": np.float32(0), "a": np.float32(1e30)}
    assert check(nodes, "float[n, 4, 7, 6]", **scales).attribute[1].ints[5] == 4


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


def test_channels_of_selected_channels_are_selected_once(check):
    nodes = """c = Conv(x, w) g = Gather<axis = 1>(c, i)
        p = Slice(g, zero, two, one) q = Slice(g, two, four, one) y = Add(p, q)"""
    ints = {"i": [0, 2, 1, 3], "zero": [0], "one": [1], "two": [2], "four": [4]}
    region = check(nodes, "float[n, 2, 7, 6]", **{name: np.array(value) for name, value in ints.items()})
    assert region.attribute[1].ints[5] == 4  # the number of instructions


def test_a_selection_that_is_read_elsewhere_stays(check):
    nodes = "c = Conv(x, w) g = Gather<axis = 1>(c, i) p = Slice(g, zero, four, one) y = Add(p, g)"
    ints = {"i": [0, 2, 1, 3], "zero": [0], "one": [1], "four": [4]}
    region = check(nodes, "float[n, 4, 7, 6]", **{name: np.array(value) for name, value in ints.items()})
    assert region.attribute[1].ints[5] == 4


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
    assert region.attribute[1].ints[5] == 2  # the number of instructions


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


def number_of_instructions(region):
    """Of a region that reads one tensor."""
    return region.attribute[1].ints[5]


TO_LAST, TO_FIRST = "Transpose<perm = [0, 2, 3, 1]>", "Transpose<perm = [0, 3, 1, 2]>"


@pytest.mark.parametrize(
    "norm",
    [
        "LayerNormalization(t, s, b)",
        "LayerNormalization<axis = 3>(t, s)",
        "LayerNormalization<axis = -1, epsilon = 0.5>(t, s, b)",
    ],
)
def test_layer_norm_of_channels(check, norm):
    nodes = f"c = Conv(x, w) t = {TO_LAST}(c) l = {norm} y = {TO_FIRST}(l)"
    weights = {"s": (4,), "b": (4,)} if "b)" in norm else {"s": (4,)}
    assert number_of_instructions(check(nodes, "float[n, 4, 7, 6]", **weights)) == 2


@pytest.mark.parametrize("axis", [-1, 1])
def test_layer_norm_of_features(check, axis):
    nodes = f"c = Conv(x, w) f = Flatten(c) y = LayerNormalization<axis = {axis}>(f, s, b)"
    check(nodes, "float[n, 168]", s=(168,), b=(168,))


@pytest.mark.parametrize(
    "biases", ["a = Add(m, b) g = Gelu(a)", "a = Add(b, m) g = Gelu(a)", "g = Sub(m, b)"]
)
def test_a_block_of_convnext(check, biases):
    """Its linear layers take their biases; its layer scale is a product."""
    nodes = f"""c = Conv(x, w) t = {TO_LAST}(c) l = LayerNormalization(t, s, s) m = MatMul(l, v) {biases}
        o = MatMul(g, u) q = Add(o, s) r = {TO_FIRST}(q) k = Mul(r, k0) y = Add(x, k)"""
    weights = {"s": (4,), "v": (4, 9), "b": (9,), "u": (9, 4), "k0": (4, 1, 1)}
    region = check(nodes, "float[n, 4, 7, 6]", **weights)
    assert number_of_instructions(region) == 6 + ("Gelu" in biases)


RESPONSES = """p = ReduceL2(r, plane) m = ReduceMean(p, channels) e = Add(m, epsilon) d = Div(p, e)
    g = Mul(r, d) k = Mul(g, s)"""
LAYOUTS = [("t = Relu(c)", [2, 3], [1], "7, 6"), (f"u = Relu(c) t = {TO_LAST}(u)", [1, 2], [-1], "last")]


@pytest.mark.parametrize(("moved", "plane", "channels", "last"), LAYOUTS, ids=["first", "last"])
@pytest.mark.parametrize(
    ("behind", "instructions"),
    [
        ("y = Add(r, k)", 7 + 2),  # of the convolution and its activation, and of what makes the gate
        ("y = Add(k, r)", 7 + 2),
        ("h = Add(k, b) y = Add(r, h)", 8 + 2),
        ("h = Add(b, k) y = Add(h, r)", 8 + 2),
        ("y = Sub(r, k)", 8 + 2),
        ("h = Add(r, k) y = Add(h, k)", 9 + 2),  # what is read twice
        ("h = Add(r, k) y = Add(h, g)", 9 + 2),
        ("y = Add(c2, k)", 8 + 2),  # another tensor than the normalised one
    ],
)
def test_global_response_normalization(check, moved, plane, channels, last, behind, instructions):
    """`x + k (x g)` as `x (1 + k g)`: only of the x whose norms make g, and of what nothing else reads."""
    nodes = f"c = Conv(x, w) {moved} r = Relu(t) {RESPONSES} {behind.replace('c2', 't')}"
    shape = (4, 1, 1) if last != "last" else (4,)
    weights = {"s": shape} | ({"b": shape} if "b" in behind else {})
    region = check(
        nodes,
        "float[n, 7, 6, 4]" if last == "last" else "float[n, 4, 7, 6]",
        plane=np.array(plane),
        channels=np.array(channels),
        epsilon=np.float32(1e-6),
        **weights,
    )
    assert number_of_instructions(region) == instructions


@pytest.mark.parametrize("of_this", ["ReduceL2(r", "Mul(r"])
def test_responses_of_another_tensor_are_no_gate_of_this(check, of_this):
    nodes = f"c = Conv(x, w) r = Relu(c) {RESPONSES.replace(of_this, of_this[:-1] + 'c')} y = Add(r, k)"
    arrays = {"plane": np.array([2, 3]), "channels": np.array([1]), "epsilon": np.float32(1e-6)}
    assert number_of_instructions(check(nodes, "float[n, 4, 7, 6]", s=(4, 1, 1), **arrays)) == 9


def test_another_gate_is_no_response(check):
    """Where x is infinite, `x + k (x g)` may be NaN and `x (1 + k g)` not."""
    nodes = """c = Conv(x, w) p = GlobalAveragePool(c) d = Sigmoid(p) g = Mul(c, d) k = Mul(g, s)
        y = Add(c, k)"""
    region = check(nodes, "float[n, 4, 7, 6]", s=(4, 1, 1))
    assert number_of_instructions(region) == 6


@pytest.mark.parametrize("product", ["Mul(c, g)", "Mul(g, c)", "Div(c, h)"])
def test_a_gate_of_pixels(check, product):
    nodes = f"c = Conv(x, w) g = ReduceMean(c, channels) h = Clip(g, low) y = {product}"
    check(nodes, "float[n, 4, 7, 6]", channels=np.array([1]), low=np.float32(0.5))


@pytest.mark.parametrize("product", ["Mul(g, p)", "Mul(p, g)"])
def test_a_gate_of_channels_by_one_of_pixels(check, product):
    """FocalNet spreads the mean of a plane by a gate of its pixels."""
    nodes = f"c = Conv(x, w) p = Conv(c, one) g = GlobalAveragePool(c) m = {product} y = Add(c, m)"
    region = check(nodes, "float[n, 4, 7, 6]", one=(1, 4, 1, 1))
    assert region.attribute[1].ints[5] == 5


@pytest.mark.parametrize(("keep", "shape"), [(1, "n, 1, 1, 4"), (0, "n, 4")])
def test_the_mean_of_a_plane_with_the_channels_last(check, keep, shape):
    nodes = f"c = Conv(x, w) t = {TO_LAST}(c) y = ReduceMean<keepdims = {keep}>(t, plane)"
    check(nodes, f"float[{shape}]", plane=np.array([-3, -2]))


def test_a_block_that_stays_in_its_layout(check):
    """What is added, scaled and gated with the channels last, and how the region gives it back."""
    nodes = f"""c = Conv(x, w) t = {TO_LAST}(c) u = {TO_LAST}(x) a = Mul(t, k) d = Div(a, e) s = Add(d, u)
        p = GlobalAveragePool(c) q = {TO_LAST}(p) g = Mul(q, s) h = Clip(g, low) y = Sub(h, u)"""
    region = check(nodes, "float[n, 7, 6, 4]", k=(4,), e=(1, 1, 1, 4), low=np.float32(-0.1))
    assert list(region.attribute[1].ints)[-1] == LAST


@pytest.mark.parametrize("axis", [3, -1])
def test_channels_picked_and_joined_where_they_are_last(check, axis):
    nodes = f"""c = Conv(x, w) t = {TO_LAST}(c) s = Slice(t, one, three, a) g = Gather<axis = {axis}>(t, i)
        y = Concat<axis = {axis}>(s, t, g)"""
    ints = {"one": [1], "three": [3], "a": [axis], "i": [3, 0, 3]}
    check(nodes, "float[n, 7, 6, 9]", **{name: np.array(value) for name, value in ints.items()})


@pytest.mark.parametrize(
    "end", ["y = Add(o, x)", "y = ReduceMean<keepdims = 0>(o, one)", "y = ReduceMean(o, one)"]
)
def test_a_sequence(check, end):
    """A block of a transformer: layer norm, linear layers of each token, biases, scales, sums."""
    nodes = f"""l = LayerNormalization(x, s, b) m = MatMul(l, v) p = Add(m, c) g = Gelu(p) q = MatMul(g, u)
        k = Mul(q, s) a = Add(x, k) r = Slice(a, zero, two, last) t = Gather<axis = 2>(a, i)
        o = Concat<axis = 2>(t, r) {end}"""
    shape = {"Add": "n, 5, 4", "one)": "n, 1, 4"}["Add" if "Add" in end else "one)"]
    shape = "n, 4" if "keepdims" in end else shape
    ints = {"zero": [0], "two": [2], "last": [-1], "i": [3, 1], "one": [1]}
    weights = {"s": (4,), "b": (4,), "c": (1, 1, 12), "v": (4, 12), "u": (12, 4)}
    region = check(
        nodes, f"float[{shape}]", "float[n, 5, 4] x", **weights, **{k: np.array(v) for k, v in ints.items()}
    )
    code = list(region.attribute[1].ints)
    assert (code[1:5], code[-1]) == ([SEQUENCE, 4, 5, 1], 2 if "keepdims" in end else SEQUENCE)


def test_what_is_only_moved(check):
    check(f"c = Conv(x, w) t = {TO_LAST}(x) r = Relu(c) u = {TO_LAST}(r) y = Add(t, u)", "float[n, 7, 6, 4]")


@pytest.mark.parametrize("plus", ["Add(m, b)", "Add(m, m)"])
def test_a_product_that_is_read_twice_stays_without_a_bias(check, plus):
    nodes = f"c = Conv(x, w) t = {TO_LAST}(c) m = MatMul(t, v) p = {plus} y = Add(p, m)"
    weights = {"b": (5,)} if "b" in plus else {}
    region = check(nodes, "float[n, 7, 6, 5]", v=(4, 5), **weights)
    assert number_of_instructions(region) == 4


@pytest.mark.parametrize("layer", ["Conv(x, w)", "Conv(x, w, b)"])
def test_a_shift_becomes_the_bias_of_a_layer_without_one(check, layer):
    region = check(f"c = {layer} y = Add(c, k)", "float[n, 4, 7, 6]", k=(4, 1, 1), b=(4,))
    assert number_of_instructions(region) == 1 + ("b" in layer)


def test_a_scale_becomes_no_bias(check):
    region = check("c = Conv(x, w) y = Mul(c, k)", "float[n, 4, 7, 6]", k=np.full((4, 1, 1), 2, "f4"))
    assert number_of_instructions(region) == 2


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
