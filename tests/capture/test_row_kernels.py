"""Convolutions whose kernels are each row's own: as many groups as the batch has rows."""

import pytest
import torch
from torch import nn
from torch.nn import functional

import nncompile
from nncompile.capture import capture, row_kernels
from nncompile.options import CompileOptions

TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}
PLANES = [
    {},
    {"stride": 2, "padding": 1},
    {"stride": (2, 1), "padding": (0, 2), "dilation": (1, 2)},
]
UPSAMPLED = [
    {},
    {"stride": 2, "padding": 1, "output_padding": 1},
    {"stride": (2, 3), "padding": (1, 0), "output_padding": (0, 2), "dilation": (3, 1)},
]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


class RowKernels(nn.Module):
    """Kernels made from a style, one set a row, in `groups` groups of each row's channels."""

    def __init__(self, convolve, kernel, groups=1, **options):
        super().__init__()
        self.convolve, self.kernel, self.groups, self.options = convolve, kernel, groups, options
        self.weights = nn.Linear(5, 4 * 6 // groups * torch.Size(kernel).numel())
        self.bias = nn.Linear(5, 6)

    def forward(self, x, style):
        rows, channels = x.shape[:2]
        transposed = self.convolve is functional.conv_transpose2d
        ends = (channels, 6 // self.groups) if transposed else (6, channels // self.groups)
        weight = self.weights(style).reshape(rows * ends[0], ends[1], *self.kernel)
        y = self.convolve(
            x.reshape(1, rows * channels, *x.shape[2:]),
            weight,
            self.bias(style).reshape(-1),
            groups=rows * self.groups,
            **self.options,
        )
        return y.reshape(rows, 6, *y.shape[2:])


CASES = [
    *[
        (functional.conv2d, (3, 2), groups, options)
        for groups, options in zip((1, 2, 1), PLANES, strict=True)
    ],
    *[
        (functional.conv_transpose2d, (2, 3), groups, options)
        for groups, options in zip((1, 1, 2), UPSAMPLED, strict=True)
    ],
    (functional.conv1d, (3,), 1, {"stride": 2, "padding": 2, "dilation": 2}),
]


@pytest.mark.parametrize(("convolve", "kernel", "groups", "options"), CASES)
def test_each_row_has_its_own_kernels(convolve, kernel, groups, options):
    net = RowKernels(convolve, kernel, groups, **options).eval()
    size = (7, 6)[: len(kernel)]
    model = nncompile.compile(net, (torch.randn(2, 4, *size), torch.randn(2, 5)))
    for batch in (1, 5):
        inputs = torch.randn(batch, 4, *size), torch.randn(batch, 5)
        torch.testing.assert_close(model.predict(*inputs), net(*inputs), **TOLERANCE)
    assert model.rows_independent


@pytest.mark.parametrize("groups", [1, 2])
def test_a_fixed_number_of_groups_stays_a_convolution(groups):
    net = nn.Sequential(nn.Conv2d(4, 6, 3, groups=groups), nn.ConvTranspose2d(6, 4, 2, groups=groups))
    graph = capture(net.eval(), torch.randn(2, 4, 5, 5), None, CompileOptions()).graph
    assert [node.op_type for node in graph.graph] == ["Conv", "ConvTranspose"]
    assert row_kernels.conv2d(torch.zeros(1, 4, 5, 5), net[0].weight, groups=groups) is NotImplemented


def test_a_fixed_batch_stays_a_convolution():
    net = RowKernels(functional.conv2d, (3, 3)).eval()
    example = torch.randn(2, 4, 7, 6), torch.randn(2, 5)
    graph = capture(net, example, None, CompileOptions(dynamic_batch=False)).graph
    assert "Conv" in {node.op_type for node in graph.graph}
