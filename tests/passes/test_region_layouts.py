"""Regions in which channels are the last axis: what their programs compute, and how they give it back."""

import numpy as np
import pytest
from region_interpreter import LAST, SEQUENCE, number_of_instructions

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


@pytest.mark.parametrize("product", ["Mul(c, g)", "Mul(g, c)", "Div(c, h)"])
def test_a_gate_of_pixels(check, product):
    nodes = f"c = Conv(x, w) g = ReduceMean(c, channels) h = Clip(g, low) y = {product}"
    check(nodes, "float[n, 4, 7, 6]", channels=np.array([1]), low=np.float32(0.5))


@pytest.mark.parametrize("product", ["Mul(g, p)", "Mul(p, g)"])
def test_a_gate_of_channels_by_one_of_pixels(check, product):
    """FocalNet spreads the mean of a plane by a gate of its pixels."""
    nodes = f"c = Conv(x, w) p = Conv(c, one) g = GlobalAveragePool(c) m = {product} y = Add(c, m)"
    region = check(nodes, "float[n, 4, 7, 6]", one=(1, 4, 1, 1))
    assert number_of_instructions(region) == 5


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
