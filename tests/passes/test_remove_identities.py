"""remove-identities: Identity and Dropout, and every value that must keep a node of its own."""

import numpy as np
import pytest
from rewrites import SHARED, unchanged

from nncompile.passes.remove_identities import REMOVE_IDENTITIES

FEATURES = "float[n, 3]"
RATIO = {"ratio": np.float32(0.5)}


def graph(nodes, *, inputs="", outputs=f"{FEATURES} y"):
    return f"g ({FEATURES} x{inputs}) => ({outputs}) {{ {nodes} }}"


@pytest.mark.parametrize(
    ("dropout", "weights"),
    [
        ("Dropout(a)", {}),
        ("Dropout(a, ratio)", RATIO),
        ("Dropout(a, , training)", {"training": np.array(False)}),
        ("Dropout<seed = 3>(a, ratio, training)", RATIO | {"training": np.array(False)}),
    ],
)
@pytest.mark.parametrize("outputs", ["b", "b, mask"])
def test_dropout(apply, dropout, weights, outputs):
    text = graph(f"a = Relu(x) {outputs} = {dropout} y = Neg(b)")
    applied = apply(REMOVE_IDENTITIES, text, weights, engines=("onnxruntime", "reference"))
    assert applied.operators == ["Relu", "Neg"]
    assert applied.outcome.changes >= 1


@pytest.mark.parametrize("opset", [7, 10])
def test_dropout_with_the_ratio_as_an_attribute(apply, opset):
    text = graph("a = Relu(x) b = Dropout<ratio = 0.3>(a) y = Neg(b)")
    assert apply(REMOVE_IDENTITIES, text, opset=opset).operators == ["Relu", "Neg"]


def test_dropout_in_training(apply):
    text = graph("a = Relu(x) y = Dropout<seed = 1>(a, ratio, training)")
    applied = apply(REMOVE_IDENTITIES, text, RATIO | {"training": np.array(True)}, engines=())
    assert applied.operators == ["Relu", "Dropout"]
    assert applied.reasons == ["training_mode is true"]


@pytest.mark.parametrize("default", [{}, {"training": np.array(False)}])
def test_dropout_whose_mode_the_caller_decides(apply, default):
    text = graph("a = Relu(x) y = Dropout(a, ratio, training)", inputs=", bool training")
    feeds = {"training": np.array(False)}
    applied = apply(REMOVE_IDENTITIES, text, RATIO | default, feeds=feeds)
    assert applied.operators == ["Relu", "Dropout"]
    assert applied.reasons == ["training_mode is not constant"]


@pytest.mark.parametrize(
    "text",
    [
        graph("a = Relu(x) y, mask = Dropout(a)", outputs=f"{FEATURES} y, bool[n, 3] mask"),
        graph("a = Relu(x) y, mask = Dropout(a) z = Not(mask)", outputs=f"{FEATURES} y, bool[n, 3] z"),
    ],
)
def test_dropout_whose_mask_is_read(apply, text):
    applied = apply(REMOVE_IDENTITIES, text)
    assert "Dropout" in applied.operators
    assert applied.outcome.changes == 0
    assert applied.reasons == [SHARED]


@pytest.mark.parametrize("operator", ["Dropout", "Identity"])
@pytest.mark.parametrize(
    ("nodes", "outputs", "left"),
    [
        ("a = OP(x) y = Relu(a)", "", ["Relu"]),
        ("a = OP(x) b = OP(a) c = OP(b) y = Relu(c)", "", ["Relu"]),
        ("a = Relu(x) y = OP(a)", "", ["Relu"]),
        ("a = Relu(x) b = OP(a) y = OP(b)", "", ["Relu"]),
        ("a = Relu(x) b = OP(a) c = Neg(b) d = Exp(b) e = Abs(a) z = Add(c, d) y = Add(e, z)", "",
         ["Relu", "Neg", "Exp", "Abs", "Add", "Add"]),
        ("y = OP(x)", "", ["Identity"]),
        ("a = OP(x) y = OP(a)", "", ["Identity"]),
        ("y = OP(w)", "", ["Identity"]),
        ("y = Relu(x) z = OP(y)", "z", ["Relu", "Identity"]),
        ("a = Relu(x) y = OP(a) z = OP(a)", "z", ["Relu", "Identity"]),
        ("y = Relu(x) a = OP(y) z = Neg(a)", "z", ["Relu", "Neg"]),
        ("a = Relu(x) y = OP(a) z = Neg(a)", "z", ["Relu", "Neg"]),
        ("y = OP(x) z = OP(x)", "z", ["Identity", "Identity"]),
    ],
)  # fmt: skip
def test_a_graph_output_keeps_its_name_and_a_value_of_its_own(apply, operator, nodes, outputs, left):
    outputs = f"{FEATURES} y, {FEATURES} z" if outputs else f"{FEATURES} y"
    weights = {"w": np.ones((3, 3), "f4")} if "w)" in nodes else {}
    applied = apply(REMOVE_IDENTITIES, graph(nodes.replace("OP", operator), outputs=outputs), weights)
    assert applied.operators == left


@pytest.mark.parametrize("operator", ["Dropout", "Identity"])
@pytest.mark.parametrize(
    ("then", "left"),
    [
        ("r = Exp(x) p = OP(r)", ["Exp"]),
        ("r = OP(x) p = Exp(r)", ["Exp"]),
        ("p = OP(x)", ["Identity"]),
        ("p = OP(h)", ["Identity"]),
        ("r = OP(h) p = OP(r)", ["Identity"]),
        ("p = OP(w)", ["Identity"]),
    ],
)
def test_in_a_branch(apply, operator, then, left):
    """What a branch returns must be computed in the branch."""
    text = graph(
        f"""h = Relu(x)
        y = If(k) <then_branch = t () => ({FEATURES} p) {{ {then.replace("OP", operator)} }},
                   else_branch = e () => ({FEATURES} q) {{ q = Neg(h) }}>""",
        inputs=", bool k",
    )
    for taken in (True, False):
        applied = apply(REMOVE_IDENTITIES, text, {"w": np.ones((3, 3), "f4")}, feeds={"k": np.array(taken)})
        assert applied.operators == ["Relu", "If", *left, "Neg"]


def test_nothing_to_remove(apply):
    unchanged(apply(REMOVE_IDENTITIES, graph("y = Relu(x)")))


def test_each_removal_is_counted(apply):
    applied = apply(REMOVE_IDENTITIES, graph("a = Dropout(x) b = Dropout(a) c = Identity(b) y = Relu(c)"))
    assert applied.outcome.changes == 3
