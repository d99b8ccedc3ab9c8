"""Which regions are worth their borders: networks that gain and networks that would lose."""

import pytest
import torch
from torch import nn

from models.lenet import LeNet3, LeNet5
from models.mobilenet import MobileNetV2
from models.net import Net
from models.resnet import ResNet18
from models.sequential import Model
from models.squeeze_excite import SEResNet18
from nncompile import passes
from nncompile.capture import capture
from nncompile.options import CompileOptions

TOO_LITTLE = "its region would save less than changing the layout at its borders costs"


def outlined(module, shape):
    torch.manual_seed(0)
    options = CompileOptions()
    captured = capture(module.eval(), torch.randn(2, *shape), None, options)
    return passes.optimize(captured, passes.selected(options)).passes[-1]


@pytest.mark.parametrize(
    ("network", "shape"),
    [
        (LeNet5, (1, 32, 32)),
        (LeNet3, (1, 32, 32)),
        (Net, (1, 28, 28)),
        (Model, (1, 28, 28)),
        (ResNet18, (3, 224, 224)),
        (MobileNetV2, (3, 224, 224)),
        (SEResNet18, (3, 224, 224)),
    ],
)
def test_whole_networks_pay(network, shape):
    report = outlined(network(), shape)
    assert (report.changes, report.refusals) == (1, ())


@pytest.mark.parametrize(
    ("layers", "shape", "worth"),
    [
        ([nn.Conv2d(64, 64, 3, padding=1)], (64, 56, 56), True),  # Winograd
        ([nn.Conv2d(16, 32, 5)], (16, 20, 20), True),
        ([nn.Conv2d(256, 256, 3, padding=1)], (256, 7, 7), True),
        ([nn.Conv2d(256, 256, 3, padding=1)], (256, 6, 6), False),  # memory decides: 36 weights for each 9
        ([nn.Conv2d(520, 520, 3, padding=1)], (520, 8, 8), True),
        ([nn.Conv2d(540, 540, 3, padding=1)], (540, 8, 8), False),  # transformed, 42 MB
        ([nn.Conv2d(64, 64, 3, padding=1, stride=2)], (64, 56, 56), False),
        ([nn.Conv2d(4, 64, 3, padding=1)], (4, 56, 56), False),  # too few channels for its transforms
        ([nn.Conv2d(64, 4, 3, padding=1)], (64, 56, 56), False),
        ([nn.Conv2d(96, 96, 3, padding=1, groups=96)], (96, 28, 28), False),
        ([nn.Conv2d(384, 64, 1)], (384, 14, 14), False),
        ([nn.Conv2d(384, 64, 1), nn.ReLU()], (384, 14, 14), False),  # ONNX Runtime fuses that as well
        ([nn.Conv2d(3, 64, 7, 2, 3), nn.ReLU(), nn.MaxPool2d(3, 2, 1)], (3, 224, 224), True),  # 1 to 4 inside
        ([nn.Conv2d(64, 64, 1), nn.ReLU(), nn.Conv2d(64, 64, 1)], (64, 28, 28), False),  # 1 inside, 2 across
        ([nn.Conv2d(24, 144, 1), nn.ReLU(), nn.Conv2d(144, 24, 1)], (24, 56, 56), True),  # 6 inside, 2 across
    ],
)
def test_what_is_saved_against_what_the_borders_cost(layers, shape, worth):
    report = outlined(nn.Sequential(*layers), shape)
    assert report.changes == int(worth)
    if not worth:
        assert {refusal.reason for refusal in report.refusals} == {TOO_LITTLE}


def test_a_network_of_grouped_convolutions_is_left_alone():
    """Between them stand 1 x 1 convolutions, each of which alone would be a region of two transpositions."""
    block = [nn.Conv2d(32, 64, 1), nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1, groups=4), nn.ReLU()]
    report = outlined(nn.Sequential(*block, nn.Conv2d(64, 32, 1), nn.ReLU()), (32, 28, 28))
    assert report.changes == 0
    assert [refusal.reason for refusal in report.refusals].count(TOO_LITTLE) == 2
