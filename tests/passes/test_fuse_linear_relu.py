"""fuse-linear-relu: what becomes of a layer, which layers are none, and that what was measured decides."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from rewrites import NOT_CONSTANT, SHARED, as_an_input, unchanged

from nncompile.passes import fuse_linear_relu
from nncompile.passes.contract import Pass
from nncompile.passes.fuse_linear_relu import Linear, graphs, measured
from nncompile.passes.layer_race import Verdict

LAYER = "g = Gemm{a}(x, w, b) r = Relu(g) y = Neg(r)"
TRANSPOSED = "<transB = 1>"
GAIN = "FusedConv is 1.50 times as fast"
FASTER, SLOWER = Verdict(True, GAIN), Verdict(False, "FusedConv is 0.50 times as fast")
BIAS = "it has no bias that is constant"


def fusing(measure=lambda layer: FASTER):
    return Pass("fuse", "as the pass, given what decides", fuse_linear_relu._fuse(measure))


def graph(nodes=LAYER, attributes=TRANSPOSED, *, inputs="", outputs="", kind="float", rows="n"):
    nodes = nodes.replace("{a}", attributes)
    return f"g ({kind}[{rows}, 6] x{inputs}) => ({kind}[{rows}, 4] y{outputs}) {{ {nodes} }}"


def linear(random, weight=(4, 6), bias=(4,), dtype="float32"):
    arrays = {"w": random.standard_normal(weight), "b": random.standard_normal(bias)}
    return {name: array.astype(dtype) for name, array in arrays.items()}


def fused(applied, changes=1):
    operators = ["Unsqueeze", "FusedConv", "Flatten"] * changes
    assert [name for name in applied.operators if name != "Neg"] == operators
    assert [firing.gain for firing in applied.outcome.firings] == [GAIN] * changes
    nodes = [node for node in applied.after.graph.node if node.op_type == "FusedConv"]
    for node in nodes:
        assert (node.domain, len(node.input)) == ("com.microsoft", 3)
        assert {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute} == {"activation": b"Relu"}
    return [applied.weights[node.input[1]] for node in nodes]


@pytest.mark.parametrize(("attributes", "weight"), [(TRANSPOSED, (4, 6)), ("", (6, 4))])
@pytest.mark.parametrize("rows", ["n", "3"])
def test_a_layer(apply, random, attributes, weight, rows):
    arrays = linear(random, weight)
    (kernel,) = fused(apply(fusing(), graph(attributes=attributes, rows=rows), arrays))
    expected = arrays["w"] if attributes else arrays["w"].T
    assert kernel.dtype == np.float32
    np.testing.assert_array_equal(kernel, expected[:, :, None, None])


def test_the_shapes_in_between_are_known(apply, random):
    after = apply(fusing(), graph(), linear(random)).after
    shapes = {
        value.name: [size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim]
        for value in after.graph.value_info
    }
    (conv,) = [node for node in after.graph.node if node.op_type == "FusedConv"]
    assert (shapes[conv.input[0]], shapes[conv.output[0]]) == (["n", 6, 1, 1], ["n", 4, 1, 1])


def test_the_weight_as_it_was_is_not_kept(apply, random):
    assert sorted(apply(fusing(), graph(), linear(random)).weights) == ["b", "plane", "w_kernel"]


def test_a_weight_that_is_read_elsewhere_is_kept(apply, random):
    text = graph(LAYER.replace("Neg(r)", "Gemm<transB = 1>(x, w, r)"), rows="3")
    applied = apply(fusing(), text, linear(random))
    assert applied.operators == ["Unsqueeze", "FusedConv", "Flatten", "Gemm"]
    assert "w" in applied.weights


def test_a_weight_of_two_layers(apply, random):
    nodes = "g = Gemm(x, w, b) r = Relu(g) h = Gemm(r, w, b) s = Relu(h) y = Neg(s)"
    text = graph(nodes).replace("float[n, 4] y", "float[n, 6] y")
    first, second = fused(apply(fusing(), text, linear(random, (6, 6), (6,))), changes=2)
    np.testing.assert_array_equal(first, second)


def test_a_layer_in_a_branch(apply, random):
    then = "then () => (float[n, 4] p) { g = Gemm<transB = 1>(x, w, b) r = Relu(g) p = Neg(r) }"
    nodes = f"y = If(c) <then_branch = {then}, else_branch = o () => (float[n, 4] q) {{ q = Identity(z) }}>"
    text = graph(nodes, inputs=", bool c, float[n, 4] z")
    applied = apply(fusing(), text, linear(random), feeds={"c": np.array(True)})
    assert applied.operators == ["If", "Unsqueeze", "FusedConv", "Flatten", "Neg", "Identity"]


def test_each_layer_is_asked_for_as_it_is(apply, random):
    asked = []

    def measure(layer):
        asked.append(layer)
        return SLOWER

    applied = apply(fusing(measure), graph(attributes=""), linear(random, (6, 4)))
    unchanged(applied, SLOWER.said)
    assert set(asked) == {Linear(6, 4, transposed=False)}


def test_only_the_layers_that_are_faster(apply, random):
    nodes = "g = Gemm(x, w, b) r = Relu(g) h = Gemm(r, v, b) s = Relu(h) y = Neg(s)"
    weights = linear(random, (6, 4)) | {"v": random.standard_normal((4, 4)).astype("float32")}
    applied = apply(fusing(lambda layer: FASTER if layer.inputs == 4 else SLOWER), graph(nodes), weights)
    assert applied.operators == ["Gemm", "Relu", "Unsqueeze", "FusedConv", "Flatten", "Neg"]
    assert applied.reasons == [SLOWER.said]


@pytest.mark.parametrize(
    ("nodes", "outputs", "reasons"),
    [
        (LAYER.replace("Relu(g)", "Sigmoid(g)"), "", []),
        (LAYER.replace("Relu(g)", "LeakyRelu(g)"), "", []),
        (LAYER.replace("y = Neg(r)", "y = Add(r, g)"), "", [SHARED]),
        (LAYER, ", float[n, 4] g", [SHARED]),
        (LAYER, ", float[n, 4] r", ["its result is an output of the graph, which would be a copy"]),
        ("g = Gemm{a}(x, w) r = Relu(g) y = Add(r, b)", "", [BIAS]),
    ],
)
def test_what_is_no_such_layer(apply, random, nodes, outputs, reasons):
    unchanged(apply(fusing(), graph(nodes, outputs=outputs), linear(random)), *reasons)


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ("<transB = 1, alpha = 2.0>", "alpha or beta is not 1"),
        ("<transB = 1, beta = 0.5>", "alpha or beta is not 1"),
        ("<transB = 1, transA = 1>", "the input is transposed"),
    ],
)
def test_other_products(apply, random, attributes, reason):
    text = graph(attributes=attributes)
    if "transA" in attributes:
        text = text.replace("[n, 6] x", "[6, n] x")
    unchanged(apply(fusing(), text, linear(random)), reason)


def test_attributes_that_say_nothing(apply, random):
    text = graph(attributes="<transB = 1, alpha = 1.0, beta = 1.0, transA = 0>")
    fused(apply(fusing(), text, linear(random)))


@pytest.mark.parametrize("bias", [(1,), (1, 4), (3, 1), (3, 4), ()])
def test_a_bias_of_another_shape(apply, random, bias):
    reason = f"the bias has the shape {list(bias)}, not [4]"
    unchanged(apply(fusing(), graph(rows="3"), linear(random, bias=bias)), reason)


@pytest.mark.parametrize("default", [True, False])
@pytest.mark.parametrize(("name", "reason"), [("w", NOT_CONSTANT.replace("a ", "the ")), ("b", BIAS)])
def test_a_weight_that_the_caller_may_give(apply, random, name, reason, default):
    weights = linear(random)
    text = graph(inputs=as_an_input(weights, name, default))
    unchanged(apply(fusing(), text, weights), reason)


def test_a_computed_weight(apply, random):
    text = graph(LAYER.replace("(x, w, b)", "(x, v, b)").replace("g = ", "v = Neg(w) g = "))
    unchanged(apply(fusing(), text, linear(random)), "the weight is not constant")


@pytest.mark.parametrize(("dtype", "kind"), [("float16", "float16"), ("float64", "double")])
def test_other_dtypes(apply, random, dtype, kind):
    applied = apply(fusing(), graph(kind=kind), linear(random, dtype=dtype), engines=("reference",))
    unchanged(applied, f"the CUDA kernel is for float32, not {dtype}")


def test_a_layer_without_inputs(apply, random):
    text = graph().replace("[n, 6] x", "[n, 0] x")
    unchanged(apply(fusing(), text, linear(random, (4, 0)), engines=()), "the weight is empty")


def test_what_is_measured_is_what_the_pass_makes(apply, random):
    """Both graphs answer alike, and the second one is the pass's own work on the first."""
    base, other = (ir.to_proto(model) for model in graphs(Linear(6, 4, transposed=True)).values())
    assert [node.op_type for node in base.graph.node] == ["Gemm", "Relu", "Neg"]
    assert [node.op_type for node in other.graph.node] == ["Unsqueeze", "FusedConv", "Flatten", "Neg"]
    model = ir.from_proto(base)
    fuse_linear_relu._fuse(lambda _: FASTER)(model)
    assert [node.op_type for node in model.graph] == [node.op_type for node in other.graph.node]


@pytest.mark.parametrize("transposed", [True, False])
def test_a_measurement_is_made_and_made_once(transposed):
    layer = Linear(48, 24, transposed)
    measured.cache_clear()
    found = measured(layer, "float32", "cpu")
    assert " times as fast as Gemm, Relu on cpu (" in found.said
    assert measured(layer, "float32", "cpu") is found
    assert measured(layer, "tf32", "cpu") is not found
    assert measured.cache_info().misses == 2
