"""Seed 002, 'TORCH.NN', and seed 003, 'BUILD THE NEURAL NETWORK': the 784-512-512-10 `NeuralNetwork`.

Seed 003 indents `forward` into `__init__`, where it is never called; it stands beside it here, as in
seed 002.
"""

from torch import Tensor, nn


class NeuralNetwork(nn.Module):
    """Flatten and three linear layers with ReLU between them."""

    def __init__(self) -> None:
        """Create the layers with PyTorch's default initialisation."""
        super().__init__()
        self.flatten = nn.Flatten()
        self.linear_relu_stack = nn.Sequential(
            nn.Linear(28 * 28, 512),
            nn.ReLU(),
            nn.Linear(512, 512),
            nn.ReLU(),
            nn.Linear(512, 10),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Classify grey images.

        Args:
            x: Images, shape (N, 28, 28) as in seed 003, or (N, 1, 28, 28).

        Returns:
            Logits of the ten digits, shape (N, 10).
        """
        x = self.flatten(x)
        logits: Tensor = self.linear_relu_stack(x)
        return logits


class NeuralNetworkProbabilities(NeuralNetwork):
    """`NeuralNetwork` followed by seed 003's `nn.Softmax(dim=1)`; it loads the weights of either."""

    def __init__(self) -> None:
        """Create the layers with PyTorch's default initialisation."""
        super().__init__()
        self.softmax = nn.Softmax(dim=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the probabilities of the ten digits, shape (N, 10), for images as `NeuralNetwork` takes."""
        probabilities: Tensor = self.softmax(super().forward(x))
        return probabilities
