"""Passes that change the answers: found, named, left out; the result is right."""

import dataclasses
import logging

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import nn

import nncompile
from nncompile import compiler, passes
from nncompile.capture import capture
from nncompile.options import CompileOptions
from nncompile.passes.contract import Outcome, Pass
from nncompile_runtime import VerificationError
from nncompile_runtime.kernels import installed_library

REAL = passes.selected(CompileOptions())


@pytest.fixture(scope="module")
def captured():
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Dropout(), nn.Flatten(), nn.Linear(48, 5)
    )
    network.train()(torch.randn(64, 1, 6, 6))  # live running statistics
    return capture(network.eval(), torch.randn(4, 1, 6, 6), None, CompileOptions())


@pytest.fixture
def compile_with(captured, monkeypatch, caplog):
    """`compile_with(*pipeline)`: compile the network with other passes; it is captured once only."""
    caplog.set_level(logging.INFO, "nncompile")

    def run(*pipeline, graph=None, **options):
        graph = captured.graph if graph is None else graph
        monkeypatch.setattr(passes, "PIPELINE", pipeline)
        monkeypatch.setattr(compiler, "capture", lambda *_: dataclasses.replace(captured, graph=graph))
        return nncompile.compile(captured.module, None, **options)

    return run


@pytest.fixture
def is_right(captured):
    def check(model):
        x = torch.randn(3, 1, 6, 6)
        for batch in (x[:1], x):
            with torch.no_grad():
                torch.testing.assert_close(model.predict(batch), captured.module(batch), rtol=1e-4, atol=1e-5)

    return check


def scale_a_weight(model):
    """The first weight of more than one dimension that a node reads, times 1.5."""
    for value in model.graph.initializers.values():
        array = value.const_value.numpy()
        if value.uses() and array.ndim > 1 and array.dtype.kind == "f":
            value.const_value = ir.tensor((array * 1.5).astype(array.dtype), name=value.name)
            return Outcome(1)
    return Outcome(0)


def run_another_program(model):
    """A fused region whose body is not what it stood for."""
    for function in model.functions.values():
        for node in function:
            if node.op_type == "Relu":
                node.op_type = "Sigmoid"
                return Outcome(1)
    return Outcome(0)


def append(model, operator, *others):
    """Put `operator(output, ...)` in front of the graph's output."""
    (old,) = model.graph.outputs
    node = ir.node(operator, [old, *others])
    node.outputs[0].name, old.name = old.name, f"{old.name}_before_{node.op_type}"
    node.outputs[0].type, node.outputs[0].shape = old.type, old.shape
    model.graph.append(node)
    model.graph.outputs[0] = node.outputs[0]
    return Outcome(1)


def weight(model, name, value):
    found = ir.Value(name=name, const_value=ir.tensor(np.asarray(value), name=name))
    found.shape, found.type = ir.Shape(found.const_value.shape), ir.TensorType(found.const_value.dtype)
    model.graph.register_initializer(found)
    return found


def shift_the_output(model):
    return append(model, "Add", weight(model, "shift", np.float32(0.1)))


def break_batch_one(model):
    rows = ir.node("Shape", model.graph.inputs, {"start": 0, "end": 1})
    alone = ir.node("Equal", [rows.outputs[0], weight(model, "one_row", np.array([1]))])
    factors = weight(model, "wrong", np.float32(1.5)), weight(model, "right", np.float32(1))
    factor = ir.node("Where", [alone.outputs[0], *factors])
    model.graph.extend([rows, alone, factor])
    for node in (rows, alone, factor):
        node.outputs[0].name = f"{node.op_type}_of_batch_one"
    return append(model, "Mul", factor.outputs[0])


def break_what_others_made(model):
    """Harmless on the exporter's graph, wrong on a folded one."""
    if any(node.op_type == "BatchNormalization" for node in model.graph):
        return append(model, "Identity")
    return shift_the_output(model)


def refuse_to_load(model):
    """Well-formed to ONNX's checker, but a shape that ONNX Runtime cannot have."""
    return append(model, "Expand", weight(model, "negative", np.array([-3, 5])))


def change_silently(model):
    shift_the_output(model)
    return Outcome(0)


def wrong(run):
    return Pass(run.__name__.replace("_", "-"), "wrong on purpose", run)


def named_in_log(caplog):
    return [
        r.args[0] for r in caplog.records if r.levelno == logging.WARNING and "changes the answers" in r.msg
    ]


def test_right_passes_are_kept(compile_with, is_right, caplog):
    model = compile_with(*REAL)
    assert model.report.verification.dropped_passes == ()
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
    is_right(model)


@pytest.mark.parametrize("run", [scale_a_weight, shift_the_output, break_batch_one, refuse_to_load])
@pytest.mark.parametrize("place", [0, len(REAL) // 2, len(REAL)])
def test_one_wrong_pass(compile_with, is_right, caplog, run, place):
    guilty = wrong(run)
    model = compile_with(*REAL[:place], guilty, *REAL[place:])
    assert model.report.verification.dropped_passes == (guilty.name,)
    assert model.report.verification.status == "verified"
    assert [report.name for report in model.report.passes] == [step.name for step in REAL]
    assert named_in_log(caplog) == [guilty.name]
    assert f"DROPPED PASS {guilty.name}" in str(model.report)
    is_right(model)


@pytest.mark.parametrize("places", [(0, 0), (0, len(REAL)), (2, 4), (len(REAL), len(REAL))])
def test_two_wrong_passes(compile_with, is_right, caplog, places):
    first, second = wrong(scale_a_weight), wrong(break_batch_one)
    pipeline = [*REAL]
    pipeline.insert(places[1], second)
    pipeline.insert(places[0], first)
    model = compile_with(*pipeline)
    assert set(model.report.verification.dropped_passes) == {first.name, second.name}
    assert sorted(named_in_log(caplog)) == sorted([first.name, second.name])
    is_right(model)


def test_a_wrong_function(compile_with, is_right, caplog):
    model = compile_with(*REAL, wrong(run_another_program))
    assert model.report.verification.dropped_passes == ("run-another-program",)
    assert named_in_log(caplog) == ["run-another-program"]
    is_right(model)


@pytest.mark.skipif(installed_library().path is None, reason=installed_library().note)
def test_a_wrong_program(compile_with, is_right, caplog):
    """The function is right, so only the native kernels give other answers."""

    def sigmoid_for_relu(model):
        program = model.graph.node(0).attributes["program"].as_ints()
        place = program.index(7, 20)  # the activation behind the convolution
        changed = (*program[: place + 3], 6, *program[place + 4 :])
        model.graph.node(0).attributes.add(ir.AttrInt64s("program", changed))
        return Outcome(1)

    model = compile_with(*REAL, wrong(sigmoid_for_relu))
    assert model.report.verification.dropped_passes == ("sigmoid-for-relu",)
    assert model.native
    is_right(model)


def test_a_wrong_outline(compile_with, is_right):
    """The pass that made the region is dropped, and with it the region."""

    def outline_wrongly(model):
        outcome = REAL[-1].run(model)
        run_another_program(model)
        return outcome

    assert REAL[-1].name == "outline-fused-regions"
    model = compile_with(*REAL[:-1], wrong(outline_wrongly))
    assert model.report.verification.dropped_passes == ("outline-wrongly",)
    assert "FusedRegion" not in model._file.facts.operators
    is_right(model)


def test_two_errors_that_cancel_are_right(compile_with, is_right):
    def shift_back(model):
        return append(model, "Sub", weight(model, "back", np.float32(0.1)))

    model = compile_with(wrong(shift_the_output), *REAL, wrong(shift_back))
    assert model.report.verification.dropped_passes == ()
    is_right(model)


def test_a_pass_that_is_wrong_after_another_only(compile_with, is_right):
    model = compile_with(*REAL, wrong(break_what_others_made))
    assert model.report.verification.dropped_passes == ("break-what-others-made",)
    is_right(model)


def test_a_pass_that_hides_its_change(compile_with, is_right):
    model = compile_with(*REAL[:3], wrong(change_silently), *REAL[3:])
    assert model.report.verification.dropped_passes == ("change-silently",)
    is_right(model)


def test_a_pass_that_raises_beside_one_that_is_wrong(compile_with, is_right, caplog):
    def fail(model):
        raise KeyError("missing")

    model = compile_with(wrong(fail), *REAL, wrong(shift_the_output))
    assert set(model.report.verification.dropped_passes) == {"fail", "shift-the-output"}
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert any("'fail' failed: KeyError: 'missing'" in text for text in warnings)
    assert any("'shift-the-output' changes the answers" in text for text in warnings)
    is_right(model)


def test_a_pass_that_raises_only_where_another_is_left_out(compile_with, is_right):
    def lean_on_the_shift(model):
        return Outcome(int(model.graph.initializers["shift"] is None))

    model = compile_with(wrong(shift_the_output), wrong(lean_on_the_shift), *REAL)
    assert set(model.report.verification.dropped_passes) == {"shift-the-output", "lean-on-the-shift"}
    is_right(model)


def test_a_wrong_pass_without_verification(compile_with, captured):
    model = compile_with(*REAL, wrong(shift_the_output), verify=False)
    assert model.report.verification.status == "skipped"
    assert model.report.verification.dropped_passes == ()
    assert "NOT VERIFIED" in str(model.report)
    assert model.manifest.verification.status == "skipped"


@pytest.mark.parametrize("pipeline", [(), REAL])
def test_a_graph_that_is_wrong_without_any_pass(compile_with, captured, pipeline):
    graph = captured.graph.clone()
    scale_a_weight(graph)
    with pytest.raises(VerificationError, match="The graph is wrong with no pass at all") as caught:
        compile_with(*pipeline, graph=graph)
    assert "differs from eager PyTorch by" in caught.value.problem
    assert "exporter" in caught.value.remedy
