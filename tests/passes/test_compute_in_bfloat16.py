"""compute-in-bfloat16: what is narrowed, what follows, where casts stand, and what stays as it is."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from rewrites import unchanged

from nncompile.bfloat16 import emulated
from nncompile.passes.compute_in_bfloat16 import COMPUTE_IN_BFLOAT16

ml_dtypes = pytest.importorskip("ml_dtypes")
BFLOAT16 = onnx.TensorProto.BFLOAT16
UNIT = 2.0**-8  # of bfloat16: half its distance between 1 and the next number
LAYER = "float[n, 4] x) => (float[n, 3] y)"
IMAGE = "float[n, 2, 6, 6] x"
HALVED = "MaxPool<kernel_shape=[2, 2], strides=[2, 2]>"


def weights(random, **shapes):
    return {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def linear(random):
    return weights(random, w=(4, 3), b=(3,))


def opset(applied):
    return {entry.domain: entry.version for entry in applied.after.opset_import}[""]


def narrow(applied):
    """Operators that write bfloat16, in order."""
    types = {value.name: value.type.tensor_type.elem_type for value in applied.after.graph.value_info}
    return [node.op_type for node in applied.after.graph.node if types.get(node.output[0]) == BFLOAT16]


def answers(model, feeds):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    data = emulated(model.SerializeToString())
    return onnxruntime.InferenceSession(data, options, ["CPUExecutionProvider"]).run(None, feeds)


def assert_rounded(applied, steps, **shapes):
    """The answers are those of float32, apart from `steps` roundings of values of about their size."""
    random = np.random.default_rng(7)
    feeds = {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    before, after = answers(applied.before, feeds), answers(applied.after, feeds)
    for expected, got in zip(before, after, strict=True):
        assert got.dtype == expected.dtype == np.float32
        scale = np.abs(expected).max()
        assert 0 < np.abs(got - expected).max() <= 2 * steps * UNIT * scale


def test_a_linear_layer_and_what_follows(apply, random):
    nodes = "g = Gemm(x, w, b) r = Relu(g) y = Softmax(r)"
    applied = apply(COMPUTE_IN_BFLOAT16, f"g ({LAYER} {{ {nodes} }}", linear(random), engines=())
    assert applied.operators == ["Cast", "Gemm", "Relu", "Softmax", "Cast"]
    assert narrow(applied) == ["Cast", "Gemm", "Relu", "Softmax"]
    assert applied.outcome.changes == 3
    assert opset(applied) == 20
    assert {array.dtype for array in applied.weights.values()} == {np.dtype(ml_dtypes.bfloat16)}
    assert_rounded(applied, 4, x=(5, 4))


def test_weights_are_rounded_to_the_nearest(apply, random):
    given = linear(random)
    applied = apply(COMPUTE_IN_BFLOAT16, f"g ({LAYER} {{ y = Gemm(x, w, b) }}", given, engines=())
    for name, array in given.items():
        np.testing.assert_array_equal(
            applied.weights[f"{name}_bfloat16"].astype(np.float32),
            array.astype(ml_dtypes.bfloat16).astype(np.float32),
        )


def test_convolutions_move_the_graph_to_operator_set_22(apply, random):
    nodes = f"c = Conv(x, w) r = Relu(c) y = {HALVED}(r)"
    text = f"g ({IMAGE}) => (float[n, 3, 2, 2] y) {{ {nodes} }}"
    applied = apply(COMPUTE_IN_BFLOAT16, text, weights(random, w=(3, 2, 3, 3)), engines=())
    assert opset(applied) == 22
    assert applied.operators == ["Cast", "Conv", "Relu", *["Gather", "Gather", "Max"] * 2, "Cast"]
    assert set(narrow(applied)) == {"Cast", "Conv", "Relu", "Gather", "Max"}
    assert_rounded(applied, 4, x=(5, 2, 6, 6))


@pytest.mark.parametrize(
    ("node", "operator"),
    [
        ("Elu(r)", "Elu"),
        ("MaxPool<kernel_shape=[2, 2], dilations=[2, 2], pads=[1, 1, 1, 1]>(r)", "MaxPool"),
        ("InstanceNormalization(r, s, s)", "InstanceNormalization"),
    ],
)
def test_what_operator_set_22_lacks_keeps_convolutions_in_float32(apply, random, node, operator):
    text = f"g ({IMAGE}) => (float[n, 3, 4, 4] y) {{ c = Conv(x, w) r = Relu(c) y = {node} }}"
    applied = apply(
        COMPUTE_IN_BFLOAT16, text, weights(random, w=(3, 2, 3, 3), s=(3,)), engines=("onnxruntime",)
    )
    unchanged(applied, f"it needs operator set 22, for which ONNX Runtime's CUDA provider has no {operator}")


def test_a_linear_layer_beside_a_convolution_in_float32(apply, random):
    text = (
        f"g ({IMAGE}) => (float[n, 5] y) "
        "{ c = Conv(x, w) e = Elu(c) p = GlobalAveragePool(e) f = Flatten(p) y = Gemm(f, v) }"
    )
    applied = apply(COMPUTE_IN_BFLOAT16, text, weights(random, w=(3, 2, 3, 3), v=(3, 5)), engines=())
    assert opset(applied) == 20
    assert narrow(applied) == ["Cast", "Gemm"]
    assert len(applied.reasons) == 1


def test_a_pool_that_reads_float32_is_spelled_out_too(apply, random):
    """Operator set 22 has no MaxPool on the GPU in any dtype."""
    text = f"g ({IMAGE}) => (float[n, 3, 1, 1] y) {{ p = {HALVED}(x) y = Conv(p, w) }}"
    applied = apply(COMPUTE_IN_BFLOAT16, text, weights(random, w=(3, 2, 3, 3)), engines=())
    assert applied.operators == [*["Gather", "Gather", "Max"] * 2, "Cast", "Conv", "Cast"]
    assert narrow(applied) == ["Cast", "Conv"]


@pytest.mark.parametrize("node", ["Exp(g)", "Erf(g)", "ReduceMean(g)", "LogSoftmax(g)"])
def test_what_does_not_follow_reads_float32(apply, random, node):
    shape = "1, 1" if node.startswith("ReduceMean") else "n, 3"
    text = f"g (float[n, 4] x) => (float[{shape}] y) {{ g = Gemm(x, w, b) y = {node} }}"
    applied = apply(COMPUTE_IN_BFLOAT16, text, linear(random), engines=())
    assert applied.operators == ["Cast", "Gemm", "Cast", node.partition("(")[0]]
    assert_rounded(applied, 8, x=(5, 4))


def test_a_sum_with_a_float32_value_stays_float32(apply, random):
    text = "g (float[n, 4] x, float[n, 3] z) => (float[n, 3] y) { g = Gemm(x, w, b) y = Add(g, z) }"
    applied = apply(COMPUTE_IN_BFLOAT16, text, linear(random), engines=())
    assert applied.operators == ["Cast", "Gemm", "Cast", "Add"]


def test_a_sum_of_two_narrow_values_follows(apply, random):
    text = f"g ({LAYER} {{ g = Gemm(x, w, b) r = Relu(g) y = Add(g, r) }}"
    applied = apply(COMPUTE_IN_BFLOAT16, text, linear(random), engines=())
    assert applied.operators == ["Cast", "Gemm", "Relu", "Add", "Cast"]


def test_nothing_follows_on_float32(apply):
    unchanged(apply(COMPUTE_IN_BFLOAT16, "g (float[n, 3] x) => (float[n, 3] y) { y = Relu(x) }"))


def test_float64_and_float16_stay(apply, random):
    for kind, dtype in (("double", np.float64), ("float16", np.float16)):
        text = f"g ({LAYER} {{ y = Gemm(x, w, b) }}".replace("float[", f"{kind}[")
        given = {name: array.astype(dtype) for name, array in linear(random).items()}
        unchanged(apply(COMPUTE_IN_BFLOAT16, text, given))


def test_a_constant_beyond_the_range_of_bfloat16(apply, random):
    given = linear(random) | {"m": np.array(np.finfo(np.float32).max)}
    text = f"g ({LAYER} {{ g = Gemm(x, w, b) y = Min(g, m) }}"
    applied = apply(COMPUTE_IN_BFLOAT16, text, given, engines=())
    assert applied.operators == ["Cast", "Gemm", "Cast", "Min"]
    assert applied.reasons == ["a constant is beyond the range of bfloat16"]


def test_an_infinite_constant_is_as_infinite_in_bfloat16(apply, random):
    given = linear(random) | {"m": np.array(-np.inf, np.float32)}
    text = f"g ({LAYER} {{ g = Gemm(x, w, b) y = Max(g, m) }}"
    applied = apply(COMPUTE_IN_BFLOAT16, text, given, engines=())
    assert narrow(applied) == ["Cast", "Gemm", "Max"]


def test_a_table_is_narrowed_and_its_indices_are_not(apply, random):
    text = "g (int64[n] i) => (float[n, 4] y) { y = Gather(t, i) }"
    applied = apply(COMPUTE_IN_BFLOAT16, text, weights(random, t=(9, 4)), engines=())
    assert applied.operators == ["Gather", "Cast"]
    assert applied.weights["t_bfloat16"].dtype == ml_dtypes.bfloat16


def test_an_input_that_was_bfloat16_is_not_cast_again(apply, random):
    text = f"g ({LAYER} {{ c = Cast<to=16>(x) f = Cast<to=1>(c) r = Relu(f) y = Gemm(r, w, b) }}"
    applied = apply(COMPUTE_IN_BFLOAT16, text, linear(random), engines=())
    assert applied.operators == ["Cast", "Relu", "Gemm", "Cast"]


def test_a_weight_that_float32_reads_too_is_kept_in_both(apply, random):
    text = f"g ({LAYER} {{ g = Gemm(x, w, b) e = Exp(b) s = Exp(g) y = Add(s, e) }}"
    applied = apply(COMPUTE_IN_BFLOAT16, text, linear(random), engines=())
    assert set(applied.weights) == {"b", "w_bfloat16", "b_bfloat16"}


def test_branches_read_float32(apply, random):
    text = f"""g (bool c, {LAYER} {{
        g = Gemm(x, w, b)
        y = If(c) <then_branch = a () => (float[n, 3] t) {{ t = Relu(g) }},
                   else_branch = d () => (float[n, 3] e) {{ e = Exp(g) }}>
    }}"""
    applied = apply(COMPUTE_IN_BFLOAT16, text, linear(random), engines=())
    assert narrow(applied) == ["Cast", "Gemm"]
    feeds = {"c": np.array(True), "x": np.ones((2, 4), np.float32)}
    before, after = answers(applied.before, feeds), answers(applied.after, feeds)
    np.testing.assert_allclose(after[0], before[0], atol=4 * UNIT * np.abs(before[0]).max())


def test_an_output_in_the_middle_keeps_its_name_and_dtype(apply, random):
    text = "g (float[n, 4] x) => (float[n, 3] m, float[n, 3] y) { m = Gemm(x, w, b) y = Relu(m) }"
    applied = apply(COMPUTE_IN_BFLOAT16, text, linear(random), engines=())
    assert [value.name for value in applied.after.graph.output] == ["m", "y"]
    assert_rounded(applied, 3, x=(5, 4))


def test_the_emulation_rounds_each_result(apply, random):
    applied = apply(COMPUTE_IN_BFLOAT16, f"g ({LAYER} {{ y = Gemm(x, w, b) }}", linear(random), engines=())
    (got,) = answers(applied.after, {"x": np.random.default_rng(3).standard_normal((9, 4), np.float32)})
    np.testing.assert_array_equal(got.astype(ml_dtypes.bfloat16).astype(np.float32), got)
    plain = applied.before.SerializeToString()
    assert emulated(plain) == plain
