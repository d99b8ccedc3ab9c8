"""Blocks of networks of others, each of which the exporter writes in nodes of its own: one region each."""

import pytest
import torch
from torch import nn
from torch.nn import functional

import nncompile


class Shuffle(nn.Module):
    """ShuffleNetV2: half of the channels through a branch, then both shuffled."""

    def __init__(self):
        super().__init__()
        self.branch = nn.Sequential(conv(16, 16), conv(16, 16, 3, groups=16), conv(16, 16))

    def forward(self, x):
        for _ in range(2):
            kept, changed = x.chunk(2, 1)
            x = torch.cat([kept, self.branch(changed)], 1)
            n, c, h, w = x.shape
            x = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        return x


class Scales(nn.Module):
    """Res2Net: each part of a split also goes through the next part's convolution."""

    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList(conv(8, 8, 3) for _ in range(3))

    def forward(self, x):
        first, *parts = x.split(8, 1)
        made = [first]
        for part, layer in zip(parts, self.convs, strict=True):
            made.append(layer(part + made[-1] if len(made) > 1 else part))
        return torch.cat(made, 1) + x


class Dense(nn.Module):
    """DenseNet: batch norm and ReLU before the convolution, behind a Concat."""

    def __init__(self):
        super().__init__()
        self.norms = nn.ModuleList(nn.BatchNorm2d(n) for n in (32, 44, 56))
        self.convs = nn.ModuleList(nn.Conv2d(n, 12, 3, padding=1, bias=False) for n in (32, 44, 56))

    def forward(self, x):
        for norm, layer in zip(self.norms, self.convs, strict=True):
            x = torch.cat([x, layer(norm(x).relu())], 1)
        return x


class Ghost(nn.Module):
    """GhostNet: a shortcut added in place to a slice of everything."""

    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList([conv(32, 16, 3), conv(16, 16, 3, groups=16)])
        self.last = conv(32, 32)

    def forward(self, x):
        made = self.convs[0](x)
        y = torch.cat([made, self.convs[1](made)], 1)[:, :32, :, :]
        y += x
        return self.last(y)


class Standardised(nn.Module):
    """NFNet: weights that are normalised each time, an activation with a gain."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(72, 72, 9).view(72, 72, 3, 3))
        self.first = nn.Conv2d(32, 72, 1)

    def forward(self, x):
        flat = self.weight.view(1, 72, -1)
        weight = functional.batch_norm(flat, None, None, training=True, momentum=0.0).view_as(self.weight)
        return functional.conv2d(functional.gelu(self.first(x)) * 1.7, weight / 44, stride=2, padding=1)


def conv(inputs, outputs, kernel=1, **more):
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False, **more),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


def chain(*layers):
    return lambda: nn.Sequential(nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), *layers)


BLOCKS = {
    "shuffle": Shuffle,
    "scales": Scales,
    "dense": Dense,
    "ghost": Ghost,
    "standardised": Standardised,
    "groups": chain(nn.Conv2d(32, 48, 3, groups=8), nn.GELU(), nn.Conv2d(48, 32, 1)),
    "dilated": chain(nn.Conv2d(32, 24, 3, padding=4, dilation=4), nn.ReLU(), nn.Conv2d(24, 32, 1)),
    "multiplier": chain(nn.Conv2d(32, 64, 7, 2, 3, groups=32), nn.GELU(), nn.Conv2d(64, 32, 1)),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_a_block_is_one_region(name):
    torch.manual_seed(0)
    module = BLOCKS[name]().eval()
    with torch.no_grad():
        for norm in module.modules():
            if isinstance(norm, nn.BatchNorm2d):
                norm.running_mean.normal_()
                norm.running_var.uniform_(0.5, 2)
    model = nncompile.compile(module, torch.randn(1, 32, 20, 18))
    outline = model.report.passes[-1]
    assert (outline.changes, outline.refusals, outline.nodes_after) == (1, (), 1)
    assert model.report.verification.dropped_passes == ()
    x = torch.randn(3, 32, 20, 18)
    with torch.no_grad():
        torch.testing.assert_close(model(x), module(x.clone()), rtol=1e-4, atol=1e-4)
