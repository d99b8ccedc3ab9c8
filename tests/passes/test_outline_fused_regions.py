"""outline-fused-regions: what becomes a region, and the graph after it."""

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from outlined import PLANE, regions

from nncompile import passes
from nncompile.capture import capture
from nncompile.options import CompileOptions
from nncompile.passes.outline_fused_regions import OUTLINE_FUSED_REGIONS

pytestmark = pytest.mark.usefixtures("whatever_it_is_worth")


def refused(applied):
    return {refusal.node.rpartition("_")[2]: refusal.reason for refusal in applied.outcome.refusals}


def optimized(module, shape):
    torch.manual_seed(0)
    options = CompileOptions()
    captured = capture(module.eval(), torch.randn(2, *shape), None, options)
    return passes.optimize(captured, passes.selected(options))


def test_what_the_kernels_lack_cuts_a_network():
    layers = (torch.nn.Conv2d(3, 4, 3), torch.nn.Mish(), torch.nn.Conv2d(4, 4, 3), torch.nn.ELU())
    report = optimized(torch.nn.Sequential(*layers, torch.nn.Conv2d(4, 2, 1)), (3, 9, 9)).passes[-1]
    assert report.name == "outline-fused-regions"
    assert report.changes == 3
    assert [refusal.reason for refusal in report.refusals] == [
        "the kernels have no Mish",
        "the kernels have no Elu",
    ]


def test_two_linear_layers_are_a_region_and_one_is_not():
    two = [torch.nn.Linear(8, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)]
    for layers, changes in ((two, 1), (two[:2], 0)):
        report = optimized(torch.nn.Sequential(*layers), (8,)).passes[-1]
        assert (report.changes, report.refusals) == (changes, ())


def test_plain_onnx_runtime_inlines_the_function(apply, outline, tmp_path):
    """With its optimisers on: the same answers, and no node of our domain is left."""
    nodes = (
        "c = Conv<pads = [1, 1, 1, 1]>(x, w, b) r = Relu(c) p = MaxPool<kernel_shape = [2, 2]>(r) y = Relu(p)"
    )
    applied = outline(nodes, "float[n, 5, 6, 5] y", w=(5, 4, 3, 3), b=(5,))
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    after = onnxruntime.InferenceSession(
        applied.after.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    before = onnxruntime.InferenceSession(
        applied.before.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    x = np.random.default_rng(1).standard_normal((5, 4, 7, 6)).astype("f4")
    np.testing.assert_array_equal(after.run(None, {"x": x})[0], before.run(None, {"x": x})[0])
    left = {node.domain for node in onnx.load(tmp_path / "optimized.onnx").graph.node}
    assert "nncompile" not in left


def test_scales_of_channels_alone_are_no_region(outline):
    applied = outline("s = Mul(x, k) t = Relu(s) y = Add(t, k)", w=None, k=(4, 1, 1))
    assert applied.outcome.changes == 0


def test_two_branches(outline):
    nodes = "a = Conv(x, w) b = Conv(x, v) r = Relu(a) y = Add(r, b)"
    applied = outline(nodes, v=(4, 4, 1, 1))
    assert regions(applied) == [["Conv", "Conv", "Relu", "Add"]]
    assert list(applied.node("FusedRegion").input) == ["x", "w", "v"]


def test_branches_that_never_meet_are_two_regions(outline):
    applied = outline("y = Conv(x, w) z = Conv(x, v)", f"{PLANE} y, {PLANE} z", v=(4, 4, 1, 1))
    assert regions(applied) == [["Conv"], ["Conv"]]
    assert sorted(f.overload for f in applied.after.functions) == ["r0", "r1"]


def test_two_activations(outline):
    nodes = "a = Conv(x, w) b = Conv(z, w) y = Add(a, b)"
    applied = outline(nodes, x=f"{PLANE} x, {PLANE} z")
    assert regions(applied) == [["Conv", "Conv", "Add"]]
    assert list(applied.node("FusedRegion").input) == ["x", "z", "w"]


def test_two_outputs(outline):
    applied = outline("c = Conv(x, w) r = Relu(c) y = Sigmoid(r)", f"{PLANE} y, {PLANE} r")
    assert regions(applied) == [["Conv", "Relu", "Sigmoid"]]
    assert list(applied.node("FusedRegion").output) == ["r", "y"]
    assert list(applied.node("FusedRegion").attribute[1].ints[-5:]) == [2, 2, 4, 3, 4]


def test_a_result_read_outside_and_as_a_graph_output(outline):
    applied = outline("c = Conv(x, w) r = Relu(c) e = Exp(c) y = Add(r, e)", f"{PLANE} y, {PLANE} c")
    assert applied.outcome.changes == 1
    assert set(applied.node("FusedRegion").output) >= {"c"}


def test_what_a_branch_reads_is_an_output_of_the_region(outline):
    nodes = f"""c = Conv(x, w) r = Relu(c)
        u = If(k) <then_branch = t () => ({PLANE} p) {{ p = Neg(c) }},
                   else_branch = e () => ({PLANE} q) {{ q = Neg(r) }}>
        y = Relu(u)"""
    applied = outline(nodes, f"{PLANE} y", x=f"{PLANE} x, bool k")
    assert regions(applied) == [["Conv", "Relu"]]
    assert list(applied.node("FusedRegion").output) == ["c", "r"]


def test_a_path_by_way_of_a_branch_is_no_part_of_a_region(outline):
    """The region would need the result of the If, which needs the convolution."""
    nodes = f"""c = Conv(x, w)
        u = If(k) <then_branch = t () => ({PLANE} p) {{ p = Neg(c) }},
                   else_branch = e () => ({PLANE} q) {{ q = Exp(c) }}>
        y = Add(c, u)"""
    applied = outline(nodes, f"{PLANE} y", x=f"{PLANE} x, bool k")
    assert regions(applied) == [["Conv"]]
    assert "result of its own" in refused(applied)["Add"]


def test_a_diamond_with_an_arm_that_the_kernels_lack(outline):
    nodes = "c = Conv(x, w) a = Relu(c) b = Exp(c) d = Add(a, b) y = Conv(d, v)"
    applied = outline(nodes, v=(4, 4, 1, 1))
    assert regions(applied) == [["Conv", "Relu"], ["Add", "Conv"]]
    assert refused(applied)["Exp"] == "the kernels have no Exp"
    assert refused(applied)["Add"] == "with it the region would need a result of its own first"


def test_two_pieces_may_not_wait_for_each_other(outline):
    """a -> e -> b and c -> f -> d: with a and d in one piece, b and c cannot be in another."""
    nodes = """a = Conv(x, w) c = Conv(z, w) e = Exp(a) f = Exp(c)
        b = Add(e, c) d = Add(f, a) s = Relu(b) y = Relu(d)"""
    applied = outline(nodes, f"{PLANE} y, {PLANE} s", x=f"{PLANE} x, {PLANE} z")
    assert regions(applied) == [["Conv"], ["Conv", "Add", "Relu"]]
    assert refused(applied)["Add"] == "with it the region would need a result of its own first"


def test_a_node_that_comes_back_in_between(outline):
    """The region stands where the graph is in order, though its nodes stood before and after others."""
    nodes = "c = Conv(x, w) e = Exp(x) n = Neg(e) r = Relu(c) y = Add(r, n)"
    applied = outline(nodes)
    assert regions(applied) == [["Conv", "Relu", "Add"]]
    assert applied.operators == ["Exp", "Neg", "FusedRegion"]


def test_shared_weights_are_read_once_and_stay(outline):
    applied = outline("a = Conv(x, w) b = Conv(a, w) e = Exp(b) y = Conv(e, w)")
    assert regions(applied) == [["Conv", "Conv"], ["Conv"]]
    assert [list(node.input) for node in applied.after.graph.node if node.domain] == [["x", "w"], ["e", "w"]]
    assert list(applied.weights) == ["w"]


def test_bounds_move_into_the_function_unless_others_read_them(outline):
    nodes = "c = Conv(x, w) r = Clip(c, low, high) e = Exp(r) y = Max(e, high)"
    applied = outline(nodes, low=np.float32(0), high=np.float32(0.5))
    assert sorted(regions(applied)[0]) == ["Clip", "Constant", "Constant", "Conv"]
    assert sorted(applied.weights) == ["high", "w"]


def test_several_overloads_and_a_name_that_is_taken(parsed, random):
    weights = {"w": random.standard_normal((4, 4, 1, 1)).astype("f4")}
    text = f"g ({PLANE} x) => ({PLANE} y) {{ a = Conv(x, w) b = Exp(a) y = Conv(b, w) }}"
    model = ir.from_proto(parsed(text, weights))
    assert OUTLINE_FUSED_REGIONS.run(model).changes == 2
    first = model.graph.node(0)
    again = ir.node("Conv", [first.outputs[0], model.graph.initializers["w"]], name="again")
    again.outputs[0].name, again.outputs[0].dtype = "z", ir.DataType.FLOAT
    again.outputs[0].shape = first.outputs[0].shape
    model.graph.append(again)
    model.graph.outputs.append(again.outputs[0])
    assert OUTLINE_FUSED_REGIONS.run(model).changes == 1
    assert [f.overload for f in model.functions.values()] == ["r0", "r1", "r2"]
    onnx.checker.check_model(ir.to_proto(model), full_check=True)


def test_dead_code_is_no_region(outline):
    applied = outline("c = Conv(x, w) y = Exp(x)")
    assert applied.outcome.changes == 0


def test_the_report_says_where_regions_are(outline):
    (firing,) = outline("c = Conv(x, w) y = Relu(c)").outcome.firings
    assert (firing.rule, firing.node) == ("FusedRegion", "FusedRegion/r0")
