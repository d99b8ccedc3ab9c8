"""Seed 000, 'Define a NN(Neural Network) with PyTorch': the convolutional `Net` for 28x28 digits."""

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn


class Net(nn.Module):
    """Two 3x3 convolutions, one max pooling and two linear layers, as the seed writes them.

    The seed's second `Dropout2d` works on a matrix (N, 128), where it drops single numbers as `Dropout`
    would. PyTorch warns there that a later release may refuse it; the layer is kept because it is the
    seed's.
    """

    def __init__(self) -> None:
        """Create the layers with PyTorch's default initialisation."""
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, 3, 1)
        self.conv2 = nn.Conv2d(32, 64, 3, 1)
        self.dropout1 = nn.Dropout2d(0.25)
        self.dropout2 = nn.Dropout2d(0.5)
        self.fc1 = nn.Linear(9216, 128)
        self.fc2 = nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Classify grey images.

        Args:
            x: Images, shape (N, 1, 28, 28).

        Returns:
            Log-probabilities of the ten digits, shape (N, 10).
        """
        x = self.conv1(x)
        x = F.relu(x)

        x = self.conv2(x)
        x = F.relu(x)

        x = F.max_pool2d(x, 2)
        x = self.dropout1(x)
        x = torch.flatten(x, 1)
        x = self.fc1(x)
        x = F.relu(x)

        x = self.dropout2(x)
        x = self.fc2(x)

        return F.log_softmax(x, dim=1)
