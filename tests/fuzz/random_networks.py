"""Random small networks: chains of layers with skips, parallel convolutions, several outputs, two inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from hypothesis import strategies as st
from random_layers import (
    ACTIVATIONS,
    MAKERS,
    Apply,
    Draw,
    Shape,
    activation,
    each_axis,
    live,
    measured,
    of_rank,
)
from torch import nn

KINDS = (
    *["block"] * 6,
    *["activation"] * 3,
    "convolution",
    "transposed",
    "pool",
    "norm",
    "padding",
    "affine",
    "function",
)
BRANCHED = ("skip", "parallel", "concat", "gate", "again")
BLOCK = ("norm", "padding", "convolution", "norm", "affine", "activation", "pool", "pool")  # or a part of it
DEEPEST = 2


class Merge(nn.Module):
    """Branches on one input, their results merged."""

    def __init__(self, kind: str, branches: list[nn.Module]) -> None:
        super().__init__()
        self.kind, self.branches = kind, nn.ModuleList(branches)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made = [branch(x) for branch in self.branches]
        if self.kind == "concat":
            return torch.cat(made, 1)
        result = made[0]
        for other in made[1:]:
            result = {"add": result + other, "sub": result - other, "mul": result * other}[self.kind]
        return result


class Network(nn.Module):
    """Layers after one another; with taps, several outputs; with a second input, that is merged into one.

    Attributes:
        layers: In order.
        taps: After which layers the value is an output too.
        second: Before which layer the second input is added; None where there is none.
    """

    def __init__(self, layers: list[nn.Module], taps: frozenset[int], second: int | None) -> None:
        super().__init__()
        self.layers, self.taps, self.second = nn.ModuleList(layers), taps, second

    def forward(self, x: torch.Tensor, other: torch.Tensor | None = None) -> Any:
        outputs = []
        for number, layer in enumerate(self.layers):
            x = layer(x + other if number == self.second and other is not None else x)
            if number in self.taps:
                outputs.append(x)
        return (*outputs, x) if outputs else x


@dataclass(frozen=True)
class Made:
    """A network in evaluation mode, and the shapes of one sample of each of its inputs."""

    network: Network
    shapes: tuple[Shape, ...]

    def inputs(self, batch: int, seed: int = 0) -> tuple[torch.Tensor, ...]:
        """Seeded normal values."""
        random = torch.Generator().manual_seed(seed)
        return tuple(torch.randn(batch, *shape, generator=random) for shape in self.shapes)


def _layer(draw: Draw, shape: Shape, depth: int) -> nn.Module:
    kinds = KINDS + BRANCHED if depth < DEEPEST else KINDS
    kind = draw(st.sampled_from(kinds if len(shape) > 1 else ("activation",)))
    if kind == "again":  # one set of weights in two places
        layer = MAKERS[draw(st.sampled_from(["convolution", "norm"]))](draw, shape)
        return nn.Sequential(layer, nn.ReLU(), layer)
    if kind == "skip":
        branch = nn.Sequential(*_chain(draw, shape, depth + 1)[0])
        result = Merge(draw(st.sampled_from(["add", "add", "sub", "mul"])), [nn.Identity(), branch])
        return result if measured(result, shape) == shape else branch
    if kind == "parallel":
        return _parallel(draw, shape)
    if kind == "concat":
        branches = [nn.Sequential(*_chain(draw, shape, depth + 1)[0]) for _ in range(draw(st.integers(1, 2)))]
        return Merge("concat", [nn.Identity(), *branches])
    if kind == "gate":
        return _gate(draw, shape)
    if kind == "block":
        parts = [part for part in BLOCK if draw(st.booleans())]
        return nn.Sequential(*_fitting(shape, [partial(MAKERS[part], draw) for part in parts])[0])
    return MAKERS[kind](draw, shape)


def _parallel(draw: Draw, shape: Shape) -> nn.Module:
    """Convolutions of one stride whose planes are of one size, each with or without norm (as in RepVGG)."""
    out, stride = draw(st.sampled_from([shape[0], shape[0], 4])), draw(st.sampled_from([1, 1, 2]))
    branches: list[nn.Module] = []
    for _ in range(draw(st.integers(2, 3))):
        kernel = each_axis(draw, shape, st.sampled_from([1, 3, 5]))
        groups = draw(st.sampled_from([g for g in (1, shape[0]) if out % g == 0]))
        pads = tuple(size // 2 for size in kernel)
        conv = of_rank("Conv", shape)(
            shape[0], out, kernel, stride, pads, groups=groups, bias=draw(st.booleans())
        )
        kept = [live(of_rank("BatchNorm", shape)(out), draw)] if draw(st.booleans()) else []
        branches.append(nn.Sequential(conv, *kept))
    if stride == 1 and out == shape[0] and draw(st.booleans()):
        branches.append(live(of_rank("BatchNorm", shape)(out), draw))
    merged = Merge(draw(st.sampled_from(["add", "add", "concat", "sub"])), branches)
    return nn.Sequential(merged, nn.ReLU()) if draw(st.booleans()) else merged


def _gate(draw: Draw, shape: Shape) -> nn.Module:
    """A value for each channel from its mean, times or beside the plane (as in squeeze and excitation)."""
    narrow = draw(st.integers(1, 4))
    conv = of_rank("Conv", shape)
    inner = nn.Sequential(
        of_rank("AdaptiveAvgPool", shape)(1),
        conv(shape[0], narrow, 1),
        draw(st.sampled_from(ACTIVATIONS))((narrow,)),
        conv(narrow, shape[0], 1),
        draw(st.sampled_from([nn.Sigmoid, nn.Hardsigmoid, nn.Identity]))(),
    )
    main = conv(shape[0], shape[0], 1) if draw(st.booleans()) else nn.Identity()
    merged = Merge(draw(st.sampled_from(["mul", "add"])), [main, inner])
    return nn.Sequential(merged, nn.ReLU()) if draw(st.booleans()) else merged


def _chain(draw: Draw, shape: Shape, depth: int = 0) -> tuple[list[nn.Module], Shape]:
    """Random layers after one another, and the shape that the last gives."""
    return _fitting(
        shape, [partial(_layer, draw, depth=depth)] * draw(st.integers(1, 7 if depth == 0 else 3))
    )


def _fitting(shape: Shape, makers: list[Callable[[Shape], nn.Module]]) -> tuple[list[nn.Module], Shape]:
    """The layers that take what the one before gives, and the shape that the last gives."""
    layers: list[nn.Module] = []
    for make in makers:
        layer = make(shape)
        made = measured(layer, shape)
        if made is not None and len(made) == len(shape):
            layers.append(layer)
            shape = made
    return layers or [nn.Identity()], shape


def _linears(draw: Draw, width: int, places: Shape = ()) -> list[nn.Module]:
    """Linear layers, with norms and activations between some of them, on (*places, width)."""
    layers: list[nn.Module] = []
    for _ in range(draw(st.integers(1, 3))):
        out = draw(st.integers(1, 9))
        layers.append(nn.Linear(width, out, bias=draw(st.booleans())))
        between = draw(st.sampled_from(["nothing", "norm", "activation", "dropout"]))
        shape = (*places, out)
        if between == "norm":
            layers.append(live(nn.BatchNorm1d(shape[0]), draw))
        elif between != "nothing":
            layers.append(nn.Dropout() if between == "dropout" else activation(draw, shape))
        width = out
    return layers


def _tail(draw: Draw, shape: Shape) -> list[nn.Module]:
    """What follows the planes: nothing, a mean over them, linear layers, or linear layers on every place."""
    kind, plane = draw(st.sampled_from(["none", "mean", "linear", "tokens"])), tuple(range(2, len(shape) + 1))
    if kind == "mean":
        keep, how = draw(st.booleans()), draw(st.sampled_from(["mean", "pool", "sum"]))
        if how == "pool":
            return [of_rank("AdaptiveAvgPool", shape)(1), nn.Flatten(), *_linears(draw, shape[0])]
        reduced = Apply(lambda x: getattr(x, how)(plane, keepdim=keep))
        return [reduced] if keep else [reduced, *_linears(draw, shape[0])]
    if kind == "linear":
        return [nn.Flatten(), *_linears(draw, torch.Size(shape).numel())]
    if kind == "tokens":
        places = (torch.Size(shape[1:]).numel(),)
        return [Apply(lambda x: x.flatten(2).transpose(1, 2)), *_linears(draw, shape[0], places)]
    return []


@st.composite
def networks(draw: Draw) -> Made:
    """A network in evaluation mode, and what it takes."""
    torch.manual_seed(draw(st.integers(0, 2**16)))
    rank = draw(st.sampled_from([2, 2, 2, 2, 1, 3]))
    widest = {1: 20, 2: 12, 3: 5}[rank]
    shape = (draw(st.integers(1, 9)), *(draw(st.integers(1, widest)) for _ in range(rank)))
    layers, last = _chain(draw, shape)
    body = len(layers)
    layers += _tail(draw, last)
    taps = frozenset(n for n in range(len(layers) - 1) if draw(st.integers(0, 9)) == 9)
    second, shapes = None, (shape,)
    if draw(st.integers(0, 7)) == 7:
        second = draw(st.integers(0, body - 1))
        other = measured(nn.Sequential(*layers[:second]), shape) or shape
        shapes = (shape, draw(st.sampled_from([other, (other[0], *[1] * rank)])))
    return Made(Network(layers, taps, second).eval(), shapes)
