"""static-reshape: a computed shape becomes constant where one size follows from the others."""

import numpy as np
import pytest

from nncompile.passes.static_reshape import STATIC_RESHAPE

FLATTEN = """
    s = Shape(x)
    n = Slice(s, zero, one)
    t = Concat<axis=0>(n, rest)
    y = Reshape(x, t)
"""


def weights(rest=12):
    return {"zero": np.array([0]), "one": np.array([1]), "rest": np.array([rest])}


def graph(y="float[n, 12]", x="float[n, 3, 4]", nodes=FLATTEN, more=""):
    return f"g ({x} x) => ({y} y{more}) {{ {nodes} }}"


def test_a_computed_shape_becomes_constant(apply):
    applied = apply(STATIC_RESHAPE, graph(), weights(), engines=("onnxruntime", "reference"))
    assert applied.outcome.changes == 1
    shape = applied.node("Reshape").input[1]
    assert applied.weights[shape].tolist() == [-1, 12]


def test_every_size_known(apply):
    applied = apply(STATIC_RESHAPE, graph(y="float[2, 12]", x="float[2, 3, 4]"), weights())
    assert applied.weights[applied.node("Reshape").input[1]].tolist() == [2, 12]


def test_the_computed_shape_may_have_other_uses(apply):
    nodes = FLATTEN + "z = Identity(t)"
    applied = apply(STATIC_RESHAPE, graph(nodes=nodes, more=", int64[2] z"), weights())
    assert applied.outcome.changes == 1
    assert "Concat" in applied.operators


def test_the_result_used_twice_and_as_an_output(apply):
    nodes = FLATTEN + "z = Add(y, y)"
    applied = apply(STATIC_RESHAPE, graph(nodes=nodes, more=", float[n, 12] z"), weights())
    assert applied.outcome.changes == 1


@pytest.mark.parametrize(
    ("y", "x", "reason"),
    [
        ("float[n, m]", "float[n, 3, k]", "2 sizes of the output are not known"),
        ("float[n, 0]", "float[n, 3, 0]", "a size of the output is 0"),
    ],
)
def test_refusals(apply, y, x, reason):
    computed = FLATTEN.replace("Reshape(x, t)", "Reshape<allowzero = 1>(x, t)")
    nodes = computed if "0" in y else FLATTEN.replace("Concat<axis=0>(n, rest)", "Identity(given)")
    more_inputs = "" if "0" in y else ", int64[2] given"
    text = f"g ({x} x{more_inputs}) => ({y} y) {{ {nodes} }}"
    feeds = {"x": np.zeros((3, 3, 0 if "0" in y else 4), "f4"), "given": np.array([3, 12])}
    wanted = {k: v for k, v in feeds.items() if f" {k}" in text.split("=>")[0]}
    applied = apply(STATIC_RESHAPE, text, weights(0), feeds=wanted)
    assert applied.outcome.changes == 0
    assert applied.reasons == [reason]


def test_a_constant_shape_is_no_near_miss(apply):
    applied = apply(STATIC_RESHAPE, graph(nodes="y = Reshape(x, t)"), {"t": np.array([-1, 12])})
    assert applied.outcome.changes == 0
    assert applied.reasons == []
