"""Pools, clips and leaky units by other operators: bit for bit the same answers."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from small_models import in_onnxruntime, parse

from nncompile.passes.spelled_out import can_be_spelled_out, spell_out

IMAGE, POOLED = "float[n, 2, 6, 6] x", "float[n, 2, h, w] y"


def starts_behind(size, kernel, stride, pads, ceil):
    """Whether rounding up adds a window that starts behind the input (ONNX's shape inference counts it)."""
    (before, after), n = pads, size
    windows = [-(-(n + before + after - kernel) // stride) + 1, -(-(n + 2 - kernel) // stride) + 1]
    return ceil and ((windows[0] - 1) * stride >= n + before or (windows[1] - 1) * stride >= n + 2)


POOLS = [
    (size, kernel, stride, pads, ceil)
    for size, kernel, stride, pads, ceil in itertools.product(
        (5, 6, 9), (1, 2, 3), (1, 2, 3), ((0, 0), (1, 1), (0, 1), (2, 2)), (0, 1)
    )
    if max(pads) < kernel
]
BEYOND = [case for case in POOLS if starts_behind(*case)]


def pool(size, kernel, stride, pads, ceil, extra=""):
    (before, after), other = pads, size + 2
    attributes = (
        f"kernel_shape=[{kernel}, {kernel}], strides=[{stride}, {stride}], "
        f"pads=[{before}, 0, {after}, 0], ceil_mode={ceil}{extra}"
    )
    return parse(
        f"g (float[n, 2, {size}, {other}] x) => (float[n, 2, h, w] y) {{ y = MaxPool<{attributes}>(x) }}"
    )


def spelled(model):
    """The model with its only node spelled out; None where it cannot be."""
    copy = ir.from_proto(model)
    (node,) = copy.graph
    if not can_be_spelled_out(node):
        return None
    spell_out(copy.graph, node)
    ir.passes.common.NameFixPass()(copy)
    made = ir.to_proto(copy)
    onnx.checker.check_model(made, full_check=True)
    assert node.op_type not in [n.op_type for n in made.graph.node]
    return made


def assert_same(model, x):
    made = spelled(model)
    assert made is not None
    (expected,), (got,) = (in_onnxruntime(m, {"x": x}) for m in (model, made))
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "pads", "ceil"), [case for case in POOLS if case not in BEYOND]
)
def test_pools(size, kernel, stride, pads, ceil):
    x = -np.random.default_rng(size).random((2, 2, size, size + 2), np.float32)  # padding must not win
    assert_same(pool(size, kernel, stride, pads, ceil), x)


@pytest.mark.parametrize(("size", "kernel", "stride", "pads", "ceil"), BEYOND)
def test_a_window_that_holds_nothing_is_left_alone(size, kernel, stride, pads, ceil):
    assert spelled(pool(size, kernel, stride, pads, ceil)) is None


def test_a_pool_of_one_axis_and_of_three():
    random = np.random.default_rng(0)
    line = parse(
        "g (float[n, 2, 7] x) => (float[n, 2, h] y) "
        "{ y = MaxPool<kernel_shape=[3], strides=[2], pads=[1, 1]>(x) }"
    )
    assert_same(line, random.standard_normal((2, 2, 7), np.float32))
    body = parse(
        "g (float[n, 2, 4, 4, 4] x) => (float[n, 2, h, w, d] y) "
        "{ y = MaxPool<kernel_shape=[2, 2, 2], strides=[2, 2, 2]>(x) }"
    )
    assert_same(body, random.standard_normal((2, 2, 4, 4, 4), np.float32))


@pytest.mark.parametrize(
    "text",
    [
        f"g ({IMAGE}) => ({POOLED}) {{ y = MaxPool<kernel_shape=[2, 2], dilations=[2, 2]>(x) }}",
        f'g ({IMAGE}) => ({POOLED}) {{ y = MaxPool<kernel_shape=[2, 2], auto_pad="SAME_UPPER">(x) }}',
        f"g ({IMAGE}) => ({POOLED}) {{ y = MaxPool<kernel_shape=[2, 2]>(x) }}".replace("6, 6", "k, 6"),
        f"g ({IMAGE}) => ({POOLED}) {{ y, i = MaxPool<kernel_shape=[2, 2]>(x) }}",
        "g (float[n, 3] x) => (float[n, 3] y) { y = LeakyRelu<alpha=1.5>(x) }",
        "g (float[n, 3] x) => (float[n, 3] y) { y = LeakyRelu<alpha=-0.5>(x) }",
        "g (float[n, 3] x, float b) => (float[n, 3] y) { y = Clip(x, b) }",
        "g (float[n, 3] x) => (float[n, 3] y) { y = Clip(x) }",
        "g (float[n, 3] x) => (float[n, 3] y) { y = Relu(x) }",
    ],
)
def test_what_is_left_alone(text):
    assert spelled(parse(text)) is None


@pytest.mark.parametrize("bounds", ["low, high", "low", ", high"])
def test_clips(bounds):
    given = {"low": np.float32(-0.5), "high": np.float32(0.25)}
    used = {name: value for name, value in given.items() if name in bounds}
    bounds = bounds if not bounds.startswith(",") else '""' + bounds
    model = parse(f"g (float[n, 9] x) => (float[n, 9] y) {{ y = Clip(x, {bounds}) }}", used)
    assert_same(model, np.random.default_rng(1).standard_normal((4, 9), np.float32))


@pytest.mark.parametrize("alpha", [0.0, 0.01, 0.3, 1.0])
def test_leaky_units(alpha):
    model = parse(f"g (float[n, 9] x) => (float[n, 9] y) {{ y = LeakyRelu<alpha={alpha}>(x) }}")
    assert_same(model, np.random.default_rng(2).standard_normal((4, 9), np.float32))
