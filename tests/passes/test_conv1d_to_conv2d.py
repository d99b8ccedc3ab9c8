"""conv1d-to-conv2d: regions, what enters and leaves them, and what is left in one dimension."""

import numpy as np
import pytest
from rewrites import as_an_input, unchanged

from nncompile.passes.conv1d_to_conv2d import CONV1D_TO_CONV2D

SMALL = "3 inputs and 8 outputs of a group do not fill blocks of 16"
C = 16


def graph(nodes, *, inputs=f"float[n, {C}, 12] x", outputs=f"float[n, {C}, l] y"):
    return f"g ({inputs}) => ({outputs}) {{ {nodes} }}"


def constants(random, **shapes):
    """Weights of the given shapes; `b` is a bias."""
    shapes = {"w": (C, C, 3), "b": (C,)} | shapes
    scaled = {
        name: random.standard_normal(shape) / np.sqrt(np.prod(shape[1:])) for name, shape in shapes.items()
    }
    return {name: array.astype("f4") for name, array in scaled.items()}


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ("", {}),
        (
            "kernel_shape=[3], strides=[2], dilations=[3], pads=[1, 4]",
            {"kernel_shape": [1, 3], "strides": [1, 2], "dilations": [1, 3], "pads": [0, 1, 0, 4]},
        ),
        ('auto_pad="SAME_UPPER", strides=[2]', {"strides": [1, 2]}),
        ('auto_pad="SAME_LOWER"', {}),
        ('auto_pad="VALID"', {}),
    ],
)
def test_a_convolution(apply, random, attributes, expected):
    nodes = f"y = Conv<{attributes}>(x, w, b)".replace("<>", "")
    applied = apply(CONV1D_TO_CONV2D, graph(nodes), constants(random))
    assert applied.operators == ["Unsqueeze", "Conv", "Squeeze"]
    assert applied.outcome.changes == 1
    node = applied.node("Conv")
    assert {a.name: list(a.ints) for a in node.attribute if a.ints} == expected
    assert applied.weights[node.input[1]].shape == (C, C, 1, 3)


@pytest.mark.parametrize(("outputs", "inputs", "group"), [(32, 16, 2), (16, 1, 16), (48, 1, 48)])
def test_groups(apply, random, outputs, inputs, group):
    weights = constants(random, w=(outputs, inputs, 3), b=(outputs,))
    text = graph(
        f"y = Conv<group={group}>(x, w, b)",
        inputs=f"float[n, {inputs * group}, 12] x",
        outputs=f"float[n, {outputs}, l] y",
    )
    assert apply(CONV1D_TO_CONV2D, text, weights).outcome.changes == 1


ACTIVATIONS = [
    *("Celu", "Elu", "Erf", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Mish", "Relu", "Selu"),
    *("Sigmoid", "Softplus", "Softsign", "Tanh", "ThresholdedRelu"),
]


@pytest.mark.parametrize(
    "node",
    [
        *(f"{name}(h)" for name in ACTIVATIONS),
        "Clip(h, low, high)",
        "BatchNormalization(h, s, b, b, s)",
        "MaxPool<kernel_shape=[3], strides=[2], pads=[1, 0], dilations=[2]>(h)",
        "MaxPool<kernel_shape=[3], strides=[2], ceil_mode=1>(h)",
        "AveragePool<kernel_shape=[3], strides=[2], pads=[1, 1], count_include_pad=1>(h)",
        "AveragePool<kernel_shape=[3], pads=[0, 2]>(h)",
        'AveragePool<kernel_shape=[3], strides=[3], auto_pad="SAME_UPPER">(h)',
        "GlobalAveragePool(h)",
        "GlobalMaxPool(h)",
        "Add(h, h)",
        "Mul(one, h)",
        "Sub(h, low)",
        "Div(h, high)",
        "Concat<axis=1>(h, h)",
    ],
)
def test_what_a_region_is_made_of(apply, random, node):
    weights = constants(random) | {
        "s": random.uniform(1, 2, C).astype("f4"),
        "low": np.float32(-0.5),
        "high": np.float32(0.75),
        "one": np.ones(1, "f4"),
    }
    text = graph(f"h = Conv(x, w, b) y = {node}", outputs="float[n, c, l] y")
    applied = apply(CONV1D_TO_CONV2D, text, weights)
    assert applied.operators == ["Unsqueeze", "Conv", node.partition("(")[0].partition("<")[0], "Squeeze"]


@pytest.mark.parametrize(
    "node",
    [
        "Softmax(h)",
        "Transpose<perm=[0, 2, 1]>(h)",
        "Concat<axis=-2>(h, h)",
        "Concat<axis=2>(h, h)",
        "Concat<axis=0>(h, h)",
        "Add(h, channel)",
        "Add(h, row)",
        "Add(h, vector)",
        "PRelu(h, channel)",
        "Flatten(h)",
        "ReduceMean<keepdims=0>(h, last)",
    ],
)
def test_what_ends_a_region(apply, random, node):
    weights = constants(random) | {
        "channel": np.ones((C, 1), "f4"),
        "row": np.ones((1, C, 1), "f4"),
        "vector": np.ones(10, "f4"),
        "last": np.array([-1]),
    }
    free = "a, c" if node.startswith(("Flatten", "Reduce")) else "a, c, l"
    text = graph(f"h = Conv(x, w, b) y = {node}", outputs=f"float[{free}] y")
    applied = apply(CONV1D_TO_CONV2D, text, weights)
    assert applied.operators == ["Unsqueeze", "Conv", "Squeeze", node.partition("(")[0].partition("<")[0]]


@pytest.mark.parametrize("shape", ["10", f"{C}, 10", f"2, 1, {C}, 10"])
def test_a_tensor_of_another_rank(apply, random, shape):
    text = graph(
        "h = Conv(x, w, b) y = Add(h, z)",
        inputs=f"float[n, {C}, 12] x, float[{shape}] z",
        outputs="float[a, c, d, e] y" if shape.count(",") == 3 else f"float[n, {C}, l] y",
    )
    applied = apply(CONV1D_TO_CONV2D, text, constants(random))
    assert applied.operators == ["Unsqueeze", "Conv", "Squeeze", "Add"]


def test_a_pool_that_returns_the_places_of_its_maxima(apply, random):
    """The places count the elements of the whole tensor; the pool stays behind the Squeeze."""
    text = graph(
        "h = Conv(x, w, b) y, k = MaxPool<kernel_shape=[2]>(h)",
        outputs=f"float[n, {C}, l] y, int64[n, {C}, l] k",
    )
    assert apply(CONV1D_TO_CONV2D, text, constants(random)).operators == [
        "Unsqueeze",
        "Conv",
        "Squeeze",
        "MaxPool",
    ]


def test_a_network_is_lifted_whole(apply, random):
    text = graph(
        """a = Conv<pads=[1, 1]>(x, v) b1 = Relu(a) c = MaxPool<kernel_shape=[2], strides=[2]>(b1)
        d = Conv<pads=[1, 1]>(c, w, b) e = Add(d, c) f = Relu(e)
        k = Conv(f, u) s = Sigmoid(k) m = Mul(k, s) p = GlobalAveragePool(m) y = Flatten(p)""",
        inputs="float[n, 3, 12] x",
        outputs="float[n, 32] y",
    )
    applied = apply(CONV1D_TO_CONV2D, text, constants(random, v=(C, 3, 3), u=(32, C, 1)))
    assert [applied.operators.count(name) for name in ("Unsqueeze", "Squeeze", "Conv")] == [1, 1, 3]
    assert applied.operators[0] == "Unsqueeze"
    assert applied.operators[-2:] == ["Squeeze", "Flatten"]
    assert applied.outcome.changes == 3


def test_several_tensors_enter_and_leave(apply, random):
    text = graph(
        "a = Conv(x, w) c = Conv(z, w) y = Add(a, c) u = Softmax(a) r = Relu(x) v = Add(x, r)",
        inputs=f"float[n, {C}, 12] x, float[n, {C}, 12] z",
        outputs=f"float[n, {C}, l] y, float[n, {C}, l] u, float[n, {C}, 12] v",
    )
    applied = apply(CONV1D_TO_CONV2D, text, constants(random))
    assert applied.operators.count("Unsqueeze") == 2
    assert applied.operators.count("Squeeze") == 2
    # x is read by two regions, of which one holds no convolution.
    assert applied.operators[-2:] == ["Relu", "Add"]


def test_a_tensor_that_enters_twice_is_unsqueezed_once(apply, random):
    text = graph("h = Conv<pads=[1, 1]>(x, w) y = Add(h, x)")
    applied = apply(CONV1D_TO_CONV2D, text, constants(random))
    assert applied.operators == ["Unsqueeze", "Conv", "Add", "Squeeze"]


def test_an_inner_tensor_that_is_an_output_keeps_its_name(apply, random):
    text = graph(
        "h = Conv(x, w, b) y = Relu(h) z = Neg(h)",
        outputs=f"float[n, {C}, l] y, float[n, {C}, l] h, float[n, {C}, l] z",
    )
    applied = apply(CONV1D_TO_CONV2D, text, constants(random))
    assert [value.name for value in applied.after.graph.output] == ["y", "h", "z"]
    assert applied.operators.count("Squeeze") == 2


def test_a_tensor_that_is_an_output_twice(apply, random):
    text = graph("y = Conv(x, w, b)", outputs=f"float[n, {C}, l] y, float[n, {C}, l] y")
    applied = apply(CONV1D_TO_CONV2D, text, constants(random))
    assert [value.name for value in applied.after.graph.output] == ["y", "y"]
    assert applied.operators == ["Unsqueeze", "Conv", "Squeeze"]


def test_shared_weights_are_lifted_once(apply, random):
    text = graph("h = Conv(x, w) i = Relu(h) y = Conv(i, w)")
    applied = apply(CONV1D_TO_CONV2D, text, constants(random))
    assert len({node.input[1] for node in applied.after.graph.node if node.op_type == "Conv"}) == 1


def test_weights_stay_for_their_other_readers(apply, random):
    weights = constants(random, w_2d=(C, C, 3))
    text = graph(
        "y = Conv(x, w) u = Neg(w) v = Neg(w_2d)",
        outputs=f"float[n, {C}, l] y, float[16, 16, 3] u, float[a, c, d] v",
    )
    applied = apply(CONV1D_TO_CONV2D, text, weights)
    for name in ("w", "w_2d"):
        np.testing.assert_array_equal(applied.weights[name], weights[name])


@pytest.mark.parametrize(
    ("shape", "group", "reason"),
    [
        ((8, 3, 3), 1, SMALL),
        ((24, 16, 3), 1, "16 inputs and 24 outputs of a group do not fill blocks of 16"),
        ((24, 1, 3), 24, "24 channels are no multiple of 16"),
        ((32, 8, 3), 2, "8 inputs and 16 outputs of a group do not fill blocks of 16"),
        ((16, 16, 3), 2, "16 inputs and 8 outputs of a group do not fill blocks of 16"),
        ((16, 3, 3), 1, "no kernel larger than 1 around it has a multiple of 16 channels"),
        ((16, 16, 1), 1, "no kernel larger than 1 around it has a multiple of 16 channels"),
    ],
)
def test_channels(apply, random, shape, group, reason):
    text = graph(
        f"y = Conv<group={group}>(x, w)",
        inputs=f"float[n, {shape[1] * group}, 12] x",
        outputs=f"float[n, {shape[0]}, l] y",
    )
    unchanged(apply(CONV1D_TO_CONV2D, text, constants(random, w=shape)), reason)


def test_a_convolution_beside_a_region_stays_in_one_dimension(apply, random):
    text = graph("h = Conv(x, w, b) r = Relu(h) y = Conv(r, v)", outputs="float[n, 3, l] y")
    applied = apply(CONV1D_TO_CONV2D, text, constants(random, v=(3, C, 3)))
    assert applied.operators == ["Unsqueeze", "Conv", "Relu", "Squeeze", "Conv"]
    assert applied.reasons == ["16 inputs and 3 outputs of a group do not fill blocks of 16"]


@pytest.mark.parametrize(("dtype", "kind"), [("float16", "float16"), ("float64", "double")])
def test_other_dtypes(apply, random, dtype, kind):
    weights = {name: array.astype(dtype) for name, array in constants(random).items()}
    text = graph("y = Conv(x, w, b)").replace("float[", f"{kind}[")
    unchanged(apply(CONV1D_TO_CONV2D, text, weights, engines=()), f"the weights are of dtype {dtype}")


@pytest.mark.parametrize("default", [True, False])
def test_weights_that_are_an_input(apply, random, default):
    weights = constants(random)
    feeds = {"w": weights["w"]}
    text = graph("y = Conv(x, w, b)", inputs=f"float[n, {C}, 12] x" + as_an_input(weights, "w", default))
    unchanged(apply(CONV1D_TO_CONV2D, text, weights, feeds=feeds))


def test_two_dimensions(apply, random):
    text = graph("y = Conv(x, w, b)", inputs=f"float[n, {C}, 5, 5] x", outputs="float[n, c, h, l] y")
    unchanged(apply(CONV1D_TO_CONV2D, text, constants(random, w=(C, C, 3, 3))))


def test_before_unsqueeze_took_its_axes_as_an_input(apply, random):
    unchanged(apply(CONV1D_TO_CONV2D, graph("y = Conv(x, w, b)"), constants(random), opset=12))


@pytest.mark.parametrize("taken", [True, False])
def test_in_a_branch_and_across_its_border(apply, random, taken):
    result = f"float[n, {C}, l]"
    text = graph(
        f"""h = Conv(x, w, b)
        y = If(q) <then_branch = t () => ({result} p) {{ r = Relu(h) p = Conv(r, w) }},
                   else_branch = e () => ({result} s) {{ s = Sigmoid(h) }}>""",
        inputs=f"float[n, {C}, 12] x, bool q",
    )
    applied = apply(CONV1D_TO_CONV2D, text, constants(random), feeds={"q": np.array(taken)})
    assert applied.outcome.changes == 2
    assert sorted(applied.operators) == sorted(
        ["Unsqueeze", "Conv", "Squeeze", "If", "Unsqueeze", "Relu", "Conv", "Squeeze", "Sigmoid"]
    )
