"""MobileNetV2: Sandler, Howard, Zhu, Zhmoginov and Chen, arXiv:1801.04381.

Inverted residuals with linear bottlenecks: the layers of Table 2, width 1. They bear torchvision's names, so
that its weights load.
"""

from torch import Tensor, nn

# Expansion t, channels c, repetitions n, stride s of the first block: the rows of Table 2.
BOTTLENECKS = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
STEM, LAST = 32, 1280


def conv_bn_relu6(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Return a convolution that keeps the size (but for its stride), batch norm and ReLU6."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU6(inplace=True),
    )


class InvertedResidual(nn.Module):
    """Expand, filter each channel, project without an activation (the paper's Table 1)."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        """Create the block; the input is added where width and size stay as they are."""
        super().__init__()
        hidden = inputs * expansion
        self.shortcut = stride == 1 and inputs == outputs
        expand = [conv_bn_relu6(inputs, hidden, 1)] if expansion != 1 else []
        self.conv = nn.Sequential(
            *expand,
            conv_bn_relu6(hidden, hidden, 3, stride, groups=hidden),
            nn.Conv2d(hidden, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, outputs, H / stride, W / stride)."""
        y: Tensor = self.conv(x)
        return x + y if self.shortcut else y


class MobileNetV2(nn.Module):
    """A stem, 17 inverted residuals, and a classifier on the averaged features."""

    def __init__(self, num_classes: int = 1000) -> None:
        """Create the network with He's initialisation."""
        super().__init__()
        layers: list[nn.Module] = [conv_bn_relu6(3, STEM, 3, stride=2)]
        width = STEM
        for expansion, outputs, repetitions, first_stride in BOTTLENECKS:
            for stride in (first_stride, *[1] * (repetitions - 1)):
                layers.append(InvertedResidual(width, outputs, stride, expansion))
                width = outputs
        self.features = nn.Sequential(*layers, conv_bn_relu6(width, LAST, 1))
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(LAST, num_classes))
        for part in self.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.kaiming_normal_(part.weight, mode="fan_out")

    def forward(self, x: Tensor) -> Tensor:
        """Classify images.

        Args:
            x: Images, shape (N, 3, H, W); the paper's are 224x224.

        Returns:
            Logits, shape (N, num_classes).
        """
        logits: Tensor = self.classifier(self.features(x).mean((2, 3)))
        return logits
