"""The reference: a module in float64."""

import torch
from torch import nn

from nncompile.verify.eager import in_float64


class Tied(nn.Module):
    """One weight under two names, one without a gradient, a buffer, and a weight of integers."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.first.bias.requires_grad_(False)
        self.shift = nn.Buffer(torch.full((4,), 0.1))
        self.steps = nn.Parameter(torch.tensor([3]), requires_grad=False)
        self.memory = nn.LSTM(4, 4)

    def forward(self, x):
        self.seen = self.first.weight
        return self.memory(self.second(self.first(x)) * self.steps + self.shift)[0]


def test_every_float_in_float64_and_the_module_as_it_was(signature):
    torch.manual_seed(0)
    module = Tied().eval()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    x = torch.randn(3, 4)
    double, (answer,) = in_float64(module, signature({"x": "float32 n 4"}, {"y": "float32 n 4"}), (x,))
    assert answer.dtype == "f8"
    assert {name: value.dtype for name, value in module.state_dict().items()} == {
        name: value.dtype for name, value in before.items()
    }
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(answer), module(x).double(), rtol=0, atol=1e-5)
        want = module.double()(x.double())
    torch.testing.assert_close(torch.from_numpy(answer), want, rtol=0, atol=0)
    module.first.weight.data.zero_()
    assert (double((x.double(),))[0] == answer).all()
