"""Every network of the seed documents (000 to 004) in one table: how to build, feed and train it.

The seed documents are five pages on networks in PyTorch, with which this project began: `Seed 000` and so on
in the files beside this one.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, nll_loss

from models.lenet import LeNet3, LeNet5
from models.mlp import NeuralNetwork, NeuralNetworkProbabilities
from models.mobilenet import MobileNetV2
from models.mynet import MyNet
from models.net import Net
from models.resnet import ResNet18
from models.sequential import MLP, Model, named_sequential, sequential

Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Recipe:
    """How an image classifier is trained on the digits.

    Attributes:
        loss: Loss of the network's output (N, 10) against labels (N,).
        epochs: Default number of passes over the training images.
    """

    loss: Loss
    epochs: int


@dataclass(frozen=True, slots=True)
class Entry:
    """One network.

    Attributes:
        factory: Builds the network, with random weights; a lazy layer is left as the seed leaves it.
        input_shape: Shape of one input, without the batch.
        recipe: How to train it on the digits, or None for a network that is no digit classifier.
        note: For a network without a recipe: why, and what to do instead.
    """

    factory: Callable[[], nn.Module]
    input_shape: tuple[int, ...]
    recipe: Recipe | None = None
    note: str = ""

    @property
    def trainable(self) -> bool:
        """Whether the network is an image classifier that can be trained on the digits."""
        return self.recipe is not None

    def build(self) -> nn.Module:
        """Build the network and give its lazy layers, if any, their weights.

        Raises:
            ImportError: The network needs a package that is missing; the message says which.
        """
        module = self.factory()
        if any(nn.parameter.is_lazy(parameter) for parameter in module.parameters()):
            with torch.no_grad():
                module(torch.zeros(1, *self.input_shape))
        return module


_MAPS = "it returns feature maps, not digits"

ZOO: Mapping[str, Entry] = MappingProxyType(
    {
        "net": Entry(Net, (1, 28, 28), Recipe(nll_loss, epochs=15)),
        "mynet": Entry(MyNet, (3, 64, 64), Recipe(cross_entropy, epochs=6)),
        "lenet3": Entry(LeNet3, (1, 32, 32), Recipe(cross_entropy, epochs=40)),
        "lenet5": Entry(LeNet5, (1, 32, 32), Recipe(cross_entropy, epochs=40)),
        "model": Entry(Model, (1, 28, 28), note=_MAPS),
        "sequential": Entry(sequential, (1, 28, 28), note=_MAPS),
        "named-sequential": Entry(named_sequential, (1, 28, 28), note=_MAPS),
        "lazy-mlp": Entry(lambda: MLP((100, 10)), (784,), note="it reads vectors, not images"),
        "mlp": Entry(NeuralNetwork, (1, 28, 28), Recipe(cross_entropy, epochs=40)),
        "mlp-probabilities": Entry(
            NeuralNetworkProbabilities, (1, 28, 28), note="it is mlp with a softmax and loads mlp's weights"
        ),
    }
)

_IMAGES = (3, 224, 224)

# Beyond the seed documents: what benchmarks of inference commonly measure.
LARGER: Mapping[str, Entry] = MappingProxyType(
    {
        "resnet18": Entry(ResNet18, _IMAGES, note="it reads large images"),
        "mobilenetv2": Entry(MobileNetV2, _IMAGES, note="it reads large images"),
    }
)


def trainable_names() -> list[str]:
    """Return the names of the digit classifiers, in the order of the table."""
    return [name for name, entry in ZOO.items() if entry.trainable]


def trainable_entry(name: str) -> tuple[Entry, Recipe]:
    """Look up a network to train.

    Raises:
        ValueError: No network has this name, or it is no digit classifier; the message lists those that are.
    """
    choices = ", ".join(trainable_names())
    entry = ZOO.get(name)
    if entry is None:
        raise ValueError(f"no network is called {name!r}: choose one of {choices}")
    if entry.recipe is None:
        raise ValueError(f"{name} cannot be trained on digits, because {entry.note}: choose one of {choices}")
    return entry, entry.recipe
