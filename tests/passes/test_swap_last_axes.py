"""swap-last-axes: as the exporter writes it, with sizes known and unknown; and every refusal."""

import numpy as np
import pytest
from rewrites import SHARED, unchanged

from nncompile.passes.swap_last_axes import SWAP_LAST_AXES

FIRST = "the first shape is not one axis and the last two"
SECOND = "the second shape is not the first axes and the last two, swapped"
ENDS = {
    "one": np.array([-1]),
    "two": np.array([-2]),
    "low": np.array([-(2**63)]),
    "high": np.array([2**63 - 1]),
}
# As PyTorch's exporter writes it, for any rank.
EXPORTED = """s = Shape<start=0>(x)
    n = Slice(s, one, high) m = Slice(s, two, one) l = Slice(s, low, two)
    p = Concat<axis=0>(one, m, n) a = Reshape<allowzero=0>(x, p) b = Transpose<perm=[0, 2, 1]>(a)
    q = Concat<axis=0>(l, n, m) y = Reshape<allowzero=0>(b, q)"""
CONSTANT = "a = Reshape(x, p) b = Transpose<perm=[0, 2, 1]>(a) y = Reshape(b, q)"


def graph(nodes=EXPORTED, *, shape="n, 2, 5, 4", kind="float", result=None, inputs="", more=""):
    free = ", ".join(f"d{axis}" for axis in range(shape.count(",") + 1))
    return f"g ({kind}[{shape}] x{inputs}) => ({kind}[{result or free}] y{more}) {{ {nodes} }}"


def shapes(first, second):
    return {"p": np.array(first), "q": np.array(second)}


def swapped(applied, rank=4):
    transpose = applied.after.graph.node[-1]
    assert transpose.op_type == "Transpose"
    assert list(transpose.input) == ["x"]
    assert list(transpose.attribute[0].ints) == [*range(rank - 2), rank - 1, rank - 2]
    assert applied.outcome.changes == 1
    assert "Reshape" not in applied.operators


@pytest.mark.parametrize("kind", ["float16", "float", "double", "int64"])
def test_the_exporters_form(apply, kind):
    swapped(apply(SWAP_LAST_AXES, graph(kind=kind), ENDS, engines=("onnxruntime", "reference")))


@pytest.mark.parametrize(
    "shape", ["n, 2, 5, 4", "2, 3, 5, 4", "n, h, 5, 4", "n, 2, t, 4", "n, h, t, d", "k, k, k, k"]
)
def test_sizes_known_and_unknown(apply, shape):
    swapped(apply(SWAP_LAST_AXES, graph(shape=shape), ENDS))


@pytest.mark.parametrize(("shape", "rank"), [("m, 4", 2), ("n, 5, 4", 3), ("n, 2, 3, 5, 4", 5)])
def test_other_ranks(apply, shape, rank):
    text = graph(shape=shape)
    if rank == 2:  # ONNX's Slice from the lowest number to -2 is empty there too
        text = text.replace("Concat<axis=0>(l, n, m)", "Concat<axis=0>(n, m)")
    swapped(apply(SWAP_LAST_AXES, text, ENDS), rank)


@pytest.mark.parametrize("second", [[-1, 2, 4, 5], [3, 2, 4, 5], [3, -1, 4, 5], [3, 2, -1, 5], [3, 2, 4, -1]])
def test_constant_shapes(apply, second):
    swapped(apply(SWAP_LAST_AXES, graph(CONSTANT, shape="3, 2, 5, 4"), shapes([-1, 5, 4], second)))


def test_parts_of_a_shape(apply):
    nodes = """s = Shape<start=-2>(x) l = Shape<end=2>(x) r = Slice(s, one, high)
        t = Slice(s, zero, ends, axis, step)
        p = Concat<axis=0>(one, s) a = Reshape(x, p) b = Transpose<perm=[0, 2, 1]>(a)
        q = Concat<axis=0>(l, r, t) y = Reshape(b, q)"""
    weights = ENDS | {
        "zero": np.array([0]),
        "ends": np.array([1]),
        "axis": np.array([0]),
        "step": np.array([1]),
    }
    swapped(apply(SWAP_LAST_AXES, graph(nodes, shape="n, h, t, d"), weights))


def test_a_slice_backwards(apply):
    nodes = """s = Shape<start=-2>(x) l = Shape<end=2>(x) r = Slice(s, one, low, zero, one)
        p = Concat<axis=0>(one, s) a = Reshape(x, p) b = Transpose<perm=[0, 2, 1]>(a)
        q = Concat<axis=0>(l, r) y = Reshape(b, q)"""
    swapped(apply(SWAP_LAST_AXES, graph(nodes, shape="n, h, t, d"), ENDS | {"zero": np.array([0])}))


@pytest.mark.parametrize("perm", [[0, 1, 2], [1, 0, 2], [2, 1, 0]])
def test_other_permutations(apply, perm):
    text = graph(CONSTANT.replace("[0, 2, 1]", str(perm)), shape="3, 2, 4, 4", result="3, 2, 4, 4")
    applied = apply(SWAP_LAST_AXES, text, shapes([-1, 4, 4], [3, 2, 4, 4]))
    unchanged(applied, "the axes in between are not those of matrices")


@pytest.mark.parametrize("first", [[-1, 4, 5], [6, -1, 4], [6, 5, 4], [-1, 10, 4], [2, 15, 4]])
def test_other_first_shapes(apply, first):
    text = graph(CONSTANT, shape="3, 2, 5, 4", result="3, 2, 4, 5")
    unchanged(apply(SWAP_LAST_AXES, text, shapes(first, [3, 2, 4, 5])), FIRST)


@pytest.mark.parametrize(
    "second",
    [[3, 2, 5, 4], [2, 3, 4, 5], [6, 4, 5], [3, 2, 1, 4, 5], [0, 1, 4, 5], [3, 2, 20], [-1, 4, 3, 10]],
)
def test_other_second_shapes(apply, second):
    """A 0 copies a size: that of all the first axes."""
    text = graph(CONSTANT, shape="3, 2, 5, 4", result=", ".join(f"d{axis}" for axis in range(len(second))))
    unchanged(apply(SWAP_LAST_AXES, text, shapes([-1, 5, 4], second)), SECOND)


def test_an_unknown_size_in_another_place(apply):
    """The first two axes change places: of unknown size, they are told apart by their numbers."""
    nodes = """s = Shape(x) l = Slice(s, zero, first) k = Slice(s, first, second) e = Slice(s, second, high)
        p = Concat<axis=0>(one, e) a = Reshape(x, p) b = Transpose<perm=[0, 2, 1]>(a)
        q = Concat<axis=0>(k, l, e) y = Reshape(b, q)"""
    weights = ENDS | {"zero": np.array([0]), "first": np.array([1]), "second": np.array([2])}
    unchanged(apply(SWAP_LAST_AXES, graph(nodes, shape="n, h, t, t"), weights), SECOND)


def test_the_sizes_of_another_value(apply):
    text = graph(EXPORTED.replace("(x)\n", "(u)\n"), shape="n, h, t, d", inputs=", float[a, b2, c, e] u")
    unchanged(apply(SWAP_LAST_AXES, text, ENDS), FIRST)


@pytest.mark.parametrize("name", ["p", "q"])
def test_a_shape_from_outside(apply, name):
    weights = shapes([-1, 5, 4], [3, 2, 4, 5])
    feeds = {name: weights.pop(name)}
    text = graph(CONSTANT, shape="3, 2, 5, 4", inputs=f", int64[{feeds[name].size}] {name}")
    unchanged(apply(SWAP_LAST_AXES, text, weights, feeds=feeds), "a shape is not known")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("n = Slice(s, one, high)", "u = Abs(s) n = Slice(u, one, high)"),
        ("n = Slice(s, one, high)", "u = Neg(one) v = Neg(u) n = Slice(s, v, high)"),
        ("n = Slice(s, one, high)", "u = Neg(high) v = Neg(u) n = Slice(s, one, v)"),
    ],
)
def test_sizes_that_cannot_be_followed(apply, old, new):
    assert old in EXPORTED
    unchanged(apply(SWAP_LAST_AXES, graph(EXPORTED.replace(old, new)), ENDS), "a shape is not known")


def test_an_unknown_rank(apply):
    text = graph(
        f"r = Reshape(x, z) {CONSTANT.replace('(x', '(r')}", shape="3, 2, 5, 4", inputs=", int64[k] z"
    )
    feeds = {"z": np.array([3, 2, 5, 4])}
    unchanged(
        apply(SWAP_LAST_AXES, text, shapes([-1, 5, 4], [3, 2, 4, 5]), feeds=feeds), "a shape is not known"
    )


@pytest.mark.parametrize(
    ("nodes", "output"), [("", "a"), ("", "b"), ("z = Neg(a)", "z"), ("z = Neg(b)", "z")]
)
def test_an_inner_value_that_others_read(apply, nodes, output):
    text = graph(f"{CONSTANT} {nodes}", shape="3, 2, 5, 4", more=f", float[6, k, l] {output}")
    unchanged(apply(SWAP_LAST_AXES, text, shapes([-1, 5, 4], [3, 2, 4, 5])), SHARED)


def test_in_a_branch(apply):
    inner = CONSTANT.replace("(x", "(c").replace("y =", "o =")
    text = f"""g (float[3, 2, 5, 4] x, bool f) => (float[3, 2, 4, 5] y) {{
        y = If(f) <then_branch = t () => (float[3, 2, 4, 5] o) {{ c = Neg(x) {inner} }},
                   else_branch = e () => (float[3, 2, 4, 5] r) {{ r = Transpose<perm=[0, 1, 3, 2]>(x) }}>
    }}"""
    weights = shapes([-1, 5, 4], [3, 2, 4, 5])
    applied = apply(SWAP_LAST_AXES, text, weights, feeds={"f": np.array(True)})
    assert applied.operators == ["If", "Neg", "Transpose", "Transpose"]
