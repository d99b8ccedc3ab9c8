"""What the fuzz test calls a finding: a pass that is dropped, and one whose damage a later pass hides.

A network that PyTorch itself refuses is none, and must not be made.
"""

import onnx_ir as ir
import pytest
import test_fuzz
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_networks import Made, Network, _linears
from test_fuzz import check
from torch import nn

from nncompile import passes
from nncompile.passes.contract import Outcome, Pass


@pytest.fixture
def made():
    torch.manual_seed(0)
    return Made(Network([nn.Conv2d(3, 4, 3), nn.ReLU()], frozenset(), None).eval(), ((3, 5, 6),))


def times(factor):
    def run(model: ir.Model) -> Outcome:
        (weight,) = [value for value in model.graph.initializers.values() if len(value.shape) == 4]
        weight.const_value = ir.tensor(weight.const_value.numpy() * factor)
        return Outcome(1)

    return Pass(f"times-{factor}", "is broken on purpose", run)


def raises(_: ir.Model) -> Outcome:
    raise ZeroDivisionError


def test_a_sound_pipeline(made):
    assert check(made) == {"fuse-conv-relu"}


def test_linear_layers_are_fused_as_on_a_gpu():
    layers = [nn.Flatten(), nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2)]
    assert "fuse-linear-relu" in check(Made(Network(layers, frozenset(), None).eval(), ((2, 3),)))


@pytest.mark.parametrize("broken", [times(2), Pass("raises", "is broken on purpose", raises)])
def test_a_dropped_pass(made, broken, monkeypatch):
    monkeypatch.setattr(passes, "PIPELINE", (*passes.PIPELINE, broken))
    with pytest.raises(AssertionError, match=broken.name):
        check(made)


def test_a_pass_whose_damage_another_repairs(made, monkeypatch):
    monkeypatch.setattr(passes, "PIPELINE", (*passes.PIPELINE, times(2), times(0.5)))
    with pytest.raises(AssertionError, match="after times-2"):
        check(made)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.data())
def test_linear_layers_on_every_place_take_what_they_are_given(data):
    width, places = data.draw(st.integers(1, 9)), (7,)
    y = nn.Sequential(*_linears(data.draw, width, places)).eval()(torch.zeros(2, *places, width))
    assert y.shape[:-1] == (2, *places)


def test_a_finding_is_repeated_when_the_time_is_up(made, monkeypatch):
    """Hypothesis runs it again to shrink it; passing then, it would be called flaky."""

    def fails(_):
        raise ZeroDivisionError

    for name, value in {"STOP": 0.0, "findings": [], "check": fails, "note": str, "event": str}.items():
        monkeypatch.setattr(test_fuzz, name, value)
    run = test_fuzz.test_a_random_network.hypothesis.inner_test
    run(made)
    monkeypatch.setattr(test_fuzz, "STOP", float("inf"))
    with pytest.raises(ZeroDivisionError):
        run(made)
    monkeypatch.setattr(test_fuzz, "STOP", 0.0)
    with pytest.raises(ZeroDivisionError):
        run(made)
