"""ResNet-18: He, Zhang, Ren and Sun, 'Deep Residual Learning for Image Recognition', arXiv:1512.03385.

The 18-layer network of the paper's Table 1, with projections where the shape changes (its option B). The
layers bear torchvision's names, so that its weights load.
"""

from torch import Tensor, nn

WIDTHS = (64, 128, 256, 512)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around which the input is added (the paper's Figure 2)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        """Create the block; with another width or stride the input is projected."""
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def residual(self, x: Tensor) -> Tensor:
        """Compute what is added to the shortcut."""
        x = self.relu(self.bn1(self.conv1(x)))
        residual: Tensor = self.bn2(self.conv2(x))
        return residual

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, outputs, H / stride, W / stride)."""
        shortcut = x if self.downsample is None else self.downsample(x)
        y: Tensor = self.relu(self.residual(x) + shortcut)
        return y


class ResNet18(nn.Module):
    """A stem, four stages of two blocks, and a classifier on the averaged features."""

    block: type[BasicBlock] = BasicBlock

    def __init__(self, num_classes: int = 1000) -> None:
        """Create the network with He's initialisation (arXiv:1502.01852)."""
        super().__init__()
        self.conv1 = nn.Conv2d(3, WIDTHS[0], 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(WIDTHS[0])
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = self._stage(WIDTHS[0], WIDTHS[0], 1)
        self.layer2 = self._stage(WIDTHS[0], WIDTHS[1], 2)
        self.layer3 = self._stage(WIDTHS[1], WIDTHS[2], 2)
        self.layer4 = self._stage(WIDTHS[2], WIDTHS[3], 2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(WIDTHS[3], num_classes)
        for part in self.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")

    def _stage(self, inputs: int, outputs: int, stride: int) -> nn.Sequential:
        return nn.Sequential(self.block(inputs, outputs, stride), self.block(outputs, outputs, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Classify images.

        Args:
            x: Images, shape (N, 3, H, W); the paper's are 224x224.

        Returns:
            Logits, shape (N, num_classes).
        """
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        logits: Tensor = self.fc(self.avgpool(x).flatten(1))
        return logits
