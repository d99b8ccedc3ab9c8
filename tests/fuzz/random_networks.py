"""Random small networks: convolution, pool, norm, activation, padding, residual, concat, linear."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from torch import nn

ACTIVATIONS = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.Sigmoid, nn.Tanh, nn.SiLU, nn.GELU, nn.Hardswish,
    nn.Hardsigmoid, nn.ELU, nn.Softplus, nn.PReLU, nn.Identity, nn.Dropout,
)  # fmt: skip
LARGEST = 64  # channels


@dataclass(frozen=True)
class Shape:
    """Channels, height and width between two layers."""

    channels: int
    height: int
    width: int


class Affine(nn.Module):
    """A constant for each channel: y = x * a, x + a, x - a, a - x or x / a."""

    def __init__(self, kind: str, channels: int) -> None:
        super().__init__()
        self.kind = kind
        self.register_buffer("a", torch.rand(1, channels, 1, 1) + 0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = self.a
        return {"mul": x * a, "add": a + x, "sub": x - a, "rsub": a - x, "div": x / a}[self.kind]


class Residual(nn.Module):
    """x + f(x)."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.inner(x)


class Concat(nn.Module):
    """Two branches beside each other."""

    def __init__(self, left: nn.Module, right: nn.Module) -> None:
        super().__init__()
        self.left, self.right = left, right

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.left(x), self.right(x)], 1)


class SpatialMean(nn.Module):
    """The mean over height and width."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3))


def _live(channels: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels)
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.3, 2)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    return norm


def _conv(draw: Any, shape: Shape) -> tuple[nn.Module, Shape]:
    kernel = draw(st.tuples(*[st.integers(1, 5)] * 2))
    dilation, stride = draw(st.integers(1, 2)), draw(st.integers(1, 3))
    padding = draw(st.tuples(*[st.integers(0, 3)] * 2))
    groups = draw(st.sampled_from([g for g in range(1, shape.channels + 1) if shape.channels % g == 0]))
    channels = groups * draw(st.integers(1, max(1, min(12, LARGEST // groups))))
    mode = draw(st.sampled_from(["zeros", "zeros", "zeros", "replicate"]))
    size = [
        (n + 2 * p - dilation * (k - 1) - 1) // stride + 1
        for n, p, k in zip((shape.height, shape.width), padding, kernel, strict=True)
    ]
    if min(size) < 1:
        return nn.Identity(), shape
    conv = nn.Conv2d(
        shape.channels, channels, kernel, stride, padding, dilation, groups, draw(st.booleans()), mode
    )
    return conv, Shape(channels, *size)


def _pool(draw: Any, shape: Shape) -> tuple[nn.Module, Shape]:
    kernel, stride = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    padding, ceil = draw(st.integers(0, kernel // 2)), draw(st.booleans())
    if draw(st.booleans()):
        pool: nn.Module = nn.MaxPool2d(kernel, stride, padding, ceil_mode=ceil)
    else:
        pool = nn.AvgPool2d(kernel, stride, padding, ceil, count_include_pad=draw(st.booleans()))
    return _measured(pool, shape)


def _pad(draw: Any, shape: Shape) -> tuple[nn.Module, Shape]:
    amounts = draw(st.tuples(*[st.integers(0, 2)] * 4))
    kind = draw(st.sampled_from([nn.ZeroPad2d, nn.ReplicationPad2d, nn.ReflectionPad2d]))
    if kind is nn.ReflectionPad2d and max(amounts) >= min(shape.height, shape.width):
        kind = nn.ZeroPad2d
    return _measured(kind(amounts), shape)


def _measured(layer: nn.Module, shape: Shape) -> tuple[nn.Module, Shape]:
    """The layer with the shape it gives; Identity where it gives none."""
    try:
        made = layer(torch.zeros(1, shape.channels, shape.height, shape.width)).shape
    except RuntimeError:
        return nn.Identity(), shape
    return (layer, Shape(*made[1:])) if min(made) > 0 else (nn.Identity(), shape)


def _layer(draw: Any, shape: Shape, depth: int) -> tuple[nn.Module, Shape]:
    kind = draw(
        st.sampled_from(
            ["conv", "conv", "conv", "pool", "norm", "act", "act", "pad", "affine", "residual", "concat"]
        )
    )
    if kind == "conv":
        return _conv(draw, shape)
    if kind == "pool":
        return _pool(draw, shape)
    if kind == "pad":
        return _pad(draw, shape)
    if kind == "norm":
        return _live(shape.channels), shape
    if kind == "affine":
        return Affine(draw(st.sampled_from(["mul", "add", "sub", "rsub", "div"])), shape.channels), shape
    if kind == "residual" and depth < 2:
        kernel = draw(st.sampled_from([1, 3]))
        conv = nn.Conv2d(shape.channels, shape.channels, kernel, padding=kernel // 2)
        return Residual(
            nn.Sequential(conv, _live(shape.channels), draw(st.sampled_from(ACTIVATIONS))())
        ), shape
    if kind == "concat" and depth < 2 and shape.channels <= LARGEST // 2:
        branch = nn.Conv2d(shape.channels, draw(st.integers(1, 8)), 1)
        return Concat(branch, draw(st.sampled_from(ACTIVATIONS))()), Shape(
            branch.out_channels + shape.channels, shape.height, shape.width
        )
    return draw(st.sampled_from(ACTIVATIONS))(), shape


@st.composite
def networks(draw: Any) -> tuple[nn.Module, tuple[int, int, int]]:
    """A network in evaluation mode, and the shape of one of its inputs."""
    torch.manual_seed(draw(st.integers(0, 2**16)))
    start = Shape(draw(st.integers(1, 9)), draw(st.integers(1, 12)), draw(st.integers(1, 12)))
    shape, layers = start, []
    for _ in range(draw(st.integers(1, 7))):
        layer, shape = _layer(draw, shape, 0)
        layers.append(layer)
    tail = draw(st.sampled_from(["none", "mean", "linear", "two linear"]))
    if tail == "mean":
        layers.append(draw(st.sampled_from([SpatialMean, lambda: nn.AdaptiveAvgPool2d(1)]))())
    elif tail != "none":
        features = shape.channels * shape.height * shape.width
        layers += [nn.Flatten(), nn.Linear(features, 7)]
        if tail == "two linear":
            layers += [draw(st.sampled_from(ACTIVATIONS))(), nn.Linear(7, draw(st.integers(1, 12)))]
    return nn.Sequential(*layers).eval(), (start.channels, start.height, start.width)
