"""The check after every pass: each fault of a malformed graph is named, and a sound graph has none."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from nncompile.passes.check import faults, interface

TEXT = """g (float[n, 3] x, float[n, 3] z) => (float[n, 3] y, float[n, 3] u) {
    a = Add(x, w)
    b = Relu(a)
    y = Mul(b, z)
    u = If(k) <then_branch = t () => (float[n, 3] p) { r = Exp(b) p = Neg(r) },
               else_branch = e () => (float[n, 3] q) { q = Neg(z) }>
}"""


@pytest.fixture
def model(parsed):
    return ir.from_proto(parsed(TEXT, {"w": np.ones(3, "f4"), "k": np.array(True)}))


def branch(model: ir.Model) -> ir.Graph:
    return model.graph.node(3).attributes["then_branch"].as_graph()


def rename_output(model):
    model.graph.outputs[0].name = "other"


def retype_output(model):
    model.graph.outputs[0].type = ir.TensorType(ir.DataType.DOUBLE)


def retype_input(model):
    model.graph.inputs[0].type = ir.TensorType(ir.DataType.FLOAT16)


def drop_output(model):
    model.graph.outputs.pop()


def add_input(model):
    model.graph.inputs.append(ir.Value(name="extra", type=ir.TensorType(ir.DataType.FLOAT)))


def swap_inputs(model):
    model.graph.inputs.reverse()


def swap_outputs(model):
    model.graph.outputs.reverse()


@pytest.mark.parametrize(
    "harm", [rename_output, retype_output, retype_input, drop_output, add_input, swap_inputs, swap_outputs]
)
def test_the_interface_must_stay(model, harm):
    expected = interface(model)
    harm(model)
    assert next(faults(model, expected)).startswith("changed the inputs or outputs from")


def drop_weight_data(model):
    model.graph.initializers["w"].const_value = None


def use_unknown_domain(model):
    model.graph.node(1).domain = "com.microsoft"


def use_unknown_domain_in_branch(model):
    branch(model).node(0).domain = "own"


def reorder(model):
    first = model.graph.node(0)
    model.graph.remove(first)
    model.graph.append(first)


def reorder_in_branch(model):
    first = branch(model).node(0)
    branch(model).remove(first)
    branch(model).append(first)


def read_from_nowhere(model):
    model.graph.node(1).replace_input_with(0, ir.Value(name="ghost"))


def read_from_nowhere_in_branch(model):
    branch(model).node(0).replace_input_with(0, ir.Value(name="ghost"))


def read_from_within_a_branch(model):
    model.graph.append(ir.node("Relu", [branch(model).node(0).outputs[0]], name="late"))


def read_a_forgotten_weight(model):
    del model.graph.initializers["w"]


def name_twice(model):
    model.graph.node(1).outputs[0].name = "a"


def name_as_an_input(model):
    model.graph.node(1).outputs[0].name = "x"


def name_as_a_weight(model):
    model.graph.node(1).outputs[0].name = "w"


def name_twice_in_branch(model):
    branch(model).node(0).outputs[0].name = "p"


def name_as_an_outer_value(model):
    branch(model).node(0).outputs[0].name = "a"


def forget_the_node_of_an_output(model):
    ghost = ir.Value(name="y", type=model.graph.outputs[0].type, shape=model.graph.outputs[0].shape)
    model.graph.outputs[0] = ghost


def forget_the_node_of_a_branch_output(model):
    branch(model).outputs[0] = ir.Value(name="p")


def return_an_outer_value_from_a_branch(model):
    branch(model).outputs[0] = model.graph.node(1).outputs[0]


CALLS = """<ir_version: 10, opset_import: ["": 20, "own": 1]>
g (float[n, 3] x) => (float[n, 3] y) { y = own.twice:one(x) }
<domain: "own", overload: "one", opset_import: ["": 20]> twice (a) => (b) { c = Relu(a) b = Add(c, a) }"""


@pytest.fixture
def calling():
    """A model whose one node calls a function."""
    model = onnx.parser.parse_model(CALLS)
    onnx.checker.check_model(model, full_check=True)
    return ir.from_proto(model)


def body(model: ir.Model) -> ir.Function:
    (function,) = model.functions.values()
    return function


def forget_the_function(model):
    model.functions.clear()


def call_with_too_many(model):
    node = model.graph.node(0)
    node.resize_inputs(2)
    node.replace_input_with(1, model.graph.inputs[0])


def reorder_a_function(model):
    first = body(model).graph.node(0)
    body(model).graph.remove(first)
    body(model).graph.append(first)


def read_from_outside_a_function(model):
    body(model).graph.node(0).replace_input_with(0, model.graph.inputs[0])


def use_an_operator_that_onnx_lacks_in_a_function(model):
    body(model).graph.node(0).op_type = "Rectify"


def use_an_unknown_domain_in_a_function(model):
    body(model).graph.node(0).domain = "com.microsoft"


def name_twice_in_a_function(model):
    body(model).graph.node(0).outputs[0].name = "b"


@pytest.mark.parametrize(
    ("harm", "fault"),
    [
        (forget_the_function, "called the function 'twice' (one), which is not there"),
        (call_with_too_many, "gave 'twice' more inputs or outputs than its function has"),
        (reorder_a_function, "left 'Add' reading 'c' before it is computed"),
        (read_from_outside_a_function, "left 'Relu' reading 'x' before it is computed"),
        (use_an_operator_that_onnx_lacks_in_a_function, "used the operator 'Rectify', which opset 20"),
        (use_an_unknown_domain_in_a_function, "used operator set 'com.microsoft' without importing it"),
        (name_twice_in_a_function, "gave two values the name 'b'"),
    ],
)
def test_each_fault_of_a_function_is_named(calling, harm, fault):
    expected = interface(calling)
    assert list(faults(calling, expected)) == []
    harm(calling)
    assert any(found.startswith(fault) for found in faults(calling, expected))


@pytest.mark.parametrize(
    ("harm", "fault"),
    [
        (drop_weight_data, "left weight 'w' without data"),
        (use_unknown_domain, "used operator set 'com.microsoft' without importing it"),
        (use_unknown_domain_in_branch, "used operator set 'own' without importing it"),
        (reorder, "left 'Relu' reading 'a' before it is computed"),
        (reorder_in_branch, "left 'Neg' reading 'r' before it is computed"),
        (read_from_nowhere, "left 'Relu' reading 'ghost' before it is computed"),
        (read_from_nowhere_in_branch, "left 'Exp' reading 'ghost' before it is computed"),
        (read_from_within_a_branch, "left 'late' reading 'r' before it is computed"),
        (read_a_forgotten_weight, "left 'Add' reading 'w' before it is computed"),
        (name_twice, "gave two values the name 'a'"),
        (name_as_an_input, "gave two values the name 'x'"),
        (name_as_a_weight, "gave two values the name 'w'"),
        (name_twice_in_branch, "gave two values the name 'p'"),
        (name_as_an_outer_value, "gave two values the name 'a'"),
        (forget_the_node_of_an_output, "left the output 'y' uncomputed"),
        (forget_the_node_of_a_branch_output, "left the output 'p' uncomputed"),
        (return_an_outer_value_from_a_branch, "left the output 'b' uncomputed"),
    ],
)
def test_each_fault_is_named(model, harm, fault):
    expected = interface(model)
    harm(model)
    assert fault in list(faults(model, expected))


def test_a_sound_graph_has_none(model):
    assert list(faults(model, interface(model))) == []


def test_an_optional_input_that_is_left_out_is_sound(parsed):
    text = "g (float[n, 3] x) => (float[n, 3] y) { y = Clip(x, , high) }"
    model = ir.from_proto(parsed(text, {"high": np.float32(1)}))
    assert list(faults(model, interface(model))) == []


def test_an_overridable_weight_is_sound(parsed):
    text = "g (float[n, 3] x, float[3] w) => (float[n, 3] y) { y = Add(x, w) }"
    model = ir.from_proto(parsed(text, {"w": np.ones(3, "f4")}))
    assert list(faults(model, interface(model))) == []


def test_the_same_name_in_two_branches_is_sound(parsed):
    text = TEXT.replace("q = Neg(z)", "r = Neg(z) q = Neg(r)")
    model = ir.from_proto(parsed(text, {"w": np.ones(3, "f4"), "k": np.array(True)}))
    assert list(faults(model, interface(model))) == []
