"""split-to-slices: each part that is used as a Slice."""

import numpy as np
import pytest

from nncompile.passes.split_to_slices import SPLIT_TO_SLICES

ENGINES = ("onnxruntime", "reference")


def split(parts, attributes="axis = 1", sizes="", more=""):
    """`parts`: of what `p`, `q` and `r` are sizes; the outputs."""
    outputs = ", ".join(f"float[n, {size}, 4] {name}" for name, size in parts.items())
    return f"g (float[n, 7, 4] x{more}) => ({outputs}) {{ p, q, r = Split<{attributes}>(x{sizes}) }}"


@pytest.mark.parametrize("axis", [1, -2])
def test_parts_of_given_sizes(apply, axis):
    parts = {"p": 2, "q": 4, "r": 1}
    weights = {"s": np.array([2, 4, 1])}
    applied = apply(SPLIT_TO_SLICES, split(parts, f"axis = {axis}", ", s"), weights, engines=ENGINES)
    assert applied.operators == ["Slice"] * 3


def test_a_last_part_that_is_smaller(apply):
    parts = {"p": 3, "q": 3, "r": 1}
    applied = apply(SPLIT_TO_SLICES, split(parts, "axis = 1, num_outputs = 3"), engines=ENGINES)
    assert applied.operators == ["Slice"] * 3


def test_parts_that_nothing_reads(apply):
    applied = apply(SPLIT_TO_SLICES, split({"q": 3}, "axis = 1, num_outputs = 3"), engines=ENGINES)
    assert applied.operators == ["Slice"]
    assert sorted(applied.weights) == ["q_axis", "q_end", "q_start"]


def test_a_part_read_twice_and_as_an_output(apply):
    text = """g (float[n, 6] x) => (float[n, 3] p, float[n, 3] y) {
        p, q = Split<axis = 1, num_outputs = 2>(x) a = Add(p, q) y = Mul(a, p)
    }"""
    applied = apply(SPLIT_TO_SLICES, text, engines=ENGINES)
    assert applied.operators == ["Slice", "Slice", "Add", "Mul"]


def test_in_a_branch(apply):
    text = """g (float[n, 6] x, bool k) => (float[n, 3] y) {
        y = If(k) <then_branch = t () => (float[n, 3] p) { p, q = Split<axis = 1, num_outputs = 2>(x) },
                   else_branch = e () => (float[n, 3] b) { a, b = Split<axis = 1, num_outputs = 2>(x) }>
    }"""
    applied = apply(SPLIT_TO_SLICES, text)
    assert sorted(applied.operators) == ["If", "Slice", "Slice"]


def test_sizes_that_a_caller_gives(apply):
    parts = {"p": "a", "q": "b", "r": "c"}
    feeds = {"s": np.array([2, 4, 1])}
    applied = apply(SPLIT_TO_SLICES, split(parts, "axis = 1", ", s", more=", int64[3] s"), feeds=feeds)
    assert applied.operators == ["Split"]
    assert applied.reasons == ["the sizes of its parts are not constant"]


def test_an_axis_of_unknown_size(apply):
    text = (
        "g (float[n, 4] x) => (float[a, 4] p, float[b, 4] q) { p, q = Split<axis = 0, num_outputs = 2>(x) }"
    )
    applied = apply(SPLIT_TO_SLICES, text, feeds={"x": np.ones((4, 4), "f4")})
    assert applied.operators == ["Split"]
    assert applied.reasons == ["the size that it splits is not known"]
