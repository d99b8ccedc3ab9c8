"""The passes together: selection, order, what a broken pass costs, and the graph they start from."""

import dataclasses
import itertools

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from nncompile import passes
from nncompile.options import CompileOptions
from nncompile.passes.contract import BrokenPassError, Outcome, Pass
from nncompile.stages import CapturedModel, OptimizedModel
from nncompile_runtime import PassError
from nncompile_runtime.manifest import Signature

PORTABLE = [step.name for step in passes.PIPELINE if "portable" in step.targets]

# Something for every pass: a computed weight, a Constant, a Dropout, MatMul and Add, a batch norm.
TEXT = """g (float[n, 3, 6, 6] x) => (float[n, 5] y) {
    c = Conv(x, w)
    d = BatchNormalization(c, scale, shift, mean, var)
    e = Dropout(d)
    f = Relu(e)
    s = Constant<value_ints = [0, -1]>()
    h = Reshape(f, s)
    t = Transpose<perm = [1, 0]>(v)
    a = MatMul(h, t)
    y = Add(a, b)
    unused = Neg(f)
}"""


@pytest.fixture
def captured(parsed, random) -> CapturedModel:
    weights = {
        "w": random.standard_normal((4, 3, 3, 3)).astype("f4"),
        "v": random.standard_normal((5, 64)).astype("f4"),
        "b": np.ones(5, "f4"),
        **{name: random.uniform(0.5, 2, 4).astype("f4") for name in ("scale", "shift", "mean", "var")},
    }
    return CapturedModel(
        "Network",
        ir.from_proto(parsed(TEXT, weights)),
        Signature.model_construct(),
        module=None,
        example=(),
        reference=None,
    )


def broken(name, run):
    return Pass(name, "is broken on purpose", run)


def optimize(captured, *steps, **selection) -> OptimizedModel:
    return passes.optimize(captured, steps or passes.selected(CompileOptions(**selection)))


def operators(model: OptimizedModel) -> list[str]:
    """The operators of the graph; those of its function in place of a fused region."""
    proto = onnx.load_from_string(model.model)
    bodies = {function.overload: [node.op_type for node in function.node] for function in proto.functions}
    found = [bodies.get(node.overload, [node.op_type]) for node in proto.graph.node]
    return [operator for operators in found for operator in operators if operator != "Constant"]


def test_every_pass_does_its_part(captured):
    model = optimize(captured)
    assert [report.name for report in model.passes] == PORTABLE
    assert operators(model) == ["Conv", "Relu", "Reshape", "Gemm"]


# The passes that find something in the captured graph of this file when they run alone.
WORK_FOR = {
    "fold-constants",
    "lift-constants",
    "remove-identities",
    "matmul-add-to-gemm",
    "fold-batch-norm",
    "static-reshape",
    "remove-dead-code",
    "compute-in-bfloat16",
}


@pytest.mark.parametrize("step", passes.PIPELINE, ids=lambda step: step.name)
def test_a_pass_by_itself(captured, step):
    (report,) = optimize(captured, step).passes
    assert report.name == step.name
    assert (report.changes > 0) == (step.name in WORK_FOR)


def test_reports_follow_the_nodes(captured):
    reports = optimize(captured).passes
    for before, after in itertools.pairwise(reports):
        assert before.nodes_after == after.nodes_before
    assert reports[0].nodes_before == 10
    assert [report.nodes_after for report in reports[-2:]] == [4, 1]
    assert all(report.seconds >= 0 for report in reports)


def test_names_are_unique():
    assert len(set(passes.pass_names())) == len(passes.PIPELINE)
    assert all(step.summary for step in passes.PIPELINE)


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        ("fold-constants", "lift-constants"),
        ("lift-constants", "matmul-add-to-gemm"),
        ("remove-identities", "matmul-add-to-gemm"),
        ("remove-identities", "fold-batch-norm"),
        ("matmul-add-to-gemm", "fold-batch-norm"),
        ("fold-batch-norm", "remove-dead-code"),
        ("remove-dead-code", "fuse-conv-relu"),
        ("fuse-conv-relu", "fuse-linear-relu"),
        ("fold-into-matmul", "matmul-add-to-gemm"),
        ("global-average-pool", "pool-before-linear"),
        ("pool-before-linear", "position-to-gemm"),
        ("position-to-gemm", "merge-linear"),
        ("order-pool-and-activation", "fold-batch-norm-forward"),
        ("remove-dead-code", "outline-fused-regions"),
    ],
)
def test_order(earlier, later):
    names = passes.pass_names()
    assert names.index(earlier) < names.index(later)


def test_passes_run_in_pipeline_order_however_they_are_listed():
    options = CompileOptions(passes=("remove-dead-code", "fold-batch-norm", "fold-constants"))
    assert [step.name for step in passes.selected(options)] == [
        "fold-constants",
        "fold-batch-norm",
        "remove-dead-code",
    ]


def test_disabled_passes():
    options = CompileOptions(
        passes=("fold-constants", "fold-batch-norm"), disabled_passes=frozenset({"fold-constants"})
    )
    assert [step.name for step in passes.selected(options)] == ["fold-batch-norm"]


@pytest.mark.parametrize(
    "options", [{"passes": ("fold-batchnorm",)}, {"disabled_passes": frozenset({"fold-batchnorm"})}]
)
def test_an_unknown_name(options):
    with pytest.raises(PassError, match="There is no pass 'fold-batchnorm'") as caught:
        passes.selected(CompileOptions(**options))
    assert all(name in caught.value.remedy for name in passes.pass_names())


@pytest.mark.parametrize(("target", "runs"), [("portable", True), ("cpu", True), ("cuda", False)])
def test_a_pass_runs_for_its_targets(target, runs):
    names = [step.name for step in passes.selected(CompileOptions(target=target))]
    assert ("outline-fused-regions" in names) == runs
    assert "fold-batch-norm" in names


def test_a_pass_asked_for_by_name_must_be_for_the_target():
    options = CompileOptions(target="cuda", passes=("outline-fused-regions",))
    with pytest.raises(PassError, match=r"'outline-fused-regions' is not for target='cuda'") as caught:
        passes.selected(options)
    assert "target='portable'" in caught.value.remedy


def test_no_passes_give_the_exporters_graph(captured):
    model = optimize(captured, passes=())
    assert model.passes == ()
    assert model.model == ir.to_proto(captured.graph).SerializeToString(deterministic=True)


def test_skipped_passes_do_not_run(captured):
    steps = passes.selected(CompileOptions())
    model = passes.optimize(captured, steps, skip={"fold-batch-norm", "remove-identities"})
    assert "fold-batch-norm" not in [report.name for report in model.passes]
    assert "BatchNormalization" in operators(model)


def test_the_captured_graph_is_never_changed(captured):
    before = ir.to_proto(captured.graph).SerializeToString(deterministic=True)
    optimize(captured)
    optimize(captured, passes=("fold-batch-norm",))
    with pytest.raises(BrokenPassError):
        optimize(captured, broken("clear", lambda model: model.graph.outputs.clear()))
    assert ir.to_proto(captured.graph).SerializeToString(deterministic=True) == before


def test_the_pipeline_leaves_its_own_output_alone(captured):
    first = optimize(captured)
    again = dataclasses.replace(captured, graph=ir.from_proto(onnx.load_from_string(first.model)))
    second = optimize(again)
    assert {report.name: report.changes for report in second.passes} == dict.fromkeys(PORTABLE, 0)
    assert operators(second) == operators(first)


def test_the_same_graph_gives_the_same_bytes(captured):
    assert optimize(captured).model == optimize(captured).model


def raises(model):
    raise ZeroDivisionError("by zero")


def drops_a_node(model):
    model.graph.remove(model.graph.node(0))
    return Outcome(1)


def renames_an_output(model):
    model.graph.outputs[0].name = "logits"
    return Outcome(1)


def uses_an_operator_that_onnx_lacks(model):
    model.graph.node(1).op_type = "BatchNormalisation"
    return Outcome(1)


def sets_an_attribute_that_onnx_lacks(model):
    model.graph.node(0).attributes.add(ir.AttrInt64("winograd", 1))
    return Outcome(1)


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (raises, "failed: ZeroDivisionError: by zero"),
        (drops_a_node, "left 'BatchNormalization' reading 'c' before it is computed"),
        (renames_an_output, "changed the inputs or outputs"),
        (uses_an_operator_that_onnx_lacks, "BatchNormalisation"),
        (sets_an_attribute_that_onnx_lacks, "winograd"),
    ],
)
@pytest.mark.parametrize("place", [0, 1])
def test_a_broken_pass_is_named(captured, run, message, place):
    steps = [step for step in passes.PIPELINE if step.name in ("remove-identities", "lift-constants")]
    steps.insert(place, broken("clumsy", run))
    with pytest.raises(BrokenPassError) as caught:
        optimize(captured, *steps)
    assert caught.value.name == "clumsy"
    assert isinstance(caught.value, PassError)
    assert str(caught.value).startswith("Pass 'clumsy' ")
    assert message in caught.value.problem
    assert "--disable-pass clumsy" in caught.value.remedy


def takes_an_input_away(model):
    model.graph.node(0).resize_inputs(1)
    return Outcome(1)


def test_the_bytes_are_checked_against_the_standard(captured):
    """What the check after each pass does not ask, here the number of inputs."""
    with pytest.raises(onnx.checker.ValidationError, match=r"Conv.*input size 1"):
        optimize(captured, broken("clumsy", takes_an_input_away))


def test_a_graph_beyond_two_gibibytes(captured, monkeypatch):
    monkeypatch.setattr(passes, "MAX_FILE_BYTES", 2**24 + 100)
    with pytest.raises(PassError, match="2 GiB") as caught:
        optimize(captured)
    assert "float16" in caught.value.remedy
