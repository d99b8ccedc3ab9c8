"""The reference: a module in float64."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from nncompile.verify import suite
from nncompile.verify.eager import ChannelsLast, Eager, in_float64


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


class Convolved(TorchDispatchMode):
    """Notes of each convolution whether its images have their channels last, as the kernel gets them."""

    def __init__(self):
        super().__init__()
        self.last = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.convolution.default:
            self.last.append(args[0].dim() == 4 and args[0].stride(1) == 1)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("layer", "shape", "dtype", "last"),
    [
        (nn.Conv2d(8, 6, 3), (2, 8, 9, 9), torch.float16, True),
        (nn.ConvTranspose2d(8, 6, 3, stride=2), (2, 8, 9, 9), torch.float16, True),
        (nn.Conv2d(8, 8, 3, groups=8), (2, 8, 9, 9), torch.float16, False),
        (nn.Conv1d(8, 6, 3), (2, 8, 9), torch.float16, False),
        (nn.Conv2d(8, 6, 3), (2, 8, 9, 9), torch.float32, False),
        (nn.Conv2d(8, 6, 3), (2, 8, 9, 9), torch.bfloat16, False),
    ],
)
def test_dense_convolutions_of_float16_compute_with_channels_last(layer, shape, dtype, last):
    torch.manual_seed(0)
    layer, x = layer.to(dtype), torch.randn(shape).to(dtype)
    kernel = Convolved()
    with torch.no_grad():
        want = layer(x)
        with kernel, ChannelsLast():
            got = layer(x)
    assert kernel.last == [last]
    assert (got.stride(), x.is_contiguous()) == (want.stride(), True)
    torch.testing.assert_close(got, want, rtol=0, atol=2e-3 if last else 0)


def test_images_that_a_module_lays_out_itself_stay_so():
    layer = nn.Conv2d(8, 6, 3).half()
    x = torch.randn(2, 8, 9, 9).half().to(memory_format=torch.channels_last)
    with torch.no_grad():
        want = layer(x)
        with ChannelsLast():
            got = layer(x)
    assert got.stride() == want.stride()
    assert torch.equal(got, want)


@pytest.mark.parametrize("precision", ["float32", "float16", "bfloat16", "tf32"])
def test_verification_takes_them_so_in_float16_alone(signature, monkeypatch, precision):
    modes = []
    monkeypatch.setattr(suite, "Eager", lambda *args: modes.append(args[2]) or Eager(*args))
    ports = {"x": "float32 n 4"}, {"y": "float32 n 4"}
    suite.Suite(nn.Identity(), signature(*ports), (torch.ones(2, 4),), precision=precision)
    assert [mode is ChannelsLast for mode in modes] == [precision == "float16"]
