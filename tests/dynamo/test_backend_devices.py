"""A graph runs where its inputs are; what is compiled of a graph on a GPU is one for the CPU."""

import pytest
import torch
from torch import fx, nn

import nncompile
from nncompile.dynamo.computing import computing
from nncompile.dynamo.cut import Cut
from nncompile.dynamo.piece import _placed
from nncompile_runtime import DeviceError


@pytest.fixture(scope="module")
def model():
    return nncompile.compile(nn.Linear(4, 3).eval(), torch.randn(2, 4), verify=False)


def test_on_the_host_it_stays_the_same(model):
    assert _placed(model, {"cpu"}) is model


def test_the_gpu_is_had_or_refused(model):
    """`cuda:7` is strict, as in `nncompile.load`: nothing runs on the CPU in its place."""
    with pytest.raises(DeviceError, match="cuda:7"):
        _placed(model, {"cuda:7"})


def test_inputs_on_two_devices(model):
    with pytest.raises(DeviceError, match="on cpu and cuda:0") as caught:
        _placed(model, {"cuda:0", "cpu"})
    assert caught.value.remedy


def test_what_is_compiled_names_no_gpu():
    """As dynamo writes it for a model on a GPU: devices as objects, as strings, in a method's name."""

    def forward(x, weight):
        y = x.cuda() + x.new_ones(3, device="cuda:0") + weight.to(torch.device("cuda", 0))
        return y.cuda(0, non_blocking=True).to("cuda", torch.float64)

    graph = fx.symbolic_trace(forward)
    x, weight, *inner, last, _ = graph.graph.nodes
    part = computing(graph, Cut([last], set(), {x, weight, *inner, last}), [x], {weight: torch.ones(3)}, [])
    (y,) = part(torch.zeros(2, 3))
    assert torch.equal(y, torch.full((2, 3), 2.0, dtype=torch.float64))
