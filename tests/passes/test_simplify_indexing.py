"""simplify-indexing: slices of everything, and Unsqueeze after Unsqueeze."""

import numpy as np
import pytest

from nncompile.passes.simplify_indexing import SIMPLIFY_INDEXING

END = np.iinfo(np.int64).max
ENGINES = ("onnxruntime", "reference")


def ints(*values):
    return np.array(values, np.int64)


def sliced(more="", y="float[n, 3, 5] y"):
    return f"g (float[n, 3, 5] x) => ({y}) {{ y = Slice(x, s, e{more}) }}"


@pytest.mark.parametrize(
    ("more", "weights"),
    [
        (", a", {"s": ints(0), "e": ints(END), "a": ints(1)}),
        (", a", {"s": ints(0), "e": ints(END), "a": ints(0)}),  # the batch, whatever its size
        (", a", {"s": ints(0), "e": ints(2**31 - 1), "a": ints(-3)}),
        (", a, t", {"s": ints(0, 0), "e": ints(END, 5), "a": ints(0, 2), "t": ints(1, 1)}),
        (", a", {"s": ints(0), "e": ints(3), "a": ints(-2)}),
        ("", {"s": ints(0, 0, 0), "e": ints(END, 3, 9)}),
        (", , t", {"s": ints(0), "e": ints(END), "t": ints(1)}),
    ],
)
def test_a_slice_of_everything(apply, more, weights):
    engines = ("onnxruntime",) if more.startswith(", ,") else ENGINES
    applied = apply(SIMPLIFY_INDEXING, sliced(more), weights, engines=engines)
    assert applied.operators == ["Identity"]


@pytest.mark.parametrize(
    ("more", "weights", "y"),
    [
        (", a", {"s": ints(1), "e": ints(END), "a": ints(1)}, "float[n, 2, 5] y"),
        (", a", {"s": ints(0), "e": ints(2), "a": ints(1)}, "float[n, 2, 5] y"),
        (", a", {"s": ints(0), "e": ints(-1), "a": ints(2)}, "float[n, 3, 4] y"),
        (
            ", a",
            {"s": ints(0), "e": ints(2), "a": ints(0)},
            "float[m, 3, 5] y",
        ),  # longer than the batch or not
        (", a, t", {"s": ints(0), "e": ints(END), "a": ints(2), "t": ints(2)}, "float[n, 3, 3] y"),
        (", a", {"s": ints(0, 0), "e": ints(END, 4), "a": ints(1, 2)}, "float[n, 3, 4] y"),
        (", a, t", {"s": ints(-1), "e": ints(-9), "a": ints(2), "t": ints(-1)}, "float[n, 3, 5] y"),
    ],
)
def test_a_slice_that_leaves_something_out(apply, more, weights, y):
    applied = apply(SIMPLIFY_INDEXING, sliced(more, y), weights)
    assert (applied.operators, applied.reasons) == (["Slice"], [])


@pytest.mark.parametrize("free", ["s", "e", "a", "t"])
def test_a_slice_by_what_a_caller_gives(apply, free):
    given = {"s": ints(0), "e": ints(END), "a": ints(1), "t": ints(1)}
    text = sliced(", a, t", "float[n, k, l] y").replace("x)", f"x, int64[1] {free})", 1)
    applied = apply(SIMPLIFY_INDEXING, text, given)
    assert applied.operators == ["Slice"]


@pytest.mark.parametrize("outer", [[0], [1], [-1], [3, 1], [0, -1]])
@pytest.mark.parametrize("inner", [[0], [1], [-1], [2, 0], [-1, -2]])
def test_unsqueeze_twice_is_once(apply, inner, outer):
    shape = np.expand_dims(np.expand_dims(np.empty((3, 5)), tuple(inner)), tuple(outer)).shape
    sizes = ", ".join(map(str, shape))
    text = f"g (float[3, 5] x) => (float[{sizes}] y) {{ h = Unsqueeze(x, a) y = Unsqueeze(h, b) }}"
    applied = apply(SIMPLIFY_INDEXING, text, {"a": ints(*inner), "b": ints(*outer)}, engines=ENGINES)
    assert applied.operators == ["Unsqueeze"]


def test_a_chain_of_unsqueezes(apply):
    nodes = "h = Unsqueeze(x, a) i = Unsqueeze(h, b) y = Unsqueeze(i, a)"
    text = f"g (float[n, 5] x) => (float[n, 5, 1, 1, 1] y) {{ {nodes} }}"
    applied = apply(SIMPLIFY_INDEXING, text, {"a": ints(2), "b": ints(3)})
    assert applied.operators == ["Unsqueeze"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("g (float[3, 5] x, int64[1] a) => (float[k, l, m, o] y)", "the axes are not constant"),
        ("g (float[3, 5] x) => (float[1, 3, 5, 1] y, float[3, 5, 1] h)", "used elsewhere"),
    ],
)
def test_unsqueezes_that_stay(apply, text, reason):
    nodes = "{ h = Unsqueeze(x, a) y = Unsqueeze(h, b) }"
    applied = apply(SIMPLIFY_INDEXING, text + nodes, {"a": ints(2), "b": ints(0)}, feeds={})
    assert applied.operators == ["Unsqueeze", "Unsqueeze"]
    assert reason in applied.reasons[0]


def written(x="float[n, 3] x", y="float[n, 3] y", scatter="ScatterND", like="x", z="float[n, 3]"):
    return f"""g ({x}, {y}) => ({z} z) {{
        s = Shape({like}) r = Gather(s, first) i = Range(start, r, step) u = Unsqueeze(i, last)
        z = {scatter}(x, u, y)
    }}"""


ALL_ROWS = {"first": ints(0), "start": np.int64(0), "step": np.int64(1), "last": ints(-1)}


def test_every_row_written_anew_by_a_slice_of_everything(apply):
    """As the exporter writes `x[:] = y`."""
    text = written().replace("u = Unsqueeze(i, last)", "j = Slice(i, zero, end) u = Unsqueeze(j, last)")
    weights = {**ALL_ROWS, "first": np.int64(0), "zero": ints(0), "end": ints(END)}
    assert apply(SIMPLIFY_INDEXING, text, weights).operators.count("ScatterND") == 0


@pytest.mark.parametrize("like", ["x", "y"])
def test_every_row_written_anew(apply, like):
    weights = {**ALL_ROWS, "first": np.int64(0)}
    applied = apply(SIMPLIFY_INDEXING, written(like=like), weights, engines=ENGINES)
    assert applied.operators[-1] == "Identity"
    assert list(applied.node("Identity").input) == ["y"]


@pytest.mark.parametrize(
    ("text", "weights", "reason"),
    [
        (written(scatter='ScatterND<reduction = "add">'), {}, "it adds to what is there"),
        (written(y="float[m, 3] y"), {"start": np.int64(2)}, "to write all rows in their order"),
        (written(y="float[m, 3] y"), {"step": np.int64(2)}, "to write all rows in their order"),
        (
            written(x="float[3, 3] x", z="float[3, 3]"),
            {"first": np.int64(1)},
            "to write all rows in their order",
        ),
        (written(y="float[m, 3] y"), {}, "it writes"),
        (written(x="float[n, 3] x", like="y", y="float[m, 3] y"), {}, "to write all rows in their order"),
    ],
)
def test_rows_that_may_stay(apply, text, weights, reason):
    kept = {**ALL_ROWS, "first": np.int64(0), **weights}
    feeds = {
        "x": np.ones((3, 3), "f4"),
        "y": np.ones((len(range(int(kept["start"]), 3, int(kept["step"]))), 3), "f4"),
    }
    applied = apply(SIMPLIFY_INDEXING, text, kept, feeds=feeds)
    assert "ScatterND" in applied.operators
    assert any(reason in found for found in applied.reasons), applied.reasons
