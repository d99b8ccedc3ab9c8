"""static-reshape: a computed shape becomes constant where one size follows, or all are known."""

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


SPLIT = """
    s = Shape<end = 2>(x)
    t = Concat<axis=0>(s, rest)
    y = Reshape(x, t)
"""


@pytest.mark.parametrize("sizes", [(3, 5), (0, 5), (1, 1)])
def test_sizes_of_the_same_axes_are_copied(apply, sizes):
    text = graph(y="float[n, m, 3, 4]", x="float[n, m, 12]", nodes=SPLIT)
    x = np.arange(np.prod(sizes) * 12, dtype="f4").reshape(*sizes, 12)
    engines = ("onnxruntime", "reference") if all(sizes) else ("onnxruntime",)
    applied = apply(STATIC_RESHAPE, text, {"rest": np.array([3, 4])}, feeds={"x": x}, engines=engines)
    assert applied.weights[applied.node("Reshape").input[1]].tolist() == [-1, 0, 3, 4]


@pytest.mark.parametrize(
    ("y", "x", "rest"),
    [
        ("float[m, n, 12]", "float[n, m, 12]", "Concat<axis=0>(b, a, c)"),
        ("float[n, k, 12]", "float[n, m, 12]", "Concat<axis=0>(a, b, c)"),
        ("float[n, ?, 12]", "float[n, ?, 12]", "Concat<axis=0>(a, b, c)"),
    ],
    ids=["other axes", "another symbol", "no symbol"],
)
def test_other_sizes_are_not_copied(apply, y, x, rest):
    nodes = f"s = Shape(x) a, b, c = Split<num_outputs = 3>(s) t = {rest} y = Reshape(x, t)"
    feeds = {"x": np.ones((2, 5, 12), "f4")}
    applied = apply(STATIC_RESHAPE, graph(y=y, x=x, nodes=nodes), {}, feeds=feeds)
    assert applied.reasons == ["2 sizes of the output are not known"]


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


RESIZE = """
    s = Shape<end = 2>(x)
    t = Concat<axis=0>(s, plane)
    y = Resize<{}>(x, , , t)
"""
ASYMMETRIC = 'mode = "nearest", coordinate_transformation_mode = "asymmetric", nearest_mode = "floor"'


def resized(y="float[n, 3, 8, 15]", x="float[n, 3, 4, 5]", given=ASYMMETRIC, nodes=RESIZE, more=""):
    return f"g ({x} x) => ({y} y{more}) {{ {nodes.format(given)} }}"


def plane(*sizes):
    return {"plane": np.array(sizes)}


@pytest.mark.parametrize(
    ("given", "sizes"),
    [
        (ASYMMETRIC, (8, 15)),
        (ASYMMETRIC, (2, 5)),
        ('mode = "linear"', (28, 32)),
        ('mode = "linear", coordinate_transformation_mode = "align_corners"', (9, 1)),
        ('mode = "cubic", cubic_coeff_a = -0.5', (8, 6)),
    ],
)
def test_computed_sizes_become_scales(apply, given, sizes):
    applied = apply(
        STATIC_RESHAPE, resized(f"float[n, 3, {sizes[0]}, {sizes[1]}]", given=given), plane(*sizes)
    )
    assert applied.outcome.changes == 1
    _, none, scales = applied.node("Resize").input
    assert (none, applied.weights[scales].tolist()) == (
        "",
        np.array([1, 1, sizes[0] / 4, sizes[1] / 5], "f4").tolist(),
    )


@pytest.mark.parametrize("mode", ["linear", "cubic"])
@pytest.mark.parametrize(("size", "count"), [(7, 25), (5, 33), (15, 31), (3, 1)])
def test_a_quotient_that_rounds_down(apply, mode, size, count):
    """Of the scale itself 25 / 7 ... `floor` would make one element less."""
    text = resized(f"float[n, 3, 8, {count}]", f"float[n, 3, 4, {size}]", given=f'mode = "{mode}"')
    applied = apply(STATIC_RESHAPE, text, plane(8, count), engines=("onnxruntime", "reference"))
    scale = applied.weights[applied.node("Resize").input[2]][3]
    assert abs(scale / (count / size) - 1) < 2.0**-22
    assert int(size * float(scale)) == count


def test_a_resize_of_fixed_size(apply):
    applied = apply(STATIC_RESHAPE, resized("float[2, 3, 8, 15]", "float[2, 3, 4, 5]"), plane(8, 15))
    assert applied.weights[applied.node("Resize").input[2]].tolist() == [1, 1, 2, 3]


def test_a_resize_read_twice_whose_sizes_are_read_too(apply):
    nodes = RESIZE + "z = Add(y, y) u = Identity(t)"
    applied = apply(
        STATIC_RESHAPE, resized(nodes=nodes, more=", float[n, 3, 8, 15] z, int64[4] u"), plane(8, 15)
    )
    assert applied.outcome.changes == 1


UNKNOWN = "its scales do not follow from known sizes"


@pytest.mark.parametrize(
    ("y", "x", "given", "sizes", "reason"),
    [
        ("float[n, 3, 8, k]", "float[n, 3, 4, m]", ASYMMETRIC, (8, 10), UNKNOWN),
        ("float[n, 3, 8, 15]", "float[n, 3, 4, m]", ASYMMETRIC, (8, 15), UNKNOWN),
        ("float[m, 3, 8, 15]", "float[n, 3, 4, 5]", ASYMMETRIC, (8, 15), UNKNOWN),
        ("float[?, 3, 8, 15]", "float[?, 3, 4, 5]", ASYMMETRIC, (8, 15), UNKNOWN),
        ("float[n, 3, 25, 15]", "float[n, 3, 7, 5]", ASYMMETRIC, (25, 15), UNKNOWN),  # 7 (25 / 7) < 25
        ("float[n, 3, 8, k]", "float[n, 3, 4, 5]", 'mode = "linear", keep_aspect_ratio_policy = "not_larger"',
         (8, 15), "its sizes are bounds: not_larger"),
    ],
)  # fmt: skip
def test_resizes_that_stay(apply, y, x, given, sizes, reason):
    applied = apply(STATIC_RESHAPE, resized(y, x, given), plane(*sizes))
    assert (applied.outcome.changes, applied.reasons) == (0, [reason])


def test_a_resize_of_named_axes_stays(apply):
    nodes = f"t = Identity(given) y = Resize<{ASYMMETRIC}, axes = [2, 3]>(x, , , t)"
    text = f"g (float[n, 3, 4, 5] x, int64[2] given) => (float[n, 3, 8, 15] y) {{ {nodes} }}"
    feeds = {"x": np.zeros((3, 3, 4, 5), "f4"), "given": np.array([8, 15])}
    applied = apply(STATIC_RESHAPE, text, feeds=feeds)
    assert (applied.outcome.changes, applied.reasons) == (0, ["it names axes or a part of them"])


@pytest.mark.parametrize("node", ["Resize(x, , s)", "Resize(x, , , t)"])
def test_constant_sizes_and_scales_are_no_near_miss(apply, node):
    weights = {"s": np.array([1, 1, 2, 3], "f4"), "t": np.array([2, 3, 8, 15])}
    weights = {name: array for name, array in weights.items() if f" {name})" in node}
    text = f"g (float[2, 3, 4, 5] x) => (float[2, 3, 8, 15] y) {{ y = {node} }}"
    applied = apply(STATIC_RESHAPE, text, weights)
    assert (applied.outcome.changes, applied.reasons) == (0, [])
