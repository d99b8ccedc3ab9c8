"""Seed 002, 'TORCH.NN': `Model`, the two `nn.Sequential` forms, and the `MLP` of lazily sized layers."""

from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

Activation = Callable[[Tensor], Tensor]

ACTIVATIONS: dict[str, Activation] = {
    "elu": F.elu,
    "gelu": F.gelu,
    "leaky_relu": F.leaky_relu,
    "relu": F.relu,
    "sigmoid": torch.sigmoid,
    "silu": F.silu,
    "softplus": F.softplus,
    "tanh": torch.tanh,
}


class Model(nn.Module):
    """Two 5x5 convolutions of 20 channels, each followed by ReLU."""

    def __init__(self) -> None:
        """Create the layers with PyTorch's default initialisation."""
        super().__init__()
        self.conv1 = nn.Conv2d(1, 20, 5)
        self.conv2 = nn.Conv2d(20, 20, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Return feature maps of shape (N, 20, H - 8, W - 8) for images of shape (N, 1, H, W)."""
        x = F.relu(self.conv1(x))
        return F.relu(self.conv2(x))


def sequential() -> nn.Sequential:
    """Return the seed's plain `nn.Sequential`: (N, 1, H, W) -> (N, 64, H - 8, W - 8)."""
    return nn.Sequential(nn.Conv2d(1, 20, 5), nn.ReLU(), nn.Conv2d(20, 64, 5), nn.ReLU())


def named_sequential() -> nn.Sequential:
    """Return the same network as `sequential`, its layers named by an `OrderedDict`."""
    return nn.Sequential(
        OrderedDict(
            [
                ("conv1", nn.Conv2d(1, 20, 5)),
                ("relu1", nn.ReLU()),
                ("conv2", nn.Conv2d(20, 64, 5)),
                ("relu2", nn.ReLU()),
            ]
        )
    )


class MLP(nn.Module):
    """Linear layers that learn their input size from the first batch, an activation between them.

    The seed writes this network for DeZero. Translated: DeZero's lazy `Linear` is `nn.LazyLinear`, and
    `setattr` beside a list is an `nn.ModuleList`, because PyTorch registers no module that sits in a plain
    list. Corrected: the default activation `F.sigmold` is `sigmoid`, and the loop `for i in ...: l(x)`
    calls the layer that it iterates over and feeds each layer the output of the one before.
    """

    def __init__(self, fc_output_sizes: Sequence[int], activation: str | Activation = "sigmoid") -> None:
        """Create the layers; their weights exist after the first forward pass.

        Args:
            fc_output_sizes: Output size of each layer, at least one.
            activation: A function of a tensor, a module such as `nn.PReLU()`, or a name in `ACTIVATIONS`.

        Raises:
            ValueError: No size is given, or the activation is none of these.
        """
        super().__init__()
        if not fc_output_sizes:
            raise ValueError("MLP needs at least one output size, for example MLP((100, 10))")
        self.activation = _resolve(activation)
        self.layers = nn.ModuleList(nn.LazyLinear(size) for size in fc_output_sizes)

    def forward(self, x: Tensor) -> Tensor:
        """Return outputs of shape (N, fc_output_sizes[-1]) for inputs of shape (N, features)."""
        *hidden, last = self.layers
        for layer in hidden:
            x = self.activation(layer(x))
        output: Tensor = last(x)
        return output


def _resolve(activation: str | Activation) -> Activation:
    if isinstance(activation, str) and activation in ACTIVATIONS:
        return ACTIVATIONS[activation]
    if callable(activation) and not isinstance(activation, type):
        return activation
    names = ", ".join(ACTIVATIONS)
    raise ValueError(
        f"unknown activation {activation!r}: give a function, a module instance, or one of {names}"
    )
