"""fold-batch-norm-forward: through a flattened plane, and into every one of several layers."""

import numpy as np
import pytest
from rewrites import FLOATS, KINDS, SHARED, statistics, unchanged, unchanged_as_shared

from nncompile.passes.fold_batch_norm_forward import FOLD_BATCH_NORM_FORWARD

NORM = "h = BatchNormalization<epsilon=0.001>(x, scale, shift, mean, var)"
C, H, W, OUT = 4, 3, 2, 6
RESHAPES = [[-1, C * H * W], [0, -1], [3, -1], [3, C * H * W]]


def constants(random, dtype="float32", **shapes):
    """Live running statistics, and weights of the given shapes."""
    values = {name: random.standard_normal(shape) / 4 for name, shape in shapes.items()}
    return {name: array.astype(dtype) for name, array in values.items()} | statistics(random, C, dtype)


def graph(nodes, *, dtype="float32", shape=f"3, {C}, {H}, {W}", result=f"3, {OUT}", more=""):
    kind = KINDS[dtype]
    return f"g ({kind}[{shape}] x) => ({kind}[{result}] y{more}) {{ {NORM} {nodes} }}"


def folded(applied, *operators):
    assert applied.operators == list(operators)
    assert applied.outcome.changes == sum(name in ("Conv", "Gemm") for name in operators)


def into_one_of(layers, fault):
    return f"one of {layers} layers that read the batch norm cannot take it: {fault}"


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.parametrize("target", RESHAPES, ids=str)
def test_through_reshape(apply, random, target, transposed, dtype):
    weights = constants(random, dtype, w=(OUT, C * H * W) if transposed else (C * H * W, OUT), b=OUT)
    text = graph(
        f"f = Reshape(h, s) y = Gemm<transB={transposed}, alpha=0.5, beta=2.0>(f, w, b)", dtype=dtype
    )
    applied = apply(FOLD_BATCH_NORM_FORWARD, text, weights | {"s": np.array(target)})
    folded(applied, "Reshape", "Gemm")
    assert [applied.weights[name].dtype for name in applied.node("Gemm").input[1:]] == [dtype, dtype]


@pytest.mark.parametrize("axis", ["", "<axis=1>", "<axis=-3>"])
def test_through_flatten(apply, random, axis):
    text = graph(f"f = Flatten{axis}(h) y = Gemm(f, w)", shape=f"n, {C}, {H}, {W}", result=f"n, {OUT}")
    applied = apply(FOLD_BATCH_NORM_FORWARD, text, constants(random, w=(C * H * W, OUT)))
    folded(applied, "Flatten", "Gemm")


@pytest.mark.parametrize(
    ("shape", "columns"), [(f"n, {C}", C), (f"n, {C}, 5", C * 5), (f"n, {C}, 2, 3, 2", C * 12)]
)
def test_planes_of_other_ranks(apply, random, shape, columns):
    text = graph("f = Reshape(h, s) y = Gemm(f, w)", shape=shape, result=f"n, {OUT}")
    weights = constants(random, w=(columns, OUT)) | {"s": np.array([-1, columns])}
    folded(apply(FOLD_BATCH_NORM_FORWARD, text, weights), "Reshape", "Gemm")


def test_the_weight_behind_a_plane_is_the_exact_one_rounded_once(apply, random):
    values = constants(random, w=(C * H * W, OUT), b=OUT)
    applied = apply(FOLD_BATCH_NORM_FORWARD, graph("f = Flatten(h) y = Gemm(f, w, b)"), values)
    exact = {name: array.astype("f8") for name, array in values.items()}
    factor = exact["scale"] / np.sqrt(exact["var"] + np.float32(0.001).astype("f8"))
    offset = exact["shift"] - exact["mean"] * factor
    cube = exact["w"].reshape(C, H * W, OUT)
    weight, bias = (applied.weights[name] for name in applied.node("Gemm").input[1:])
    np.testing.assert_array_equal(weight, (cube * factor[:, None, None]).reshape(-1, OUT).astype("f4"))
    np.testing.assert_allclose(bias, exact["b"] + np.einsum("cpo,c->o", cube, offset), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("nodes", "rows", "columns"),
    [
        ("f = Reshape(h, s)", 3 * H, C * W),
        ("f = Reshape(h, s)", 3 * C, H * W),
        ("f = Flatten<axis=2>(h)", 3 * C, H * W),
    ],
)
def test_rows_that_are_not_rows_of_the_input(apply, random, nodes, rows, columns):
    text = graph(f"{nodes} y = Gemm(f, w)", result=f"{rows}, {OUT}")
    weights = constants(random, w=(columns, OUT)) | {"s": np.array([rows, columns])}
    applied = apply(FOLD_BATCH_NORM_FORWARD, text, weights)
    unchanged(applied, f"{[C, H, W]} values of each row are not flattened to one row")


def test_a_plane_of_unknown_size(apply, random):
    text = graph("f = Flatten(h) y = Gemm(f, w)", shape=f"3, {C}, {H}, k")
    feeds = {"x": random.standard_normal((3, C, H, W)).astype("f4")}
    applied = apply(FOLD_BATCH_NORM_FORWARD, text, constants(random, w=(C * H * W, OUT)), feeds=feeds)
    unchanged(applied, "the size of the plane is not known")


def test_a_gemm_of_transposed_rows(apply, random):
    text = graph(
        "f = Flatten(h) y = Gemm<transA=1>(f, w)", shape=f"3, {C}, {H}, {W}", result=f"{C * H * W}, {OUT}"
    )
    applied = apply(FOLD_BATCH_NORM_FORWARD, text, constants(random, w=(3, OUT)))
    unchanged(applied, "Gemm transposes its input")


@pytest.mark.parametrize(
    ("nodes", "more"),
    [
        ("f = Flatten(h) y = Gemm(f, w) z = Relu(f)", f", float[3, {C * H * W}] z"),
        ("f = Flatten(h) y = Gemm(f, w)", f", float[3, {C * H * W}] f"),
        ("f = Flatten(h) y = Gemm(f, w)", f", float[3, {C}, {H}, {W}] h"),
        ("f = Flatten(h) y = Gemm(f, w) z = Relu(h)", f", float[3, {C}, {H}, {W}] z"),
        ("f = Flatten(h) y = Gemm(f, w) z = Gemm(v, f)", f", float[3, {C * H * W}] z"),
    ],
)
def test_a_flattened_plane_that_others_read(apply, random, nodes, more):
    weights = constants(random, w=(C * H * W, OUT), v=(3, 3))
    applied = apply(FOLD_BATCH_NORM_FORWARD, graph(nodes, more=more), weights)
    unchanged(applied, SHARED)


TWO = "y = Conv(h, w, b) z = Conv<strides=[2, 1]>(h, v)"
IMAGE = {"result": "3, 6, d0, d1", "more": ", float[3, 5, e0, e1] z"}
KERNELS = {"w": (OUT, C, 2, 2), "v": (5, C, 1, 1), "b": OUT}


def test_two_convolutions(apply, random):
    applied = apply(FOLD_BATCH_NORM_FORWARD, graph(TWO, **IMAGE), constants(random, **KERNELS))
    folded(applied, "Conv", "Conv")
    assert applied.reasons == []


def test_layers_of_every_kind(apply, random):
    """A convolution, two heads behind one flattened plane, one behind another."""
    nodes = (
        "y = Conv(h, w, b) f = Flatten(h) z = Gemm(f, u) q = Gemm(f, u, b) g = Reshape(h, s) r = Gemm(g, u)"
    )
    text = graph(nodes, result="3, 6, d0, d1", more="".join(f", float[3, {OUT}] {name}" for name in "zqr"))
    weights = constants(random, u=(C * H * W, OUT), **KERNELS) | {"s": np.array([3, -1])}
    applied = apply(FOLD_BATCH_NORM_FORWARD, text, weights)
    assert sorted(applied.operators) == ["Conv", "Flatten", "Flatten", "Gemm", "Gemm", "Gemm", "Reshape"]
    assert applied.outcome.changes == 4


@pytest.mark.parametrize(
    ("nodes", "fault"),
    [
        (TWO.replace("strides=[2, 1]", "pads=[0, 0, 0, 1]"), "the convolution pads by [0, 0, 0, 1]"),
        (TWO.replace("Conv(h, w", "Conv<pads=[1, 1, 1, 1]>(h, w"), "the convolution pads by [1, 1, 1, 1]"),
    ],
)
def test_one_of_two_cannot_take_it(apply, random, nodes, fault):
    applied = apply(FOLD_BATCH_NORM_FORWARD, graph(nodes, **IMAGE), constants(random, **KERNELS))
    assert applied.outcome.changes == 0
    assert applied.reasons[0] == into_one_of(2, fault)
    assert set(applied.reasons[1:]) == {SHARED}


@pytest.mark.parametrize(
    ("nodes", "more"),
    [
        (TWO + " r = Relu(h)", f", float[3, {C}, {H}, {W}] r"),
        (TWO, f", float[3, {C}, {H}, {W}] h"),
        (TWO + " r = ConvTranspose(h, t)", ", float[3, 2, f0, f1] r"),
        (TWO + " r = Conv(u, h)", ", float[3, 3, 1, 1] r"),
        (TWO + " r = Flatten(h)", f", float[3, {C * H * W}] r"),
        (TWO + " f = Flatten(h)", ""),
        (TWO + " f = Flatten(h) r = Gemm(f, g)", f", float[3, {C * H * W}] f, float[3, 2] r"),
    ],
)
def test_a_reader_that_is_no_layer(apply, random, nodes, more):
    weights = constants(random, t=(C, 2, 1, 1), u=(3, C, H, W), g=(C * H * W, 2), **KERNELS)
    text = graph(nodes, result=IMAGE["result"], more=IMAGE["more"] + more)
    unchanged_as_shared(apply(FOLD_BATCH_NORM_FORWARD, text, weights))


def test_a_reader_in_a_branch(apply, random):
    result = "float[3, 6, 2, 1]"
    text = f"""g (float[3, {C}, {H}, {W}] x, bool c) => ({result} y, {result} z) {{
        {NORM} y = Conv(h, w) z = If(c) <then_branch = t () => ({result} p) {{ p = Conv(h, w) }},
                                         else_branch = e () => ({result} q) {{ q = Conv(h, w) }}>
    }}"""
    weights = constants(random, **KERNELS)
    applied = apply(FOLD_BATCH_NORM_FORWARD, text, weights, feeds={"c": np.array(True)})
    assert applied.outcome.changes == 0
    assert "BatchNormalization" in applied.operators


def test_two_convolutions_in_a_branch(apply, random):
    result = "float[3, 6, 2, 1]"
    text = f"""g (float[3, {C}, {H}, {W}] x, bool c) => ({result} y) {{
        y = If(c) <then_branch = t () => ({result} p) {{
                       {NORM} a = Conv(h, w) d = Conv(h, w, b) p = Add(a, d) }},
                   else_branch = e () => ({result} q) {{ q = Conv(x, w) }}>
    }}"""
    applied = apply(FOLD_BATCH_NORM_FORWARD, text, constants(random, **KERNELS), feeds={"c": np.array(True)})
    assert applied.operators == ["If", "Conv", "Conv", "Add", "Conv"]
