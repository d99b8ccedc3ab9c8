"""SE-ResNet-18: Hu, Shen, Albanie, Sun and Wu, 'Squeeze-and-Excitation Networks', arXiv:1709.01507.

A ResNet whose blocks weigh their channels before the shortcut is added (the paper's Figure 3).
"""

import torch
from torch import Tensor, nn

from models.resnet import BasicBlock, ResNet18

REDUCTION = 16


class SqueezeExcite(nn.Module):
    """Squeeze each channel to its mean, excite by two linear layers, scale (equations 2 to 4)."""

    def __init__(self, channels: int, reduction: int = REDUCTION) -> None:
        """Create the two layers with `channels // reduction` features in between."""
        super().__init__()
        self.fc1 = nn.Linear(channels, channels // reduction)
        self.fc2 = nn.Linear(channels // reduction, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Scale the channels of (N, channels, H, W)."""
        scale = torch.sigmoid(self.fc2(torch.relu(self.fc1(x.mean((2, 3))))))
        return x * scale[:, :, None, None]


class SEBasicBlock(BasicBlock):
    """A basic block with squeeze and excitation at the end of its residual."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        """Create the block."""
        super().__init__(inputs, outputs, stride)
        self.se = SqueezeExcite(outputs)

    def residual(self, x: Tensor) -> Tensor:
        """Compute what is added to the shortcut."""
        scaled: Tensor = self.se(super().residual(x))
        return scaled


class SEResNet18(ResNet18):
    """ResNet-18 of squeeze-excite blocks."""

    block = SEBasicBlock
