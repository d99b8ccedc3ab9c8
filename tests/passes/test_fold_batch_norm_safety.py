"""fold-batch-norm: when it must not fire, and what it must leave as it was."""

import numpy as np
import pytest
from rewrites import NORM_NOT_CONSTANT, NOT_CONSTANT, SHARED, statistics, unchanged, unchanged_as_shared

from nncompile.passes.fold_batch_norm import FOLD_BATCH_NORM

NORM = "BatchNormalization(c, scale, shift, mean, var)"
IMAGE = "float[n, 3, 6, 6] x"
RESULT = "float[n, 4, 4, 4]"


def not_constant(name):
    return NOT_CONSTANT if name in "wb" else NORM_NOT_CONSTANT


@pytest.fixture
def weights(random):
    values = {"w": random.standard_normal((4, 3, 3, 3)), "b": random.standard_normal(4)}
    return {name: array.astype("f4") for name, array in values.items()} | statistics(random, 4)


def test_training_mode(apply, weights):
    text = f"g ({IMAGE}) => ({RESULT} y) {{ c = Conv(x, w) y, m, v = {NORM} }}"
    text = text.replace("Normalization(", "Normalization<training_mode=1>(")
    unchanged(apply(FOLD_BATCH_NORM, text, weights), "the batch norm is in training mode")


def test_training_mode_of_opset_13_is_told_by_the_number_of_outputs(apply, weights):
    text = f"g ({IMAGE}) => ({RESULT} y) {{ c = Conv(x, w) y, m, v, p, q = {NORM} }}"
    unchanged(apply(FOLD_BATCH_NORM, text, weights, opset=13), "the batch norm is in training mode")


def test_a_statistic_that_is_read_back(apply, weights):
    text = f"g ({IMAGE}) => ({RESULT} y, float[4] m) {{ c = Conv(x, w) y, m, v = {NORM} }}"
    text = text.replace("Normalization(", "Normalization<training_mode=1>(")
    applied = apply(FOLD_BATCH_NORM, text, weights)
    assert applied.outcome.changes == 0
    assert len(applied.reasons) == 1


@pytest.mark.parametrize("name", ["w", "b", "scale", "shift", "mean", "var"])
def test_a_weight_that_a_caller_can_override(apply, weights, name):
    shape = ", ".join(map(str, weights[name].shape))
    text = f"g ({IMAGE}, float[{shape}] {name}) => ({RESULT} y) {{ c = Conv(x, w, b) y = {NORM} }}"
    unchanged(apply(FOLD_BATCH_NORM, text, weights), not_constant(name))


@pytest.mark.parametrize("name", ["w", "b", "scale", "shift", "mean", "var"])
def test_a_weight_that_is_an_input(apply, weights, name):
    shape = ", ".join(map(str, weights.pop(name).shape))
    text = f"g ({IMAGE}, float[{shape}] {name}) => ({RESULT} y) {{ c = Conv(x, w, b) y = {NORM} }}"
    feeds = {"var": np.ones(4, "f4")} if name == "var" else {}
    unchanged(
        apply(FOLD_BATCH_NORM, text, weights, feeds=feeds),
        not_constant(name),
    )


def test_a_weight_that_is_computed(apply, weights):
    text = f"g ({IMAGE}) => ({RESULT} y) {{ w2 = Neg(w) c = Conv(x, w2) y = {NORM} }}"
    unchanged(apply(FOLD_BATCH_NORM, text, weights), NOT_CONSTANT)


def test_bfloat16(apply, weights):
    text = f"g ({IMAGE}) => ({RESULT} y) {{ c = Conv(x, w) y = {NORM} }}".replace("float[", "bfloat16[")
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    weights = {name: array.astype(bfloat16) for name, array in weights.items() if name != "b"}
    applied = apply(FOLD_BATCH_NORM, text, weights, engines=(), opset=22)
    unchanged(applied, "the weights are of dtype bfloat16")


@pytest.mark.parametrize(
    ("name", "value"),
    [("var", -1.0), ("var", np.nan), ("scale", np.inf), ("mean", np.inf), ("shift", np.nan)],
)
def test_statistics_that_are_not_finite(apply, weights, name, value):
    weights[name][1] = value
    text = f"g ({IMAGE}) => ({RESULT} y) {{ c = Conv(x, w) y = {NORM} }}"
    unchanged(apply(FOLD_BATCH_NORM, text, weights), "the running statistics give a scale that is not finite")


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
def test_a_folded_weight_beyond_the_range_of_its_dtype(apply, weights):
    weights = {name: array.astype("f2") for name, array in weights.items() if name != "b"}
    weights["w"] *= np.float16(1000)
    weights["var"][:] = np.float16(1e-4)  # a scale of 100: 1e5 is more than float16 holds
    text = f"g ({IMAGE}) => ({RESULT} y) {{ c = Conv(x, w) y = {NORM} }}".replace("float[", "float16[")
    feeds = {"x": np.full((1, 3, 6, 6), 1e-3, "f2")}
    applied = apply(FOLD_BATCH_NORM, text, weights, feeds=feeds)
    assert applied.outcome.changes == 0
    assert "float16" in applied.reasons[0]


@pytest.mark.parametrize("shape", [(5, 1), (5, 4), (4, 1), (4, 4)])
def test_a_gemm_bias_that_differs_by_row(apply, weights, random, shape):
    rows = shape[0]
    text = f"g (float[{rows}, 3] x) => (float[{rows}, 4] y) {{ c = Gemm(x, w, b) y = {NORM} }}"
    weights |= {"w": random.standard_normal((3, 4)).astype("f4"), "b": np.ones(shape, "f4")}
    unchanged(
        apply(FOLD_BATCH_NORM, text, weights),
        f"a bias of shape {list(shape)} is not one value for each channel",
    )


@pytest.mark.parametrize(
    ("outputs", "nodes"),
    [
        (f"{RESULT} y, {RESULT} z", "z = Relu(c)"),  # used twice
        (f"{RESULT} y, {RESULT} c", ""),  # a graph output
        (f"{RESULT} y, {RESULT} z", f"z = {NORM}".replace("scale, shift", "shift, scale")),  # two norms
    ],
)
def test_an_intermediate_that_others_read(apply, weights, outputs, nodes):
    text = f"g ({IMAGE}) => ({outputs}) {{ c = Conv(x, w) y = {NORM} {nodes} }}"
    unchanged_as_shared(apply(FOLD_BATCH_NORM, text, weights))


def test_an_intermediate_that_a_branch_reads(apply, weights):
    text = f"""g ({IMAGE}, bool k) => ({RESULT} y, {RESULT} z) {{
        c = Conv(x, w)
        y = {NORM}
        z = If(k) <then_branch = t () => ({RESULT} p) {{ p = Relu(c) }},
                   else_branch = e () => ({RESULT} q) {{ q = Neg(y) }}>
    }}"""
    unchanged(apply(FOLD_BATCH_NORM, text, weights), SHARED)


def test_shared_weights_are_folded_for_each_reader_by_itself(apply, weights):
    text = f"""g ({IMAGE}) => ({RESULT} y, {RESULT} z, float[4, 3, 3, 3] u) {{
        c = Conv(x, w)
        y = {NORM}
        d = Conv(x, w)
        z = BatchNormalization(d, shift, scale, var, var)
        u = Relu(w)
    }}"""
    applied = apply(FOLD_BATCH_NORM, text, weights)
    assert applied.outcome.changes == 2
    assert applied.operators == ["Conv", "Conv", "Relu"]
    np.testing.assert_array_equal(applied.weights["w"], weights["w"])


def test_a_chain_of_batch_norms_is_folded_whole(apply, weights):
    text = f"g ({IMAGE}) => ({RESULT} y) {{ c = Conv(x, w) d = {NORM} y = {NORM} }}"
    text = text.replace("y = BatchNormalization(c", "y = BatchNormalization(d")
    applied = apply(FOLD_BATCH_NORM, text, weights)
    assert applied.operators == ["Conv"]
    assert applied.outcome.changes == 2


def test_a_result_that_is_read_by_many_and_is_an_output(apply, weights):
    text = f"g ({IMAGE}) => ({RESULT} y, {RESULT} z) {{ c = Conv(x, w) y = {NORM} z = Add(y, y) }}"
    assert apply(FOLD_BATCH_NORM, text, weights).operators == ["Conv", "Add"]


@pytest.mark.parametrize("taken", ["w_bn", "w_bn_bias"])
@pytest.mark.parametrize("kind", ["input", "value", "weight", "output"])
def test_names_that_are_taken(apply, weights, taken, kind):
    weights = dict(weights)
    conv = f"c = Conv(x, w) y = {NORM}"
    if kind == "input":
        text = f"g ({IMAGE}, float[4] {taken}) => ({RESULT} y, float[4] z) {{ {conv} z = Relu({taken}) }}"
    elif kind == "value":
        text = f"g ({IMAGE}) => ({RESULT} y, {RESULT} z) {{ {conv} {taken} = Relu(y) z = Neg({taken}) }}"
    elif kind == "weight":
        weights[taken] = np.array([1, -2, 3, -4], "f4")
        text = f"g ({IMAGE}) => ({RESULT} y, float[4] z) {{ {conv} z = Relu({taken}) }}"
    else:
        text = f"g ({IMAGE}) => ({RESULT} y, {RESULT} {taken}) {{ {conv} {taken} = Relu(y) }}"
    applied = apply(FOLD_BATCH_NORM, text, weights)
    assert applied.outcome.changes == 1
    assert "BatchNormalization" not in applied.operators


@pytest.mark.parametrize("taken", [True, False])
def test_in_branches_of_an_if(apply, weights, taken):
    if taken:
        weights["w_bn"] = np.ones(4, "f4")
    text = f"""g ({IMAGE}, bool k) => ({RESULT} y, float[4] z) {{
        y = If(k) <then_branch = t () => ({RESULT} p) {{ c = Conv(x, w) p = {NORM} }},
                   else_branch = e () => ({RESULT} q) {{ c2 = Conv(x, w)
                       q = BatchNormalization(c2, shift, scale, var, var) }}>
        z = Relu({"w_bn" if taken else "b"})
    }}"""
    for branch in (True, False):
        applied = apply(FOLD_BATCH_NORM, text, weights, feeds={"k": np.array(branch)})
        assert applied.operators == ["If", "Relu", "Conv", "Conv"]
        assert applied.outcome.changes == 2


def test_the_node_keeps_the_path_of_its_module(apply, weights):
    text = f'g ({IMAGE}) => ({RESULT} y) {{ ["stem.conv/Conv"] c = Conv(x, w) ["stem.bn/Norm"] y = {NORM} }}'
    applied = apply(FOLD_BATCH_NORM, text, weights)
    assert applied.node("Conv").name == "stem.conv/Conv"


@pytest.mark.parametrize(
    "text",
    [
        f"g ({RESULT} c) => ({RESULT} y) {{ y = {NORM} }}",
        f"g ({IMAGE}) => ({RESULT} y) {{ d = Conv(x, w) c = Relu(d) y = {NORM} }}",
        f"g ({IMAGE}) => ({RESULT} y) {{ y = Conv(x, w) }}",
    ],
)
def test_other_graphs_are_left_alone_without_a_word(apply, weights, text):
    unchanged(apply(FOLD_BATCH_NORM, text, weights))
