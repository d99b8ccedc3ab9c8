"""Seed 000, 'Define a NN(Neural Network) with PyTorch': `MyNet`, a classifier on a timm backbone.

The seed gives the names of the layers and an ellipsis for every argument. Completed here: the backbone's
last feature map is refined by a 3x3 convolution, pooled to 1x1, refined by a 1x1 convolution and classified
by a 1x1 convolution; `forward` runs the layers in the order in which the seed defines them.
"""

from torch import Tensor, nn

from models._timm import import_timm


class MyNet(nn.Module):
    """Backbone, refinement, global average pooling, refinement, 1x1 classifier."""

    def __init__(
        self, backbone: str = "resnet18", num_classes: int = 10, width: int = 64, in_chans: int = 3
    ) -> None:
        """Create the network with random weights.

        Args:
            backbone: Name of a timm model that can return feature maps (`features_only`).
            num_classes: Number of classes.
            width: Channels of the two refinements.
            in_chans: Channels of the input images.

        Raises:
            ImportError: timm or torchvision is missing; the message holds the command that installs them.
            RuntimeError: timm knows no such backbone, or it returns no feature maps.
        """
        super().__init__()
        timm = import_timm()
        self.backbone = timm.create_model(backbone, features_only=True, pretrained=False, in_chans=in_chans)
        self.state_channels: list[int] = self.backbone.feature_info.channels()
        self.num_classes = num_classes
        self.refinement = nn.Sequential(
            nn.Conv2d(self.state_channels[-1], width, 3, padding=1), nn.ReLU(inplace=True)
        )
        self.gap = nn.AdaptiveAvgPool2d(1)
        self.refinement_h = nn.Sequential(nn.Conv2d(width, width, 1), nn.ReLU(inplace=True))
        self.classifier = nn.Conv2d(width, num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Classify images.

        Args:
            x: Images, shape (N, in_chans, H, W); H and W at least the backbone's largest stride (32 for
                resnet18).

        Returns:
            Logits, shape (N, num_classes).
        """
        x = self.backbone(x)[-1]
        x = self.refinement(x)
        x = self.gap(x)
        x = self.refinement_h(x)
        x = self.classifier(x)
        return x.flatten(1)
