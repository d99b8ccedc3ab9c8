"""The time of every node that ONNX Runtime executes, with what it computes and moves."""

import tempfile

import numpy as np
import onnx
import pytest

from nncompile.bench.profile import _middle_mean, profile
from nncompile.costs import graph_cost
from nncompile_runtime import NncompileError, container
from nncompile_runtime.kernels import installed_library
from nncompile_runtime.predictor import Predictor

QUICK = {"seconds": 0.02, "warmup": 0.01}


def profiled(path, batch, **changes):
    model = container.read(path)
    predictor = Predictor(model, device="cpu")
    plan = predictor.plan.model_copy(update=changes)
    return profile(model, plan, predictor.signature, batch, **QUICK)


def written(path, text):
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 20]> {text}')
    onnx.save(model, path)
    return path


def test_a_native_region_is_one_node_with_the_cost_of_its_layers(lenet):
    if installed_library().path is None:
        pytest.skip(installed_library().note)
    found = profiled(lenet.path, 8, threads=1)
    (node,) = found.nodes
    import onnx_ir as ir

    (expected,) = graph_cost(ir.load(lenet.path), 8).nodes
    assert (node.cost.flops, node.cost.bytes, node.cost.contains) == (
        expected.flops,
        expected.bytes,
        expected.contains,
    )
    assert 0 < node.microseconds <= found.microseconds
    assert (found.batch, found.threads) == (8, 1)
    assert found.kernels.startswith("nncompile-kernels")


def test_without_native_kernels_every_layer_is_a_node(lenet):
    found = profiled(lenet.path, 8, native=False, blocked_layout=False)
    operators = [node.cost.operator.rpartition(".")[2] for node in found.nodes]
    assert operators.count("FusedConv") == 2
    assert operators.count("MaxPool") == 2
    assert sum("Gemm" in operator for operator in operators) == 3
    convolutions = [node.cost.flops for node in found.nodes if "Conv" in node.cost.operator]
    assert convolutions == [8 * (2 * 4704 * 25 + 4704), 8 * (2 * 1600 * 150 + 1600)]
    assert all(node.cost.bytes for node in found.nodes)
    assert found.between == pytest.approx(
        max(0.0, found.microseconds - sum(node.microseconds for node in found.nodes))
    )
    assert "native=False" in found.kernels
    assert found.runs >= 5


def test_blocked_layouts_are_counted_too(lenet):
    nodes = profiled(lenet.path, 8, native=False).nodes
    assert all(node.cost.flops is not None for node in nodes)
    assert all(node.cost.bytes for node in nodes)


def test_the_body_of_a_branch_counts_once(tmp_path):
    path = written(
        tmp_path / "branch.onnx",
        "g (float[64, 64] x, bool c) => (float[64, 64] y) { "
        "z = If (c) <then_branch = t () => (float[64, 64] a) { a = MatMul(x, x) }, "
        "else_branch = e () => (float[64, 64] b) { b = Neg(x) }> y = Exp(z) }",
    )
    found = profiled(path, 1)
    assert [node.cost.operator for node in found.nodes] == ["If", "Exp"]


def test_nodes_without_names(tmp_path):
    path = written(
        tmp_path / "unnamed.onnx", "g (float[n, 8] x) => (float[n, 8] y) { a = Exp(x) y = Sin(a) }"
    )
    assert not any(node.name for node in onnx.load(path).graph.node)
    found = profiled(path, 16)
    assert [(node.cost.operator, node.cost.flops, node.cost.bytes) for node in found.nodes] == [
        ("Exp", 128, 1024),
        ("Sin", 128, 1024),
    ]


def test_nothing_is_left_in_the_temporary_folder(lenet, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    profiled(lenet.path, 1)
    assert list(tmp_path.iterdir()) == []


def test_a_free_dimension_that_is_not_the_batch(tmp_path):
    path = written(tmp_path / "free.onnx", "g (float[n, k] x) => (float[n, k] y) { y = Exp(x) }")
    with pytest.raises(NncompileError, match="'k' may have any size"):
        profiled(path, 1)


def test_the_middle_half_is_deaf_to_what_interrupts():
    assert _middle_mean([1, 2, 2, 3, 3, 2, 1000, 0]) == np.mean([2, 2, 2, 3])
    assert _middle_mean([7]) == 7.0
