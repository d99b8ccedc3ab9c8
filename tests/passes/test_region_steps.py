"""Fewer instructions for the same: what becomes part of another instruction, and what must not."""

import numpy as np
import pytest
from region_interpreter import number_of_instructions

TO_LAST, TO_FIRST = "Transpose<perm = [0, 2, 3, 1]>", "Transpose<perm = [0, 3, 1, 2]>"


@pytest.mark.parametrize("product", ["Mul(c, s)", "Mul(s, c)"])
def test_silu_is_one_instruction(check, product):
    region = check(f"c = Conv(x, w) s = Sigmoid(c) y = {product}", "float[n, 4, 7, 6]")
    assert number_of_instructions(region) == 2


@pytest.mark.parametrize(
    "nodes", ["s = Sigmoid(c) m = Mul(c, s) y = Add(m, s)", "s = Sigmoid(c) y = Mul(s, s)"]
)
def test_a_sigmoid_that_is_read_twice_stays(check, nodes):
    region = check(f"c = Conv(x, w) {nodes}", "float[n, 4, 7, 6]")
    assert number_of_instructions(region) == 2 + nodes.count("= ") - 1


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
    assert number_of_instructions(region) == 3


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
    assert number_of_instructions(region) == instructions


def test_a_scale_that_overflows_stays_by_itself(check):
    """Infinity would stand where 0 times the square of what is not positive is 0."""
    nodes = "c = Conv(x, w) r = Relu(c) p = Mul(r, r) m = Mul(p, tiny) s = Mul(m, a) y = Mul(s, b)"
    scales = {"tiny": np.float32(1e-38), "a": np.float32(1e38), "b": np.float32(1)}
    assert number_of_instructions(check(nodes, "float[n, 4, 7, 6]", **scales)) == 2
    nodes = "c = Conv(x, w) k = Mul(c, none) r = Relu(k) p = Mul(r, r) m = Mul(p, a) y = Mul(m, a)"
    scales = {"none": np.float32(0), "a": np.float32(1e30)}
    assert number_of_instructions(check(nodes, "float[n, 4, 7, 6]", **scales)) == 4


def test_channels_of_selected_channels_are_selected_once(check):
    nodes = """c = Conv(x, w) g = Gather<axis = 1>(c, i)
        p = Slice(g, zero, two, one) q = Slice(g, two, four, one) y = Add(p, q)"""
    ints = {"i": [0, 2, 1, 3], "zero": [0], "one": [1], "two": [2], "four": [4]}
    region = check(nodes, "float[n, 2, 7, 6]", **{name: np.array(value) for name, value in ints.items()})
    assert number_of_instructions(region) == 4


def test_a_selection_that_is_read_elsewhere_stays(check):
    nodes = "c = Conv(x, w) g = Gather<axis = 1>(c, i) p = Slice(g, zero, four, one) y = Add(p, g)"
    ints = {"i": [0, 2, 1, 3], "zero": [0], "one": [1], "four": [4]}
    region = check(nodes, "float[n, 4, 7, 6]", **{name: np.array(value) for name, value in ints.items()})
    assert number_of_instructions(region) == 4


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
