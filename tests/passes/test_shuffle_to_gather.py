"""shuffle-to-gather: a permutation of channels in one node, and what is none."""

import numpy as np
import pytest

from nncompile.passes.shuffle_to_gather import SHUFFLE_TO_GATHER


def shuffle(perm="0, 2, 1, 3, 4", parts="2, 3, 5, 4", y="float[n, 6, 5, 4] y", more=""):
    return (
        f"""g (float[n, 6, 5, 4] x) => ({y}{more}) {{
        p = Reshape(x, apart) t = Transpose<perm = [{perm}]>(p) y = Reshape(t, whole)
    }}""",
        {"apart": np.array([-1, *map(int, parts.split(", "))]), "whole": np.array([-1, 6, 5, 4])},
    )


@pytest.mark.parametrize(
    ("parts", "order"),
    [("2, 3, 5, 4", [0, 3, 1, 4, 2, 5]), ("3, 2, 5, 4", [0, 2, 4, 1, 3, 5]), ("1, 6, 5, 4", [*range(6)])],
)
def test_a_shuffle(apply, parts, order):
    applied = apply(SHUFFLE_TO_GATHER, *shuffle(parts=parts), engines=("onnxruntime", "reference"))
    assert applied.operators == ["Gather"]
    assert applied.weights["y_channels"].tolist() == order


@pytest.mark.parametrize(
    ("given", "reasons"),
    [
        ({"perm": "0, 1, 2, 4, 3"}, []),
        ({"parts": "2, 3, 4, 5"}, ["it takes more than channels apart"]),
        ({"parts": "3, 2, 20, 1"}, ["it takes more than channels apart"]),
    ],
)
def test_other_transpositions(apply, given, reasons):
    applied = apply(SHUFFLE_TO_GATHER, *shuffle(**given))
    assert applied.operators == ["Reshape", "Transpose", "Reshape"]
    assert applied.reasons == reasons


def test_a_result_of_another_shape(apply):
    text, weights = shuffle(y="float[n, 120] y")
    applied = apply(SHUFFLE_TO_GATHER, text, weights | {"whole": np.array([-1, 120])})
    assert (applied.operators, applied.reasons) == (["Reshape", "Transpose", "Reshape"], [])


def test_the_batch_taken_apart(apply):
    text = """g (float[4, 6, 5, 4] x) => (float[4, 6, 5, 4] y) {
        p = Reshape(x, apart) t = Transpose<perm = [0, 2, 1, 3, 4]>(p) y = Reshape(t, whole)
    }"""
    weights = {"apart": np.array([2, 2, 6, 5, 4]), "whole": np.array([4, 6, 5, 4])}
    applied = apply(SHUFFLE_TO_GATHER, text, weights)
    assert "Gather" not in applied.operators
    assert applied.reasons == ["it takes more than channels apart"]


@pytest.mark.parametrize("inner", ["p", "t"])
def test_an_intermediate_that_is_an_output(apply, inner):
    shape = "n, 2, 3, 5, 4" if inner == "p" else "n, 3, 2, 5, 4"
    applied = apply(SHUFFLE_TO_GATHER, *shuffle(more=f", float[{shape}] {inner}"))
    assert applied.operators == ["Reshape", "Transpose", "Reshape"]
    assert applied.reasons == ["an inner value of the pattern is used elsewhere or is a graph output"]


def test_shapes_that_a_caller_gives(apply):
    text, weights = shuffle(y="float[n, c, h, w] y")
    applied = apply(
        SHUFFLE_TO_GATHER,
        text.replace("x) =>", "x, int64[4] whole) =>"),
        {"apart": weights["apart"]},
        feeds={"whole": weights["whole"]},
    )
    assert "Gather" not in applied.operators
