"""Recurrent layers: one operator of ONNX for each layer, whatever the length."""

from __future__ import annotations

import collections

import numpy as np
import pytest
import torch
from running import call
from torch import nn


class Recurrent(nn.Module):
    def __init__(self, kind, **options):
        super().__init__()
        self.cells = kind(5, 6, **options)

    def forward(self, x, state):
        return self.cells(x, state)


def state_of(net, batch):
    cells = net.cells
    shape = (cells.num_layers * (2 if cells.bidirectional else 1), batch, 6)
    one = torch.randn(shape)
    return (one, torch.randn(shape)) if isinstance(cells, nn.LSTM) else one


KINDS = [(nn.RNN, {"nonlinearity": "tanh"}), (nn.RNN, {"nonlinearity": "relu"}), (nn.GRU, {}), (nn.LSTM, {})]
OPTIONS = [  # each pair of values occurs
    (1, True, True, True),
    (1, False, False, False),
    (3, True, False, True),
    (3, False, True, False),
    (3, True, True, False),
    (1, False, True, True),
]


@pytest.mark.parametrize(("kind", "more"), KINDS, ids=["tanh", "relu", "GRU", "LSTM"])
@pytest.mark.parametrize(("layers", "bias", "bidirectional", "batch_first"), OPTIONS)
def test_is_one_operator_for_each_layer(captured, kind, more, layers, bias, bidirectional, batch_first):
    torch.manual_seed(layers)
    options = {"num_layers": layers, "bias": bias, "bidirectional": bidirectional, "batch_first": batch_first}
    net = Recurrent(kind, **options, **more).eval()
    x = torch.randn(4, 7, 5) if batch_first else torch.randn(7, 4, 5)
    state = state_of(net, 4)
    model = captured(net, (x, state), dynamic_batch=False)
    assert collections.Counter(n.op_type for n in model.graph.graph)[kind.__name__] == layers
    with torch.no_grad():
        expected, last = net(x, state)
    got = call(model, x.numpy(), tree(state))
    np.testing.assert_allclose(got[0], expected.numpy(), rtol=1e-5, atol=1e-6)
    for a, b in zip(got[1], last, strict=True):
        np.testing.assert_allclose(a, b.numpy(), rtol=1e-5, atol=1e-6)


def tree(state):
    return tuple(part.numpy() for part in state) if isinstance(state, tuple) else state.numpy()


@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
def test_torch_has_its_own_shapes_back(captured, kind):
    operator = {nn.RNN: "rnn_tanh", nn.GRU: "gru", nn.LSTM: "lstm"}[kind]
    target = getattr(torch.ops.aten, operator).input
    before = dict(target.py_kernels), torch._decomp.decomposition_table.get(target)
    net = Recurrent(kind).eval()
    captured(net, (torch.randn(7, 4, 5), state_of(net, 4)), dynamic_batch=False)
    assert (dict(target.py_kernels), torch._decomp.decomposition_table.get(target)) == before
