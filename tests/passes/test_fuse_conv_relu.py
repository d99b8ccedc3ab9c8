"""fuse-conv-relu: each form of FusedConv, what its CUDA kernel cannot do, and artifacts that hold it."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from rewrites import SHARED, unchanged
from torch import nn

import nncompile
from nncompile import passes
from nncompile.options import CompileOptions
from nncompile.passes.fuse_conv_relu import FUSE_CONV_RELU
from nncompile_runtime import PassError

SAME = "<pads=[1, 1, 1, 1]>"
RELU = "c = Conv{a}(x, w, b) y = Relu(c)"
ADDED = "c = Conv{a}(x, w, b) s = Add(c, z) y = Relu(s)"
SHAPE = "n, 4, 7, 5"
INPUT = f", float[{SHAPE}] z"


def graph(nodes, attributes=SAME, *, inputs="", result=SHAPE, outputs="", kind="float"):
    nodes = nodes.replace("{a}", attributes)
    return f"g ({kind}[{SHAPE}] x{inputs}) => ({kind}[{result}] y{outputs}) {{ {nodes} }}"


def convolution(random, weight=(4, 4, 3, 3), dtype="float32", bias=True):
    arrays = {"w": random.standard_normal(weight), "b": random.standard_normal(weight[0])}
    return {name: arrays[name].astype(dtype) for name in ("w", "b")[: 1 + bias]}


def fused(applied, residual=False):
    assert applied.operators == ["FusedConv"]
    assert applied.outcome.changes == 1
    node = applied.node("FusedConv")
    assert node.domain == "com.microsoft"
    assert len(node.input) == 3 + residual
    assert all(node.input)
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    assert attributes.pop("activation") == b"Relu"
    assert {entry.domain: entry.version for entry in applied.after.opset_import}["com.microsoft"] == 1
    return attributes


@pytest.mark.parametrize("nodes", ["s = Add(c, z)", "s = Add(z, c)"])
def test_a_residual(apply, random, nodes):
    text = graph(ADDED.replace("s = Add(c, z)", nodes), inputs=INPUT)
    applied = apply(FUSE_CONV_RELU, text, convolution(random))
    assert fused(applied, residual=True) == {"pads": [1, 1, 1, 1]}
    assert list(applied.node("FusedConv").input) == ["x", "w", "b", "z"]


@pytest.mark.parametrize(
    ("attributes", "weight", "plane"),
    [
        ("<pads=[1, 1, 1, 1]>", (4, 4, 3, 3), "7, 5"),
        ("<pads=[1, 1, 1, 1], strides=[2, 3]>", (6, 4, 3, 3), "4, 2"),
        ("<pads=[2, 2, 2, 2], dilations=[2, 2]>", (4, 4, 3, 3), "7, 5"),
        ("<pads=[1, 0, 1, 0], group=2>", (6, 2, 3, 1), "7, 5"),
        ("<group=4>", (8, 1, 1, 1), "7, 5"),
        ('<auto_pad="VALID">', (3, 4, 2, 2), "6, 4"),
        ("<kernel_shape=[7, 5]>", (2, 4, 7, 5), "1, 1"),
    ],
)
@pytest.mark.parametrize("residual", [False, True])
def test_every_window(apply, random, residual, attributes, weight, plane):
    result = f"n, {weight[0]}, {plane}"
    nodes, inputs = (ADDED, f", float[{result}] z") if residual else (RELU, "")
    applied = apply(
        FUSE_CONV_RELU, graph(nodes, attributes, inputs=inputs, result=result), convolution(random, weight)
    )
    kept = fused(applied, residual)
    assert kept.keys() == {part.split("=")[0].strip("<, ") for part in attributes.split(", ") if "=" in part}


@pytest.mark.parametrize("residual", [False, True])
def test_a_missing_bias_is_zeros(apply, random, residual):
    nodes = (ADDED if residual else RELU).replace(", b)", ")")
    applied = apply(
        FUSE_CONV_RELU,
        graph(nodes, inputs=INPUT * residual),
        convolution(random, bias=False),
    )
    fused(applied, residual)
    bias = applied.weights[applied.node("FusedConv").input[2]]
    assert bias.dtype == np.float32
    np.testing.assert_array_equal(bias, np.zeros(4))


def test_a_plane_of_unknown_size(apply, random):
    text = graph(RELU, result="n, 4, h, v").replace(f"[{SHAPE}] x", "[n, 4, h, v] x")
    fused(apply(FUSE_CONV_RELU, text, convolution(random)))


def test_the_input_itself_is_the_residual(apply, random):
    applied = apply(FUSE_CONV_RELU, graph(ADDED.replace("z", "x")), convolution(random))
    fused(applied, residual=True)


def test_of_two_convolutions_one_takes_the_other(apply, random):
    text = graph("c = Conv{a}(x, w, b) d = Conv{a}(x, w) s = Add(c, d) y = Relu(s)")
    applied = apply(FUSE_CONV_RELU, text, convolution(random))
    assert applied.operators == ["Conv", "FusedConv"]


def test_a_weight_of_two_layers(apply, random):
    text = graph("c = Conv{a}(x, w, b) r = Relu(c) d = Conv{a}(r, w, b) y = Relu(d)")
    assert apply(FUSE_CONV_RELU, text, convolution(random)).operators == ["FusedConv"] * 2


def test_a_weight_that_the_caller_gives(apply, random):
    text = graph(RELU, inputs=", float[4, 4, 3, 3] w, float[4] b")
    fused(apply(FUSE_CONV_RELU, text, feeds=convolution(random)))


def test_a_chain_of_blocks(apply, random):
    text = graph("c = Conv{a}(x, w, b) r = Relu(c) d = Conv{a}(r, w, b) s = Add(r, d) y = Relu(s)")
    applied = apply(FUSE_CONV_RELU, text, convolution(random))
    assert applied.operators == ["FusedConv"] * 2
    assert applied.outcome.changes == 2


@pytest.mark.parametrize(
    ("z", "result", "shapes"),
    [
        ("1, 4, 7, 5", SHAPE, "[n,4,7,5] and [1,4,7,5]"),
        ("n, 4, 1, 1", SHAPE, "[n,4,7,5] and [n,4,1,1]"),
        ("4, 1, 1", SHAPE, "[n,4,7,5] and [4,1,1]"),
        ("m, 4, 7, 5", "k, 4, 7, 5", "[n,4,7,5] and [m,4,7,5]"),
        ("2, n, 4, 7, 5", "2, n, 4, 7, 5", "[n,4,7,5] and [2,n,4,7,5]"),
    ],
)
def test_a_residual_that_may_be_broadcast(apply, random, z, result, shapes):
    text = graph(ADDED, inputs=f", float[{z}] z", result=result)
    unchanged(apply(FUSE_CONV_RELU, text, convolution(random)), f"the shapes {shapes} of the sum may differ")


def test_sizes_without_names_are_not_known_to_be_equal(parsed, random):
    model = ir.from_proto(parsed(graph(ADDED, inputs=INPUT), convolution(random)))
    values = [*model.graph.inputs, *(node.outputs[0] for node in model.graph)]
    for value in values:
        value.shape = ir.Shape([None, 4, 7, 5])
    outcome = FUSE_CONV_RELU.run(model)
    assert outcome.changes == 0
    assert [refusal.reason for refusal in outcome.refusals] == [
        "the shapes [None,4,7,5] and [None,4,7,5] of the sum may differ"
    ]


def test_a_result_that_is_enlarged_by_the_residual(apply, random):
    text = graph(ADDED, "", inputs=INPUT).replace(f"[{SHAPE}] x", "[n, 4, 3, 3] x")
    unchanged(
        apply(FUSE_CONV_RELU, text, convolution(random)),
        "the shapes [n,4,1,1] and [n,4,7,5] of the sum may differ",
    )


@pytest.mark.parametrize(
    ("attributes", "plane"),
    [
        ("<pads=[1, 1, 0, 1]>", "6, 5"),
        ("<pads=[1, 0, 1, 2]>", "7, 5"),
        ('<auto_pad="SAME_UPPER">', "7, 5"),
        ('<auto_pad="SAME_LOWER">', "7, 5"),
    ],
)
@pytest.mark.parametrize("residual", [False, True])
def test_padding_that_differs_between_two_sides(apply, random, residual, attributes, plane):
    result = f"n, 4, {plane}"
    nodes, inputs = (ADDED, f", float[{result}] z") if residual else (RELU, "")
    text = graph(nodes, attributes, inputs=inputs, result=result)
    unchanged(apply(FUSE_CONV_RELU, text, convolution(random)), "the padding may differ between two sides")


@pytest.mark.parametrize(("dtype", "kind"), [("float16", "float16"), ("float64", "double")])
def test_other_dtypes(apply, random, dtype, kind):
    applied = apply(
        FUSE_CONV_RELU, graph(RELU, kind=kind), convolution(random, dtype=dtype), engines=("reference",)
    )
    unchanged(applied, f"the CUDA kernel is for float32, not {kind}")


@pytest.mark.parametrize("rank", [1, 3])
def test_other_planes(apply, random, rank):
    shape = "n, 4" + ", 6" * rank
    text = graph(RELU, "", result="n, 4" + ", 4" * rank).replace(SHAPE, shape)
    applied = apply(FUSE_CONV_RELU, text, convolution(random, (4, 4, *[3] * rank)))
    unchanged(applied, f"the plane has {rank} axes, not 2")


def test_a_weight_of_unknown_shape(apply, random):
    text = graph(RELU, inputs=", float[m, 4, 3, 3] w", result="n, k, 7, 5")
    weights = {"b": convolution(random)["b"]}
    feeds = {"w": convolution(random)["w"]}
    unchanged(
        apply(FUSE_CONV_RELU, text, weights, feeds=feeds, engines=()),
        "the shape of the weight is not known",
    )


@pytest.mark.parametrize(
    ("nodes", "outputs"),
    [
        (RELU + " e = Neg(c)", f", float[{SHAPE}] e"),
        (RELU, f", float[{SHAPE}] c"),
        (ADDED + " e = Neg(c)", f", float[{SHAPE}] e"),
        (ADDED, f", float[{SHAPE}] c"),
        (ADDED, f", float[{SHAPE}] s"),
    ],
)
def test_an_inner_value_that_is_needed_elsewhere(apply, random, nodes, outputs):
    inputs = INPUT if "z" in nodes else ""
    unchanged(
        apply(FUSE_CONV_RELU, graph(nodes, inputs=inputs, outputs=outputs), convolution(random)), SHARED
    )


def test_a_convolution_added_to_itself(apply, random):
    text = graph(ADDED.replace("z", "c"))
    applied = apply(FUSE_CONV_RELU, text, convolution(random))
    assert applied.operators == ["Conv", "Add", "Relu"]
    assert set(applied.reasons) == {"the convolution is added to itself"}


@pytest.mark.parametrize(
    "nodes", [f"c = Conv{SAME}(x, w, b) y = {name}(c)" for name in ("Sigmoid", "LeakyRelu", "Neg")]
)
def test_other_activations(apply, random, nodes):
    unchanged(apply(FUSE_CONV_RELU, graph(nodes), convolution(random)))


class Block(nn.Module):
    """Everything that the pass makes: a plain pair, a strided block with a projection, an identity block."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.down = nn.Sequential(nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1))
        self.project = nn.Conv2d(8, 8, 1, 2)
        grouped = nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.same = nn.Sequential(grouped, nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1))
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = self.norm(self.stem(x)).relu()
        x = (self.down(x) + self.project(x)).relu()
        x = (x + self.same(x)).relu()
        return self.head(x.mean((2, 3)))


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    net = Block()
    net.train()(torch.randn(64, 3, 9, 7))
    return net.eval()


@pytest.fixture(scope="module")
def compiled(network):
    return {
        target: nncompile.compile(network, torch.randn(2, 3, 9, 7), target=target)
        for target in ("portable", "cpu", "cuda")
    }


@pytest.fixture
def saved(compiled, tmp_path):
    compiled["cuda"].save(tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


def test_the_cuda_target(compiled, saved):
    assert compiled["cuda"].report.verification.dropped_passes == ()
    (report,) = [step for step in compiled["cuda"].report.passes if step.name == "fuse-conv-relu"]
    assert report.changes == 5
    proto = onnx.load(saved)
    onnx.checker.check_model(proto, full_check=True)
    operators = [(node.domain, node.op_type) for node in proto.graph.node]
    assert operators.count(("com.microsoft", "FusedConv")) == 5
    assert [len(node.input) for node in proto.graph.node if node.op_type == "FusedConv"].count(4) == 2
    assert operators.count(("", "Conv")) == 1
    assert {entry.domain: entry.version for entry in proto.opset_import}["com.microsoft"] == 1


@pytest.mark.parametrize("target", ["portable", "cpu"])
def test_other_targets_do_not_run_it(compiled, target, tmp_path):
    assert "fuse-conv-relu" not in [report.name for report in compiled[target].report.passes]
    compiled[target].save(tmp_path / "net.onnx")
    assert {node.domain for node in onnx.load(tmp_path / "net.onnx").graph.node} <= {"", "nncompile"}


@pytest.mark.parametrize("batch", [0, 1, 7])
def test_its_artifact_answers_on_the_cpu(network, saved, batch):
    x = torch.randn(batch, 3, 9, 7, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = network(x)
    torch.testing.assert_close(nncompile.load(saved, device="cpu").predict(x), expected, rtol=1e-4, atol=1e-5)


def test_selection_by_target():
    assert FUSE_CONV_RELU in passes.selected(CompileOptions(target="cuda"))
    assert FUSE_CONV_RELU not in passes.selected(CompileOptions(target="cpu"))
    named = CompileOptions(target="cuda", passes=("fuse-conv-relu",))
    assert passes.selected(named) == (FUSE_CONV_RELU,)
    disabled = frozenset({"fuse-conv-relu"})
    assert FUSE_CONV_RELU not in passes.selected(CompileOptions(target="cuda", disabled_passes=disabled))
    assert passes.selected(CompileOptions(disabled_passes=disabled)) == passes.selected(CompileOptions())


def test_naming_it_for_another_target():
    with pytest.raises(PassError, match="'fuse-conv-relu' is not for target='portable'") as caught:
        passes.selected(CompileOptions(passes=("fuse-conv-relu",)))
    assert "target='cuda'" in caught.value.remedy
