"""The LeNets: seed 001, 'Neural Network' (`LeNet3`), and seed 004, 'Neural Networks' (`LeNet5`).

Both seeds call their network `Net`, and the two differ in the kernel size alone, so the forward pass is
written once.
"""

import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn


class _LeNet(nn.Module):
    """The layers and the forward pass that the two seeds share."""

    def __init__(self, kernel_size: int, flat_features: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, kernel_size)
        self.conv2 = nn.Conv2d(6, 16, kernel_size)
        self.fc1 = nn.Linear(flat_features, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Classify grey images.

        Args:
            x: Images, shape (N, 1, 32, 32).

        Returns:
            Logits of the ten digits, shape (N, 10).
        """
        x = F.max_pool2d(F.relu(self.conv1(x)), (2, 2))
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = x.view(-1, self.num_flat_features(x))
        x = F.relu(self.fc1(x))
        x = F.relu(self.fc2(x))
        logits: Tensor = self.fc3(x)
        return logits

    def num_flat_features(self, x: Tensor) -> int:
        """Return the product of all dimensions of `x` but the batch."""
        size = x.size()[1:]
        num_features = 1
        for s in size:
            num_features *= s
        return num_features


class LeNet3(_LeNet):
    """Seed 001: 3x3 kernels; 32 -> 30 -> 15 -> 13 -> 6, so that `fc1` reads 16 * 6 * 6 features."""

    def __init__(self) -> None:
        """Create the layers with PyTorch's default initialisation."""
        super().__init__(kernel_size=3, flat_features=16 * 6 * 6)


class LeNet5(_LeNet):
    """Seed 004: 5x5 kernels; 32 -> 28 -> 14 -> 10 -> 5, so that `fc1` reads 16 * 5 * 5 features."""

    def __init__(self) -> None:
        """Create the layers with PyTorch's default initialisation."""
        super().__init__(kernel_size=5, flat_features=16 * 5 * 5)
