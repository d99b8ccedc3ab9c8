"""What nodes cost, against numbers computed by hand."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from nncompile.costs import graph_cost


def model(text, weights=None, domains='"": 20'):
    found = onnx.parser.parse_model(f"<ir_version: 10, opset_import: [{domains}]>\n{text}")
    for name, value in (weights or {}).items():
        found.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
    return ir.from_proto(found)


def zeros(*shape, dtype="f4"):
    return np.zeros(shape, dtype)


def cost(text, *, batch=1, domains='"": 20', **weights):
    return graph_cost(model(text, weights, domains), batch)


def only(*args, **kwargs):
    (node,) = cost(*args, **kwargs).nodes
    return node


@pytest.mark.parametrize(("batch", "factor"), [(1, 1), (7, 7)])
def test_conv_with_groups_stride_and_bias(batch, factor):
    node = only(
        """g (float[n, 4, 9, 9] x) => (float[n, 6, a, b] y) {
            y = Conv<kernel_shape = [3, 3], group = 2, strides = [2, 2]>(x, w, bias)
        }""",
        w=zeros(6, 2, 3, 3),
        bias=zeros(6),
        batch=batch,
    )
    out = 6 * 4 * 4  # (9 - 3) / 2 + 1 = 4
    weights = 6 * 2 * 9 + 6
    assert node.operator == "Conv"
    assert node.shape == (batch, 6, 4, 4)
    assert node.flops == factor * (2 * out * 2 * 9 + out)
    assert node.bytes == 4 * (factor * (4 * 81 + out) + weights)
    assert node.parameters == weights


def test_depthwise_conv_without_bias():
    node = only(
        "g (float[n, 8, 5, 5] x) => (float[n, 8, 5, 5] y) "
        "{ y = Conv<kernel_shape = [3, 3], group = 8, pads = [1, 1, 1, 1]>(x, w) }",
        w=zeros(8, 1, 3, 3),
    )
    assert node.flops == 2 * (8 * 25) * 9
    assert node.parameters == 72


def test_conv_transpose_multiplies_each_input_with_the_kernel():
    node = only(
        """g (float[n, 4, 3, 3] x) => (float[n, a, b, c] y) {
            y = ConvTranspose<kernel_shape = [2, 2], group = 2, strides = [2, 2]>(x, w, bias)
        }""",
        w=zeros(4, 3, 2, 2),
        bias=zeros(6),
    )
    assert node.shape == (1, 6, 6, 6)
    assert node.flops == 2 * (4 * 9) * 3 * 4 + 6 * 36


@pytest.mark.parametrize(
    ("attributes", "x", "w"),
    [("<transB = 1>", "n, 5", (7, 5)), ("", "n, 5", (5, 7)), ("<transA = 1>", "5, 3", (5, 7))],
)
def test_gemm(attributes, x, w):
    text = f"g (float[{x}] x) => (float[3, 7] y) {{ y = Gemm{attributes}(x, w, b) }}"
    node = only(text, w=zeros(*w), b=zeros(7), batch=3)
    assert node.flops == 2 * 3 * 7 * 5 + 3 * 7
    assert node.parameters == 42


def test_batched_matmul():
    node = only(
        "g (float[n, 2, 3, 4] x, float[n, 2, 4, 5] z) => (float[n, 2, 3, 5] y) { y = MatMul(x, z) }", batch=6
    )
    assert node.flops == 2 * (6 * 2 * 3 * 5) * 4
    assert node.bytes == 4 * 6 * 2 * (12 + 20 + 15)
    assert node.parameters == 0


def test_matmul_and_add_cost_what_gemm_costs():
    types = "(float[n, 5] x) => (float[n, 7] y)"
    weights = {"w": zeros(5, 7), "b": zeros(7)}
    apart = cost(f"g {types} {{ m = MatMul(x, w) y = Add(m, b) }}", **weights).totals
    fused = cost(f"g {types} {{ y = Gemm(x, w, b) }}", **weights).totals
    assert apart.flops == fused.flops == 77
    assert apart.parameters == fused.parameters == 42
    assert apart.bytes - fused.bytes == 2 * 4 * 7  # the product is written and read


@pytest.mark.parametrize(
    ("node", "flops"),
    [
        ("MaxPool<kernel_shape = [2, 3], strides = [2, 3]>(x)", 4 * 3 * 2 * 6),
        ("AveragePool<kernel_shape = [2, 2]>(x)", 4 * 5 * 5 * 4),
        ("GlobalAveragePool(x)", 4 * 36),
        ("ReduceMax<keepdims = 0>(x)", 4 * 36),
        ("Relu(x)", 4 * 36),
        ("Add(x, one)", 4 * 36),
        ("Sum(x, one, one)", 2 * 4 * 36),
        ("Softmax(x)", 5 * 4 * 36),
        ("BatchNormalization(x, four, four, four, four)", 2 * 4 * 36),
        ("Transpose<perm = [0, 2, 3, 1]>(x)", 0),
        ("Flatten(x)", 0),
    ],
)
def test_operators_without_weights_of_their_own(node, flops):
    text = f"g (float[n, 4, 6, 6] x) => (float y) {{ y = {node} }}"
    found = model(text, {"one": zeros(1), "four": zeros(4)})
    found.graph.outputs[0].shape = None
    assert graph_cost(found).totals.flops == flops


def test_recurrent_layers_multiply_for_every_step_and_row():
    found = model(
        "g (float[6, n, 3] x) => (float[6, 1, n, 5] y) { y = LSTM<hidden_size = 5>(x, w, r) }",
        {"w": zeros(1, 20, 3), "r": zeros(1, 20, 5)},
    )
    (node,) = graph_cost(found, 2, "n").nodes
    assert node.flops == 2 * 6 * 2 * (60 + 100)


@pytest.mark.parametrize(("dtype", "size"), [("float16", 2), ("double", 8), ("int8", 1), ("bool", 1)])
def test_bytes_follow_the_dtype(dtype, size):
    assert only(f"g ({dtype}[n, 10] x) => ({dtype}[n, 10] y) {{ y = Identity(x) }}").bytes == 20 * size


def test_an_input_read_twice_is_read_once():
    assert only("g (float[n, 10] x) => (float[n, 10] y) { y = Mul(x, x) }").bytes == 80


def test_what_reads_a_part_or_nothing():
    picked = only("g (int64[n, 3] x) => (float[n, 3, 8] y) { y = Gather(table, x) }", table=zeros(1000, 8))
    assert picked.bytes == 2 * (3 * 8 * 4) + 3 * 8
    assert picked.flops == 0
    assert only("g (float[n, 3, 9] x) => (int64[3] y) { y = Shape(x) }").bytes == 24


def test_shapes_scalars_and_indices_are_no_parameters():
    found = cost(
        "g (float[n, 4] x) => (float[n, 2, 2] y) { c = Clip(x, low) y = Reshape(c, s) }",
        low=zeros(),
        s=np.array([-1, 2, 2]),
    )
    assert found.totals.parameters == 0
    assert found.nodes[1].shape == (1, 2, 2)


def test_a_shared_weight_counts_once_in_the_total():
    found = cost("g (float[n, 4] x) => (float[n, 4] y) { h = MatMul(x, w) y = MatMul(h, w) }", w=zeros(4, 4))
    assert [node.parameters for node in found.nodes] == [16, 16]
    assert found.totals.parameters == 16
    assert found.totals.nodes == 2


def test_shapes_that_depend_on_the_batch_by_way_of_the_graph():
    """No shape is in the file: they are inferred with the batch as a number."""
    found = cost(
        """g (float[n, 6] x) => (float[p, q] y) {
            s = Shape<start = 0, end = 1>(x)
            m = Constant<value_ints = [2, 3]>()
            t = Concat<axis = 0>(s, m)
            r = Reshape(x, t)
            y = ReduceSum<keepdims = 0>(r, axes)
        }""",
        axes=np.array([1]),
        batch=5,
    )
    assert found.nodes[-1].shape == (5, 3)
    assert found.totals.unknown == 0


def test_symbols_in_expressions_and_the_files_own_shapes():
    """An operator that ONNX does not know: its shape is the file's, its operations cannot be told."""
    found = model(
        "g (float[n, 6] x) => (float[m, 3] y) { y = other.Thing(x) }",
        domains='"": 20, "other": 1',
    )
    found.graph.outputs[0].shape = ir.Shape([ir.SymbolicDim("2*n"), 3])
    (node,) = graph_cost(found, batch=4).nodes
    assert node.operator == "other.Thing"
    assert node.shape == (8, 3)
    assert node.flops is None
    assert node.bytes == 4 * (24 + 24)
    assert graph_cost(found, batch=4).totals.unknown == 1


def test_unknown_shapes_are_none_and_make_totals_lower_bounds():
    found = cost(
        "g (float[n, k] x, float[n, 8] z) => (float[n, k] y, float[n, 8] v) { y = Relu(x) v = Relu(z) }"
    )
    relu, other = found.nodes
    assert (relu.shape, relu.flops, relu.bytes) == ((1, None), None, None)
    assert (other.flops, other.bytes) == (8, 64)
    assert (found.totals.flops, found.totals.bytes, found.totals.unknown) == (8, 64, 1)


def test_the_batch_by_name():
    text = "g (float[k, 3] x, float[n, 4] z) => (float[k, 3] y, float[n, 4] v) { y = Relu(x) v = Relu(z) }"
    first = graph_cost(model(text), 2)
    assert [node.flops for node in first.nodes] == [6, None]
    named = graph_cost(model(text), 2, "n")
    assert [node.flops for node in named.nodes] == [None, 8]


def test_the_model_is_left_alone():
    found = model("g (float[n, 4] x) => (float[n, 4] y) { h = Relu(x) y = Neg(h) }")
    before = ir.to_proto(found).SerializeToString()
    assert graph_cost(found, 3).totals.flops == 24
    assert ir.to_proto(found).SerializeToString() == before


def test_operators_are_counted():
    found = cost("g (float[n, 4] x) => (float[n, 4] y) { h = Relu(x) i = Neg(h) y = Relu(i) }")
    assert found.operators() == {"Neg": 1, "Relu": 2}


def test_a_bias_that_the_exporter_computes():
    """Its length is the number of outputs; who only asks for the weight's shape has no parameters."""
    found = cost(
        """g (float[n, 3, 8, 8] x) => (float[n, 4, 6, 6] y) {
            s = Shape<start = 0, end = 1>(w)
            one = Constant<value_ints = [1]>()
            e = Expand(s, one)
            zero = Constant<value_float = 0.0>()
            bias = Expand(zero, e)
            y = Conv<kernel_shape = [3, 3]>(x, w, bias)
        }""",
        w=zeros(4, 3, 3, 3),
    )
    assert found.totals.unknown == 0
    assert found.nodes[-1].bytes == 4 * (3 * 64 + 108 + 4 + 4 * 36)
    assert [node.parameters for node in found.nodes] == [0, 0, 0, 0, 0, 108]


CALL = """g (float[n, 3] x) => (float[n, 4] y) {{ h = Relu(x) y = own.layer:one(h, w, b) }}
    <domain: "own", overload: "one", opset_import: ["": 20]> layer (x, w, b) => (y)
    <{shapes}> {{ m = Gemm(x, w, b) s = Constant<value_float = 1.0>() y = Relu(m) }}"""


@pytest.mark.parametrize("batch", [1, 6])
def test_a_call_costs_what_its_function_computes_and_its_own_inputs_and_outputs(batch):
    found = cost(
        CALL.format(shapes="float[n, 4] m, float[n, 4] y"),
        batch=batch,
        domains='"": 20, "own": 1',
        w=zeros(3, 4),
        b=zeros(4),
    )
    relu, call = found.nodes
    assert (relu.contains, call.contains) == ((), ("Gemm", "Relu"))
    assert call.operator == "own.layer"
    assert call.flops == batch * (2 * 4 * 3 + 4 + 4)
    assert call.bytes == 4 * (batch * 3 + 16 + batch * 4)
    assert call.parameters == found.totals.parameters == 16
    assert found.operators() == {"Gemm": 1, "Relu": 2, "own.layer": 1}
    assert (found.totals.nodes, found.totals.unknown) == (2, 0)


def test_a_call_of_what_is_not_known():
    text = """g (float[n, 3] x) => (float[n, 3] y) { y = own.layer(x) }
        <domain: "own", opset_import: ["": 20, "other": 1]> layer (x) => (y) { y = other.Op(x) }"""
    call = only(text, domains='"": 20, "own": 1')
    assert (call.flops, call.contains) == (None, ("other.Op",))
