"""Regions in which channels are the last axis: what their programs compute, and how they give it back."""

import numpy as np
import pytest
from region_interpreter import LAST, number_of_instructions

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


def test_what_is_only_moved(check):
    check(f"c = Conv(x, w) t = {TO_LAST}(x) r = Relu(c) u = {TO_LAST}(r) y = Add(t, u)", "float[n, 7, 6, 4]")
