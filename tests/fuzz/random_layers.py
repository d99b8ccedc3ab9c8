"""Random layers for planes of one, two or three axes: each kind with every argument that it takes.

A maker gets hypothesis's `draw` and the shape of one sample, (channels, *plane), and gives a module; whether
the module takes such a sample is found by trying it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from hypothesis import strategies as st
from torch import nn

Shape = tuple[int, ...]
Draw = Callable[[Any], Any]
Maker = Callable[[Draw, Shape], nn.Module]

LARGEST = 6000  # elements of a sample, so that a network stays quick to run in float64
MODES = ("zeros", "zeros", "zeros", "replicate", "reflect", "circular")


class Apply(nn.Module):
    """A function as a layer."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x)


class Affine(nn.Module):
    """A constant on one side of an operator: one value, one a channel, one a place, or one an element."""

    def __init__(self, kind: str, shape: Shape) -> None:
        super().__init__()
        self.kind = kind
        self.register_buffer("a", torch.rand(shape) + 0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = self.a
        return {
            "mul": x * a, "add": a + x, "sub": x - a, "rsub": a - x, "div": x / a, "rdiv": a / (x.abs() + 1)
        }[self.kind]  # fmt: skip


def measured(layer: nn.Module, shape: Shape) -> Shape | None:
    """The shape that a layer gives; None where it does not take the shape, or gives nothing or too much."""
    try:
        with torch.no_grad():
            made = tuple(layer.eval()(torch.zeros(1, *shape)).shape)[1:]
    except (RuntimeError, ValueError):
        return None
    return made if made and 0 < torch.Size(made).numel() <= LARGEST else None


def of_rank(name: str, shape: Shape) -> Any:
    """The class of torch.nn for this many axes of the plane: "Conv" to `nn.Conv2d`."""
    return getattr(nn, f"{name}{len(shape) - 1}d")


def each_axis(draw: Draw, shape: Shape, numbers: Any) -> tuple[int, ...]:
    return tuple(draw(numbers) for _ in shape[1:])


def _groups(draw: Draw, *channels: int) -> int:
    return draw(st.sampled_from([g for g in range(1, min(channels) + 1) if not any(c % g for c in channels)]))


def live(norm: nn.Module, draw: Draw) -> nn.Module:
    """A norm with statistics and weights of a trained network; some channels may be dead or constant."""
    for name, part in norm.state_dict().items():
        if name.endswith("running_var"):
            part.uniform_(0.3, 2)
        elif part.is_floating_point():
            part.normal_()
    edge = draw(st.sampled_from(["none"] * 6 + ["weight", "running_var"]))
    if getattr(norm, edge, None) is not None:
        getattr(norm, edge).data[:1] = 0
    return norm


def convolution(draw: Draw, shape: Shape) -> nn.Module:
    groups = _groups(draw, shape[0])
    out = groups * draw(st.integers(1, max(1, 12 // groups)))
    stride = each_axis(draw, shape, st.sampled_from([1, 1, 2, 3]))
    mode = draw(st.sampled_from(MODES))
    pointwise, same = draw(st.sampled_from([True, False, False])), max(stride) == 1 and draw(st.booleans())
    kernel = each_axis(draw, shape, st.integers(1, 1 if pointwise else 5))
    padding = "same" if same else each_axis(draw, shape, st.integers(0, 3))
    dilation = each_axis(draw, shape, st.integers(1, 2))
    conv = of_rank("Conv", shape)(
        shape[0], out, kernel, stride, padding, dilation, groups, draw(st.booleans()), mode
    )
    return _perhaps_dead(draw, conv)


def transposed(draw: Draw, shape: Shape) -> nn.Module:
    groups = _groups(draw, shape[0])
    out = groups * draw(st.integers(1, max(1, 8 // groups)))
    kernel, stride = (each_axis(draw, shape, st.integers(1, 3)) for _ in range(2))
    padding, dilation = each_axis(draw, shape, st.integers(0, 2)), each_axis(draw, shape, st.integers(1, 2))
    # PyTorch allows more where the dilation is larger; ONNX Runtime refuses it, so that compile raises.
    more = tuple(draw(st.integers(0, size - 1)) for size in stride)
    conv = of_rank("ConvTranspose", shape)(
        shape[0], out, kernel, stride, padding, more, groups, draw(st.booleans()), dilation
    )
    return _perhaps_dead(draw, conv)


def _perhaps_dead(draw: Draw, conv: Any) -> nn.Module:
    """Sometimes one channel that was pruned to zero."""
    if draw(st.integers(0, 7)) == 7:
        conv.weight.data[:1] = 0
    return conv


def pool(draw: Draw, shape: Shape) -> nn.Module:
    kernel, stride = (each_axis(draw, shape, st.integers(1, 3)) for _ in range(2))
    padding, ceil = tuple(draw(st.integers(0, size // 2)) for size in kernel), draw(st.booleans())
    adaptive = ["AdaptiveAvg", "AdaptiveMax"] if len(shape) < 4 else []  # in three axes slow to capture
    kind = draw(st.sampled_from(["Max", "Max", "Avg", "Avg", "LP", *adaptive]))
    if kind == "Max":
        dilation = each_axis(draw, shape, st.sampled_from([1, 1, 2]))
        if max(dilation) > 1:  # a window may lie in the padding alone: -inf, where ONNX Runtime has -3e38
            padding = 0
        return of_rank("MaxPool", shape)(kernel, stride, padding, dilation, ceil_mode=ceil)
    if kind == "Avg":
        return of_rank("AvgPool", shape)(kernel, stride, padding, ceil, draw(st.booleans()))
    if kind == "LP":
        return of_rank("LPPool", shape)(2, kernel[0], stride[0], ceil)
    return of_rank(f"{kind}Pool", shape)(tuple(draw(st.integers(1, min(3, size))) for size in shape[1:]))


def norm(draw: Draw, shape: Shape) -> nn.Module:
    affine, kind = draw(st.booleans()), draw(st.sampled_from(["batch"] * 5 + ["instance", "group", "layer"]))
    if kind == "batch":
        return live(
            of_rank("BatchNorm", shape)(shape[0], affine=draw(st.sampled_from([True, True, False]))), draw
        )
    if kind == "instance":
        made = of_rank("InstanceNorm", shape)(
            shape[0], affine=affine, track_running_stats=draw(st.booleans())
        )
        return live(made, draw)
    if kind == "group":
        return live(nn.GroupNorm(_groups(draw, shape[0]), shape[0], affine=affine), draw)
    return nn.LayerNorm(shape[draw(st.integers(0, len(shape) - 1)) :], elementwise_affine=affine)


ACTIVATIONS: tuple[Callable[[Shape], nn.Module], ...] = (
    *[lambda _: nn.ReLU()] * 8,
    *(
        lambda _, kind=kind: kind()
        for kind in (
            nn.ReLU6, nn.LeakyReLU, nn.Sigmoid, nn.Tanh, nn.SiLU, nn.GELU, nn.Hardswish, nn.Hardsigmoid,
            nn.ELU, nn.Softplus, nn.Mish, nn.SELU, nn.Softsign, nn.LogSigmoid, nn.Tanhshrink, nn.Dropout,
            nn.Identity,
        )
    ),
    lambda shape: nn.PReLU(shape[0]),
    lambda _: nn.PReLU(),
    lambda _: nn.Hardtanh(0, 1),
    lambda _: nn.Softmax(1),
    lambda _: nn.LogSoftmax(1),
    lambda _: Apply(lambda x: x.clamp(min=0)),
    lambda _: Apply(lambda x: x.clamp(-1, 0.5)),
    lambda _: Apply(lambda x: x.softmax(1).log()),
    lambda _: Apply(lambda x: torch.maximum(x, torch.zeros(1))),
    lambda _: Apply(torch.abs),
    lambda _: Apply(torch.neg),
)  # fmt: skip


def activation(draw: Draw, shape: Shape) -> nn.Module:
    return draw(st.sampled_from(ACTIVATIONS))(shape)


def padding(draw: Draw, shape: Shape) -> nn.Module:
    kind = draw(st.sampled_from(["Constant", "Constant", "Zero", "Replication", "Reflection", "Circular"]))
    lowest = -1 if kind in ("Constant", "Zero") else 0
    amounts = tuple(draw(st.integers(lowest, 2)) for _ in range(2 * len(shape) - 2))
    value = [draw(st.sampled_from([0.0, 0.0, 0.5, -1.0]))] if kind == "Constant" else []
    return of_rank(f"{kind}Pad", shape)(amounts, *value)


def affine(draw: Draw, shape: Shape) -> nn.Module:
    kind = draw(st.sampled_from(["mul", "add", "sub", "rsub", "div", "rdiv"]))
    flat = (1,) * (len(shape) - 1)
    sizes = [(1,), (shape[0], *flat), (1, shape[0], *flat), (1, 1, *shape[1:]), (1, *shape), ()]
    return Affine(kind, draw(st.sampled_from(sizes)))


def attended(x: torch.Tensor) -> torch.Tensor:
    """Each place asks all places."""
    places = x.flatten(2).transpose(1, 2)
    answer = nn.functional.scaled_dot_product_attention(places, places, places)
    return answer.transpose(1, 2).unflatten(2, x.shape[2:])


def by_own_kernels(x: torch.Tensor) -> torch.Tensor:
    """Depthwise kernels that each row makes of itself, in as many groups as there are rows and channels."""
    if x.dim() > 4:
        return x
    convolve = nn.functional.conv1d if x.dim() == 3 else nn.functional.conv2d
    kernels = x.flatten(2).mean(2).reshape(-1, *[1] * (x.dim() - 1)) * torch.arange(1, 4)
    rows = x.reshape(1, -1, *x.shape[2:])
    padding = (0,) * (x.dim() - 3) + (1,)
    return convolve(rows, kernels, padding=padding, groups=x.shape[0] * x.shape[1]).reshape(x.shape)


FUNCTIONS: tuple[Callable[[torch.Tensor], torch.Tensor], ...] = (
    lambda x: x * 2,
    lambda x: x.transpose(2, -1),
    lambda x: x[:, ::2],
    lambda x: x[..., 1:],
    lambda x: x.flip(1),
    lambda x: x.repeat(1, 2, *[1] * (x.dim() - 2)),
    lambda x: nn.functional.interpolate(x, scale_factor=2.0),
    lambda x: nn.functional.pixel_shuffle(x, 2),
    lambda x: nn.functional.normalize(x + 1, dim=1),
    lambda x: x.flatten(2).unflatten(2, x.shape[2:]),
    lambda x: x + x,
    lambda x: x.mean(tuple(range(2, x.dim())), keepdim=True),
    attended,
    by_own_kernels,
)


def function(draw: Draw, shape: Shape) -> nn.Module:
    del shape
    return Apply(draw(st.sampled_from(FUNCTIONS)))


MAKERS: dict[str, Maker] = {
    "convolution": convolution,
    "transposed": transposed,
    "pool": pool,
    "norm": norm,
    "activation": activation,
    "padding": padding,
    "affine": affine,
    "function": function,
}
