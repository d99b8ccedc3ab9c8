"""No rows: the answer that PyTorch gives, or an error; never the other one that ONNX Runtime has."""

import pytest
import torch
from torch import nn

import nncompile


class OfAllRows(nn.Module):
    """The rows, and what a function makes of all of them."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return -x, self.function(x)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.mean(),
        lambda x: x.mean(0),
        lambda x: x.std(),
        lambda x: x.var(0),
        lambda x: x.max(),
        lambda x: x.amax(0),
        lambda x: x.min(0).values,
        lambda x: (x > 0).any(0),
        lambda x: nn.functional.mse_loss(x, x * 0.5),
    ],
)
def test_an_empty_batch_of_which_pytorch_answers_otherwise(function):
    net, x = OfAllRows(function), torch.randn(4, 3)
    model = nncompile.compile(net, x)
    torch.testing.assert_close(model.predict(x), net(x), rtol=1e-5, atol=1e-5)
    with pytest.raises(nncompile.InputError, match="batch is empty, and output 'output_1' is of all rows"):
        model.predict(x[:0])


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.sum(),
        lambda x: x.prod(0),
        lambda x: x.norm(),
        lambda x: x.logsumexp(0),
        lambda x: x.mean(1),
        lambda x: x - x.mean(0),
        lambda x: torch.cat([x, x.amax(1, keepdim=True).expand(-1, 3)]),
    ],
)
def test_an_empty_batch_of_which_pytorch_answers_the_same(function):
    net, x = OfAllRows(function), torch.randn(4, 3)
    model = nncompile.compile(net, x)
    for rows in (x, x[:0]):
        torch.testing.assert_close(model.predict(rows), net(rows), rtol=1e-5, atol=1e-5)


class ByRow(nn.Module):
    """What a function makes of the rows alone."""

    def __init__(self, function):
        super().__init__()
        self.function, self.recurrent = function, nn.GRU(3, 2, batch_first=True)

    def forward(self, x):
        return self.function(self, x)


@pytest.mark.parametrize(
    "function",
    [
        lambda net, x: x @ x.T,
        lambda net, x: (x, x.T),
        lambda net, x: (x[:, None] * x).flatten(1),  # 3 * batch columns
        lambda net, x: torch.cat([x @ x.T, x], 1),  # batch + 3
        lambda net, x: (x.repeat(2, 1), x),
        lambda net, x: net.recurrent(x.unflatten(1, (1, 3))),  # its state has the batch in dimension 1
        lambda net, x: x[:, :0] @ x[:, :0].T,
    ],
)
def test_the_batch_in_other_dimensions(function):
    net, x = ByRow(function), torch.randn(4, 3)
    model = nncompile.compile(net, x)
    for rows in (x, x[:1], x[:0]):
        torch.testing.assert_close(model.predict(rows), net(rows), rtol=1e-5, atol=1e-5)
