"""Which regions are worth their borders: networks that gain and networks that would lose."""

import onnx
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


NETWORKS = {  # with their inputs, and how many nodes become one
    "lenet5": (LeNet5, (1, 32, 32), 12),
    "lenet3": (LeNet3, (1, 32, 32), 12),
    "net": (Net, (1, 28, 28), 10),
    "model": (Model, (1, 28, 28), 4),
    "resnet18": (ResNet18, (3, 224, 224), 49),
    "mobilenetv2": (MobileNetV2, (3, 224, 224), 100),
    "se-resnet18": (SEResNet18, (3, 224, 224), 113),
}


def optimized(module, shape, *, static=False):
    torch.manual_seed(0)
    options = CompileOptions(dynamic_batch=not static)
    captured = capture(module.eval(), torch.randn(2, *shape), None, options)
    return passes.optimize(captured, passes.selected(options))


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_whole_network_is_one_region(name, static):
    factory, shape, nodes = NETWORKS[name]
    found = optimized(factory(), shape, static=static)
    assert (found.passes[-1].changes, found.passes[-1].refusals) == (1, ())
    model = onnx.load_from_string(found.model)
    onnx.checker.check_model(model, full_check=True)
    (region,), (function,) = model.graph.node, model.functions
    assert (region.domain, region.op_type, region.overload) == ("nncompile", "FusedRegion", "r0")
    assert model.ir_version >= 10
    assert {entry.domain: entry.version for entry in model.opset_import}["nncompile"] == 1
    assert len([node for node in function.node if node.op_type != "Constant"]) == nodes
    assert sorted(function.attribute) == sorted(a.name for a in region.attribute)
    assert sorted(region.input) == sorted(
        [model.graph.input[0].name, *(weight.name for weight in model.graph.initializer)]
    )


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
        ([nn.Conv2d(96, 21, 1), nn.Upsample(scale_factor=8, mode="bilinear")], (96, 28, 28), True),
        ([nn.ConvTranspose2d(64, 64, 4, 2, 1)], (64, 16, 16), True),  # 4 columns for each element
        ([nn.ConvTranspose2d(64, 32, 2, 2)], (64, 32, 32), False),  # 1
        ([nn.ConvTranspose2d(64, 3, 4, 2, 1), nn.Tanh()], (64, 32, 32), False),  # much to enter
        ([nn.ConvTranspose2d(32, 32, 1, 2)], (32, 16, 16), False),
        ([nn.ConvTranspose2d(100, 64, 4)], (100, 1, 1), False),  # as many as leave
        (
            [nn.Conv2d(96, 21, 1), nn.Upsample(scale_factor=8)],
            (96, 28, 28),
            False,
        ),  # 64 times as much to leave
    ],
)
def test_what_is_saved_against_what_the_borders_cost(layers, shape, worth):
    report = optimized(nn.Sequential(*layers), shape).passes[-1]
    assert report.changes == int(worth)
    if not worth:
        assert {refusal.reason for refusal in report.refusals} == {TOO_LITTLE}


def test_a_transposed_convolution_of_one_dimension_is_named():
    report = optimized(nn.ConvTranspose1d(64, 64, 4, 2, 1), (64, 16)).passes[-1]
    assert (report.changes, [refusal.reason for refusal in report.refusals]) == (0, ["its input's rank is 3"])


class Decoder(nn.Module):
    """What U-Nets and feature pyramids do: a smaller plane, as large as another and beside it."""

    def __init__(self, mode: str) -> None:
        super().__init__()
        self.mode = mode
        self.first, self.second = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.last = nn.Conv2d(32, 16, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        whole = self.first(x)
        small = self.second(nn.functional.max_pool2d(whole, 2))
        large = nn.functional.interpolate(small, whole.shape[-2:], mode=self.mode)
        return self.last(torch.cat([large, whole], 1)) - large


@pytest.mark.parametrize(
    ("mode", "plane"),
    [("nearest", (32, 48)), ("nearest", (33, 19)), ("bilinear", (32, 48)), ("bilinear", (33, 31))],
)
def test_a_decoder_is_one_region(mode, plane):
    """The exporter computes the sizes to which a plane is resized, from those of the input."""
    found = optimized(Decoder(mode), (3, *plane))
    assert (found.passes[-1].changes, found.passes[-1].refusals) == (1, ())
    (region,) = onnx.load_from_string(found.model).graph.node
    assert region.op_type == "FusedRegion"


class Expanding(nn.Module):
    """A U-Net of one level, whose plane is made larger by a transposed convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 32, 3, padding=1)
        self.up, self.last = nn.ConvTranspose2d(32, 16, 2, 2), nn.Conv2d(32, 16, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        whole = self.first(x).relu()
        small = self.second(nn.functional.max_pool2d(whole, 2)).relu()
        return self.last(torch.cat([self.up(small), whole], 1))


def generator():
    """A DCGAN's."""
    layers = [nn.ConvTranspose2d(20, 64, 4), nn.BatchNorm2d(64), nn.ReLU()]
    for width in (64, 32):
        layers += [nn.ConvTranspose2d(width, width // 2, 4, 2, 1), nn.BatchNorm2d(width // 2), nn.ReLU()]
    return nn.Sequential(*layers, nn.ConvTranspose2d(16, 3, 4, 2, 1), nn.Tanh())


@pytest.mark.parametrize(("factory", "shape"), [(Expanding, (3, 32, 48)), (generator, (20, 1, 1))])
def test_transposed_convolutions_between_others_are_one_region(factory, shape):
    found = optimized(factory(), shape)
    assert (found.passes[-1].changes, found.passes[-1].refusals) == (1, ())
    (region,) = onnx.load_from_string(found.model).graph.node
    assert region.op_type == "FusedRegion"


class Block(nn.Module):
    """ConvNeXt's, and with `responses` ConvNeXt V2's."""

    def __init__(self, width: int, *, responses: bool) -> None:
        super().__init__()
        self.depthwise, self.norm = nn.Conv2d(width, width, 7, padding=3, groups=width), nn.LayerNorm(width)
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.gamma, self.responses = nn.Parameter(torch.randn(width, 1, 1)), responses
        self.scale, self.shift = nn.Parameter(torch.randn(4 * width)), nn.Parameter(torch.randn(4 * width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = nn.functional.gelu(self.wide(self.norm(self.depthwise(x).permute(0, 2, 3, 1))))
        if self.responses:
            norm = y.norm(p=2, dim=(1, 2), keepdim=True)
            response = norm / (norm.mean(dim=-1, keepdim=True) + 1e-6)
            y = y + torch.addcmul(self.shift, self.scale, y * response)
        return x + self.gamma * self.narrow(y).permute(0, 3, 1, 2)


@pytest.mark.parametrize("responses", [False, True])
def test_convnext_is_one_region(responses):
    layers = nn.Sequential(nn.Conv2d(3, 24, 4, 4), *(Block(24, responses=responses) for _ in range(2)))
    found = optimized(layers, (3, 64, 48))
    assert (found.passes[-1].changes, found.passes[-1].refusals) == (1, ())
    (region,) = onnx.load_from_string(found.model).graph.node
    assert region.op_type == "FusedRegion"


def test_what_is_normalized_alone_stays_with_onnx_runtime():
    """A Transpose there and back costs it as much as the borders of a region."""

    class Norm(nn.LayerNorm):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    assert optimized(nn.Sequential(Norm(32), nn.ReLU()), (32, 28, 28)).passes[-1].changes == 0


@pytest.mark.parametrize("rows", [(), (3,)], ids=["rows", "sequences"])
def test_linear_layers_of_large_weights_are_left_to_onnx_runtime(rows):
    """64 MB of them; they would be kept twice."""
    for width, changes in ((2300, 1), (2400, 0)):
        first, second, third = (torch.nn.Linear(width, width, bias=False) for _ in range(3))
        layers = torch.nn.Sequential(first, torch.nn.ReLU(), second, torch.nn.ReLU(), third)
        assert optimized(layers, (*rows, width)).passes[-1].changes == changes


def test_between_the_attentions_of_a_transformer_there_is_a_region_each():
    """The layer norm before the first stays outside, and projections, which have the batch inside."""
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, activation="gelu", norm_first=True)
    found = optimized(nn.TransformerEncoder(layer, 3, enable_nested_tensor=False), (17, 32))
    model = onnx.load_from_string(found.model)
    regions = [[node.op_type for node in function.node] for function in model.functions]
    assert [(names.count("MatMul"), names.count("Gelu")) for names in regions] == [(2, 1)] * 3
    assert [node.op_type for node in model.graph.node].count("LayerNormalization") == 1


def test_a_network_between_what_the_kernels_lack_is_left_alone():
    """Each 1 x 1 convolution would be a region of two transpositions."""
    block = [nn.Conv2d(32, 64, 1), nn.ReLU(), nn.ELU(), nn.Conv2d(64, 32, 1), nn.ReLU()]
    report = optimized(nn.Sequential(*block), (32, 28, 28)).passes[-1]
    assert report.changes == 0
    assert [refusal.reason for refusal in report.refusals].count(TOO_LITTLE) == 2


def test_a_scale_of_each_channel_is_no_convolution():
    """However many there are, they alone are no region, and beside a convolution they save nothing."""
    scales = [nn.BatchNorm2d(32), nn.ReLU()] * 4
    assert optimized(nn.Sequential(*scales), (32, 28, 28)).passes[-1].changes == 0
    layers = [nn.MaxPool2d(3, 1, 1), *scales, nn.Conv2d(32, 32, 1, padding=1)]
    assert optimized(nn.Sequential(*layers), (32, 28, 28)).passes[-1].changes == 0
