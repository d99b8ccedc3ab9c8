"""merge-pools: two pools that see the same as one."""

import numpy as np
import pytest
from rewrites import FLOATS, KINDS, SHARED, unchanged

from nncompile.passes.merge_pools import MERGE_POOLS

BOTH = ("onnxruntime", "reference")
TWO = "kernel_shape=[2, 2], strides=[2, 2]"
OPERATORS = ["MaxPool", "AveragePool"]


def graph(first=TWO, second=TWO, *, operator="MaxPool", kind="float", size="13, 16", more="", nodes=""):
    free = ", ".join("hvd"[: size.count(",") + 1])
    return (
        f"g ({kind}[n, 3, {size}] x) => ({kind}[n, 3, {free}] y{more}) "
        f"{{ p = {operator}<{first}>(x) y = {operator}<{second}>(p) {nodes} }}"
    )


def merged(applied, operator, kernel, strides):
    assert applied.operators == [operator]
    assert applied.outcome.changes == 1
    node = applied.node(operator)
    found = {attribute.name: list(attribute.ints) for attribute in node.attribute}
    assert found == {"kernel_shape": kernel, "strides": strides}


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("size", ["8, 8", "9, 10", "11, 7", "h, w"])
def test_two_by_two(apply, size, operator, dtype):
    lacking = dtype == "float64" and operator == "AveragePool"
    feeds = (
        {"x": np.random.default_rng(1).standard_normal((2, 3, 13, 14)).astype(dtype)} if "h" in size else {}
    )
    text = graph(operator=operator, kind=KINDS[dtype], size=size).replace("h, v]", "i, j]")
    applied = apply(MERGE_POOLS, text, feeds=feeds, engines=("reference",) if lacking else BOTH)
    merged(applied, operator, [4, 4], [4, 4])


@pytest.mark.parametrize("size", [f"{size}, {size + 3}" for size in range(9, 18)])
@pytest.mark.parametrize(
    ("first", "second", "kernel", "strides"),
    [
        ("kernel_shape=[3, 2], strides=[3, 2]", "kernel_shape=[2, 3], strides=[2, 3]", [6, 6], [6, 6]),
        ("kernel_shape=[3, 3], strides=[3, 3]", TWO, [6, 6], [6, 6]),
        ("kernel_shape=[2, 1], strides=[2, 1]", "kernel_shape=[1, 2], strides=[1, 2]", [2, 2], [2, 2]),
        ("kernel_shape=[3, 3], strides=[2, 2]", "kernel_shape=[1, 1], strides=[2, 2]", [3, 3], [4, 4]),
        ("kernel_shape=[1, 1], strides=[2, 2]", "kernel_shape=[1, 1], strides=[3, 1]", [1, 1], [6, 2]),
        (TWO, "kernel_shape=[2, 2], strides=[3, 3]", [4, 4], [6, 6]),
        (f"{TWO}, pads=[0, 0, 0, 0], ceil_mode=0", f'{TWO}, auto_pad="VALID"', [4, 4], [4, 4]),
    ],
)
@pytest.mark.parametrize("operator", OPERATORS)
def test_every_window(apply, operator, first, second, kernel, strides, size):
    merged(apply(MERGE_POOLS, graph(first, second, operator=operator, size=size)), operator, kernel, strides)


@pytest.mark.parametrize("size", [f"{size}, {size + 3}" for size in range(9, 18)])
@pytest.mark.parametrize(
    ("first", "second", "kernel", "strides"),
    [
        ("kernel_shape=[3, 3], strides=[2, 2]", TWO, [5, 5], [4, 4]),
        ("kernel_shape=[2, 3], strides=[1, 2]", "kernel_shape=[2, 2], strides=[2, 3]", [3, 5], [2, 6]),
        ("kernel_shape=[2, 2]", "kernel_shape=[1, 2], strides=[1, 2]", [2, 3], [1, 2]),
    ],
)
def test_overlapping_maxima(apply, first, second, kernel, strides, size):
    merged(apply(MERGE_POOLS, graph(first, second, size=size)), "MaxPool", kernel, strides)


@pytest.mark.parametrize(("size", "ones"), [("17", 1), ("9, 8, 10", 3)])
@pytest.mark.parametrize("operator", OPERATORS)
def test_other_ranks(apply, operator, size, ones):
    pool = f"kernel_shape={[2] * ones}, strides={[2] * ones}"
    applied = apply(MERGE_POOLS, graph(pool, pool, operator=operator, size=size), engines=BOTH)
    merged(applied, operator, [4] * ones, [4] * ones)


@pytest.mark.parametrize("operator", OPERATORS)
def test_three_in_a_row(apply, operator):
    text = graph(operator=operator, nodes=f"z = {operator}<{TWO}>(y)").replace(" y) {", " z) {")
    applied = apply(MERGE_POOLS, text)
    assert applied.operators == [operator]
    assert list(applied.node(operator).attribute[0].ints) == [8, 8]
    assert applied.outcome.changes == 2


@pytest.mark.parametrize("include", [0, 1])
def test_what_counts_without_padding(apply, include):
    pool = f"{TWO}, count_include_pad={include}"
    merged(
        apply(MERGE_POOLS, graph(pool, TWO, operator="AveragePool"), engines=BOTH),
        "AveragePool",
        [4, 4],
        [4, 4],
    )


@pytest.mark.parametrize("opset", [10, 13, 18, 22])
@pytest.mark.parametrize("operator", OPERATORS)
def test_opsets(apply, operator, opset):
    merged(apply(MERGE_POOLS, graph(operator=operator), opset=opset), operator, [4, 4], [4, 4])


def test_integers(apply):
    merged(apply(MERGE_POOLS, graph(kind="int8")), "MaxPool", [4, 4], [4, 4])


def test_all_negative(apply):
    feeds = {"x": -np.random.default_rng(1).uniform(1, 2, (3, 3, 13, 16)).astype("f4")}
    merged(apply(MERGE_POOLS, graph(), feeds=feeds, engines=BOTH), "MaxPool", [4, 4], [4, 4])


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize(
    ("more", "reason"),
    [
        (", pads=[1, 1, 1, 1]", "a pool pads"),
        (", pads=[0, 0, 0, 1]", "a pool pads"),
        (', auto_pad="SAME_UPPER"', "a pool pads"),
        (', auto_pad="SAME_LOWER"', "a pool pads"),
        (", ceil_mode=1", "a pool has ceil_mode"),
        (", dilations=[2, 1]", "a pool is dilated"),
    ],
)
def test_refusals(apply, more, reason, place, operator):
    pools = [TWO, TWO]
    pools[place] += more
    unchanged(apply(MERGE_POOLS, graph(*pools, operator=operator)), reason)


@pytest.mark.parametrize(
    "first", ["kernel_shape=[2, 2], strides=[2, 3]", "kernel_shape=[1, 1], strides=[2, 2]"]
)
@pytest.mark.parametrize("operator", OPERATORS)
def test_a_gap(apply, operator, first):
    numbers = first.replace("_shape=", " ").replace("strides=", "and strides ").replace(", and", " and")
    unchanged(apply(MERGE_POOLS, graph(first, operator=operator)), f"the first pool has {numbers}")


def test_means_that_overlap(apply):
    applied = apply(MERGE_POOLS, graph("kernel_shape=[3, 3], strides=[2, 2]", operator="AveragePool"))
    unchanged(applied, "the first pool has kernel [3, 3] and strides [2, 2]")


@pytest.mark.parametrize(
    "pool",
    ["kernel_shape=[3, 3], strides=[2, 2]", "kernel_shape=[5, 5]", "kernel_shape=[3, 3], strides=[1, 1]"],
)
def test_more_work(apply, pool):
    reason = "one pool would read more elements than the two"
    unchanged(apply(MERGE_POOLS, graph(pool, pool)), reason)


def test_the_places_of_the_maxima(apply):
    text = graph().replace("y = Max", "y, k = Max")
    unchanged(apply(MERGE_POOLS, text), "a pool returns the places of its maxima")
    unchanged(
        apply(MERGE_POOLS, graph().replace("p = Max", "p, k = Max")),
        "a pool returns the places of its maxima",
    )


@pytest.mark.parametrize("operator", OPERATORS)
def test_the_inner_value_used_twice_or_as_an_output(apply, operator):
    inner = "float[n, 3, i, j]"
    unchanged(apply(MERGE_POOLS, graph(operator=operator, more=f", {inner} z", nodes="z = Exp(p)")), SHARED)
    unchanged(apply(MERGE_POOLS, graph(operator=operator, more=f", {inner} p")), SHARED)


@pytest.mark.parametrize(
    "nodes",
    ["p = MaxPool<POOL>(x) y = AveragePool<POOL>(p)", "p = AveragePool<POOL>(x) y = MaxPool<POOL>(p)"],
)
def test_pools_of_two_kinds(apply, nodes):
    text = f"g (float[n, 3, 9, 9] x) => (float[n, 3, h, v] y) {{ {nodes.replace('POOL', TWO)} }}"
    unchanged(apply(MERGE_POOLS, text))
