"""`nncompile inspect --graph`, `--module` and `--passes`."""

import json
import sys

import onnx
import pytest

CONV = 36 + 4  # weights and folded bias
HEAD = 144 * 3 + 3


@pytest.fixture
def plain(exported, folder):
    """The file without its manifest."""
    model = onnx.load(exported.model)
    del model.metadata_props[:]
    onnx.save(model, folder / "plain.onnx")
    return folder / "plain.onnx"


def rows(text):
    """Lines of a table by their first word."""
    return {line.split()[0]: line.split()[1:] for line in text.splitlines() if line.strip()}


def test_graph_shows_the_cost_of_every_node(run, exported):
    result = run("inspect", exported.apart, "--graph")
    assert result.code == 0
    found = rows(result.out)
    conv = 2 * (4 * 36) * 9 + 4 * 36
    head = 2 * 3 * 144 + 3
    assert found["conv/Conv"][:3] == ["Conv", "1x4x6x6", f"{conv:,}"]
    assert found["conv/Conv"][-1] == str(CONV)
    assert found["head/Gemm"][:3] == ["Gemm", "1x3", str(head)]
    relu, reshape = 4 * 36, 0
    assert found["4"][:4] == ["nodes,", "batch", "1", f"{conv + relu + reshape + head:,}"]
    assert found["4"][-1] == str(CONV + HEAD)


def test_the_choices_of_the_native_kernels(run, exported):
    told = json.loads(run("inspect", exported.model, "--json").out)["kernels"]
    if not told["active"]:
        assert (told["lanes"], told["layers"]) == (0, [])
        pytest.skip(told["note"])
    (layer,) = told["layers"]
    assert layer.keys() == {"name", "winograd", "cost", "rows"}
    assert layer["winograd"] is (layer["cost"] < 1)
    which = "by Winograd's algorithm" if layer["winograd"] else "not by Winograd's algorithm"
    which += " along the rows" if layer["rows"] else ""
    shown = run("inspect", exported.model).out
    cost = f"with its cost over the definition's: {layer['name']} {layer['cost']:.2f}"
    assert f"  {which}, {cost}" in shown
    assert (f"from {told['lanes']} on" in shown) is (told["lanes"] > 0)


def test_a_region_is_one_row(run, exported):
    """Its operations and parameters are those of its nodes; its bytes, what goes in and out."""
    apart, region = (
        json.loads(run("inspect", file, "--graph", "--json", "-b", 5).out)
        for file in (exported.apart, exported.model)
    )
    (row,) = region["graph"]["nodes"]
    assert (row["operator"], row["contains"]) == (
        "nncompile.FusedRegion",
        ["Conv", "Relu", "Reshape", "Gemm"],
    )
    assert row["shape"] == [5, 3]
    assert row["bytes"] == 4 * (5 * 64 + CONV + HEAD + 5 * 3)
    for total in ("flops", "parameters", "unknown"):
        assert region["graph"]["totals"][total] == apart["graph"]["totals"][total]
    shown = run("inspect", exported.model, "--graph").out
    speed = "native" if region["kernels"]["active"] else "plain"
    assert f"{speed} region: Conv 1, Relu 1, Reshape 1, Gemm 1" in shown
    assert f"fused regions: 1, {speed}: {region['kernels']['note']}" in shown
    assert "fused regions" not in run("inspect", exported.apart).out


def test_graph_at_another_batch_as_json(run, exported):
    one, five = (
        json.loads(run("inspect", exported.apart, "--graph", "--json", "-b", batch).out) for batch in (1, 5)
    )
    assert one["operators"]["Conv"] == 1
    assert five["graph"]["batch"] == 5
    assert five["graph"]["totals"]["flops"] == 5 * one["graph"]["totals"]["flops"]
    assert five["graph"]["totals"]["parameters"] == one["graph"]["totals"]["parameters"] == CONV + HEAD
    assert five["graph"]["nodes"][0] == {
        "name": "conv/Conv",
        "operator": "Conv",
        "shape": [5, 4, 6, 6],
        "flops": 5 * (2 * 4 * 36 * 9 + 4 * 36),
        "bytes": 4 * (5 * 64 + CONV + 5 * 4 * 36),
        "parameters": CONV,
        "contains": [],
    }


def test_graph_of_a_file_from_elsewhere(run, plain):
    result = run("inspect", plain, "--graph")
    assert result.code == 0
    assert "region: Conv 1" in result.out


def test_what_is_not_known_is_a_question_mark(run, folder):
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["": 20]> g (float[n, k] x, float[n, 2] z) => '
        "(float[n, k] y, float[n, 2] v) { y = Relu(x) v = Neg(z) }"
    )
    onnx.save(model, folder / "free.onnx")
    result = run("inspect", "free.onnx", "--graph")
    assert result.code == 0
    (relu,) = [line.split() for line in result.out.splitlines() if " 1x? " in line]
    assert relu == ["Relu", "1x?", "?", "?", "0"]
    assert "2 + ?" in result.out


def test_module_shows_the_graph_before_and_after(run, exported):
    result = run("inspect", exported.model, "--module", "nets.py:Small", "-w", exported.weights)
    assert result.code == 0
    found = rows(result.out[result.out.index("before") :])
    assert found["BatchNormalization"] == ["1", "0"]
    assert found["Conv"] == ["1", "1"]
    assert found["nncompile.FusedRegion"] == ["0", "1"]
    assert found["nodes"][1] == "1"
    assert found["parameters"] == [str(36 + 4 + 4 * 4 + HEAD), str(CONV + HEAD)]
    assert "fired" not in result.out


def test_passes_say_which_rule_fired_where(run, exported):
    result = run("inspect", exported.model, "--module", "nets.py:Small", "-w", exported.weights, "--passes")
    assert result.code == 0
    lines = result.out.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("fold-batch-norm: "))
    assert lines[start + 1].startswith("  1 changes, ")
    assert lines[start + 2].startswith("  fired: ")
    assert lines[start + 2].endswith(" at norm/BatchNormalization")


def test_passes_say_why_a_rule_did_not_fire(run, folder):
    (folder / "shared.py").write_text(
        "from torch import nn\n"
        "class Shared(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.conv, self.norm = nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)\n"
        "    def forward(self, x):\n"
        "        y = self.conv(x)\n"
        "        return self.norm(y) + y\n"
    )
    assert run("export", "shared.py:Shared", "-s", "2x1x8x8", "-o", "shared.onnx").code == 0
    arguments = ("inspect", "shared.onnx", "--module", "shared.py:Shared", "--passes")
    shown = run(*arguments)
    assert shown.code == 0
    lines = shown.out.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("fold-batch-norm: "))
    assert lines[start + 1] == "  no change"
    assert lines[start + 2].startswith("  near miss: FoldBatchNormIntoConv at norm/BatchNormalization: ")
    assert lines[start + 2].endswith("is used elsewhere or is a graph output")
    steps = {step["name"]: step for step in json.loads(run(*arguments, "--json").out)["passes"]}
    step = steps["fold-batch-norm"]
    assert step["changes"] == 0
    assert step["firings"] == []
    assert step["summary"]
    assert {refusal["node"] for refusal in step["refusals"]} == {"norm/BatchNormalization"}


def test_everything_as_json(run, exported):
    arguments = ("--graph", "--module", "nets.py:Small", "-w", exported.weights, "--passes", "--json")
    found = json.loads(run("inspect", exported.model, *arguments).out)
    assert found["after"]["totals"] == found["graph"]["totals"]
    assert found["before"]["operators"]["BatchNormalization"] == 1
    assert found["before"]["totals"]["flops"] > found["after"]["totals"]["flops"]
    assert [step["name"] for step in found["passes"]] == [s["name"] for s in found["manifest"]["passes"]]
    assert [step["changes"] for step in found["passes"]] == [
        s["changes"] for s in found["manifest"]["passes"]
    ]
    for step in found["passes"]:
        assert len(step["firings"]) == step["changes"], step["name"]
        assert all(firing["rule"] and firing["node"] for firing in step["firings"])
    assert found["passes"][-1]["nodes_after"] == found["after"]["totals"]["nodes"]


def test_only_the_passes_that_made_the_file(run, folder):
    run("export", "nets.py:Small", "-s", "2x1x8x8", "-o", "less.onnx", "--disable-pass", "fold-batch-norm")
    found = json.loads(run("inspect", "less.onnx", "--module", "nets.py:Small", "--passes", "--json").out)
    assert "fold-batch-norm" not in {step["name"] for step in found["passes"]}


def test_several_inputs_and_a_fixed_batch(run, folder):
    shapes = ("-s", "left:2x3", "-s", "right:2x3")
    assert run("export", "nets.py:Pair", *shapes, "-o", "pair.onnx", "--static").code == 0
    found = json.loads(run("inspect", "pair.onnx", "--module", "nets.py:Pair", "--json").out)
    assert found["before"]["totals"]["flops"] == found["after"]["totals"]["flops"] == 12


def test_free_dimensions_beside_the_batch(run, folder):
    """Captured with sizes of their own, they are not taken for the batch; what they cost is not known."""
    (folder / "cross.py").write_text(
        "from torch import nn\n"
        "class Cross(nn.Module):\n"
        "    def forward(self, left, right):\n"
        "        return left @ right.mT\n"
    )
    assert run("export", "cross.py:Cross", "-s", "2x3", "-s", "5x3", "-o", "cross.onnx").code == 0
    found = json.loads(run("inspect", "cross.onnx", "--module", "cross.py:Cross", "--graph", "--json").out)
    assert [spec["shape"][0] for spec in found["inputs"]] == ["batch", "dim_1"]
    assert found["graph"]["nodes"][-1]["shape"] == [1, None]
    assert found["before"]["totals"]["unknown"] == found["after"]["totals"]["unknown"] > 0


def test_a_file_from_elsewhere_with_its_module(run, plain, exported):
    result = run("inspect", plain, "--module", "nets.py:Small", "-w", exported.weights, "--passes")
    assert result.code == 0
    assert "fold-batch-norm" in result.out


@pytest.mark.parametrize("option", [("--passes",), ("-w", "small.pt"), ("--arg", "out=3")])
def test_options_that_need_the_module(run, exported, option):
    result = run("inspect", exported.model, *option)
    assert result.code == 2
    assert "without --module" in result.err


@pytest.mark.parametrize("option", ["--graph", "--profile"])
def test_without_the_compiler_installed(run, exported, monkeypatch, option):
    for reader in ("nncompile.costs", "nncompile.bench.profile"):
        monkeypatch.delitem(sys.modules, reader, raising=False)
    monkeypatch.setitem(sys.modules, "onnx_ir", None)
    result = run("inspect", exported.model, option)
    assert result.code == 1
    assert "needs onnx_ir, which is not installed" in result.err
    assert "fix: Run: pip install 'nncompile[compile,cpu]'" in result.err
    assert run("inspect", exported.model).code == 0
