"""Fold without Col2Im, for a GPU."""

import onnx
import pytest
import torch
from torch import nn
from torch.nn import functional

import nncompile
from nncompile.capture import folds

EXACT = {"rtol": 1e-6, "atol": 1e-6}
FOLDS = [
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": 2, "stride": 2},  # side by side
    {"kernel_size": (3, 2), "stride": (2, 1), "dilation": (1, 3), "padding": (2, 0)},
    {"kernel_size": 1, "stride": 3, "padding": 4},  # some in the padding alone
]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("window", FOLDS)
@pytest.mark.parametrize("batch", [(2,), ()])
def test_fold(window, batch):
    unfolded = functional.unfold(torch.zeros(1, 3, 6, 8), **window).shape[1:]
    x = torch.randn(*batch, *unfolded)
    options = [
        [window.get(name, default)] * 2 if isinstance(window.get(name, default), int) else window[name]
        for name, default in (("kernel_size", 1), ("dilation", 1), ("padding", 0), ("stride", 1))
    ]
    torch.testing.assert_close(folds.fold(x, (6, 8), *options), functional.fold(x, (6, 8), **window), **EXACT)


@pytest.mark.parametrize("window", FOLDS)
def test_fold_for_a_gpu(window):
    """Without Col2Im, which has no kernel there; an infinite element changes its own place alone."""
    net = nn.Fold((6, 8), **window)
    x = torch.randn(3, *functional.unfold(torch.zeros(1, 3, 6, 8), **window).shape[1:])
    model = nncompile.compile(net, x[:2], target="cuda")
    assert "Col2Im" not in {node.op_type for node in onnx.load_from_string(model.artifact).graph.node}
    x[0, 0, 0], x[1, -1, -1] = torch.inf, torch.nan
    torch.testing.assert_close(model.predict(x), net(x), equal_nan=True, **EXACT)
    plain = nncompile.compile(net, x[2:])
    assert "Col2Im" in {node.op_type for node in onnx.load_from_string(plain.artifact).graph.node}
