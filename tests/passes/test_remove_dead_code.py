"""remove-dead-code."""

import numpy as np
import onnx
import onnx_ir as ir

from nncompile.passes.remove_dead_code import REMOVE_DEAD_CODE


def test_what_no_output_depends_on(apply):
    text = "g (float[n, 3] x) => (float[n, 3] y) { a = Relu(x) b = Add(a, w) y = Add(x, v) }"
    weights = {"w": np.ones(3, "f4"), "v": np.ones(3, "f4")}
    applied = apply(REMOVE_DEAD_CODE, text, weights)
    assert applied.operators == ["Add"]
    assert list(applied.weights) == ["v"]
    assert applied.outcome.changes == 3


def test_inputs_stay(apply):
    text = "g (float[n, 3] x, float[2] unused, float[3] w) => (float[n, 3] y) { y = Relu(x) }"
    applied = apply(REMOVE_DEAD_CODE, text, {"w": np.ones(3, "f4")})
    assert [value.name for value in applied.after.graph.input] == ["x", "unused", "w"]
    assert list(applied.weights) == ["w"]


def test_what_only_a_branch_reads_stays(apply):
    text = """g (float[n, 3] x, bool k) => (float[n, 3] y) {
        h = Relu(x)
        y = If(k) <then_branch = t () => (float[n, 3] p) { d = Neg(x) p = Add(h, w) },
                   else_branch = e () => (float[n, 3] q) { q = Neg(x) }>
    }"""
    applied = apply(REMOVE_DEAD_CODE, text, {"w": np.ones(3, "f4"), "v": np.ones(3, "f4")})
    assert applied.operators == ["Relu", "If", "Add", "Neg"]
    assert list(applied.weights) == ["w"]


def test_an_unread_output_of_a_node_that_is_needed(apply):
    text = "g (float[n, 4] x) => (float[n, 2] y) { a, b = Split<axis = 1, num_outputs = 2>(x) y = Relu(b) }"
    assert apply(REMOVE_DEAD_CODE, text).operators == ["Split", "Relu"]


def test_nothing_to_remove(apply):
    text = "g (float[n, 3] x) => (float[n, 3] y, float[n, 3] a) { a = Relu(x) y = Add(a, w) }"
    assert apply(REMOVE_DEAD_CODE, text, {"w": np.ones(3, "f4")}).outcome.changes == 0


def test_functions_and_operator_sets():
    model = ir.from_proto(
        onnx.parser.parse_model("""<ir_version: 10, opset_import: ["": 20, "own": 1, "unused": 1]>
        g (float[n, 3] x) => (float[n, 3] y) { y = own.twice(x) }
        <domain: "own", opset_import: ["": 20]> twice (a) => (b) { b = Add(a, a) }
        <domain: "own", opset_import: ["": 20]> thrice (a) => (b) { c = Add(a, a) b = Add(c, a) }""")
    )
    assert REMOVE_DEAD_CODE.run(model).changes > 0
    assert [function.name for function in model.functions.values()] == ["twice"]
    assert set(model.opset_imports) == {"", "own"}
    assert REMOVE_DEAD_CODE.run(model).changes == 0
