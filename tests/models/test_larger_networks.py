"""ResNet-18, MobileNetV2 and SE-ResNet-18: parameters, shapes, and the papers' structure."""

import math

import pytest
import torch
from torch import nn

from models._timm import import_timm
from models.mobilenet import InvertedResidual, MobileNetV2
from models.resnet import BasicBlock, ResNet18
from models.squeeze_excite import SEResNet18, SqueezeExcite
from nncompile.capture import capture
from nncompile.costs import graph_cost
from nncompile.options import CompileOptions

# Of the squeeze-excite blocks: 2 C^2 / 16 weights and C / 16 + C biases, two blocks of each width.
SE_PARAMETERS = 2 * sum(2 * c * c // 16 + c // 16 + c for c in (64, 128, 256, 512))
PARAMETERS = {ResNet18: 11_689_512, MobileNetV2: 3_504_872, SEResNet18: 11_689_512 + SE_PARAMETERS}

# Published for the first two; squeeze-excite adds its two products of each block.
MULTIPLY_ADDS = {
    ResNet18: 1_814_073_344,
    MobileNetV2: 300_774_272,
    SEResNet18: 1_814_073_344 + sum(2 * 2 * c * c // 16 for c in (64, 128, 256, 512)),
}


@pytest.mark.parametrize("build", PARAMETERS)
def test_parameters(build):
    assert sum(parameter.numel() for parameter in build().parameters()) == PARAMETERS[build]


@pytest.mark.parametrize(("build", "names"), [(ResNet18, "resnet18"), (MobileNetV2, "mobilenet_v2")])
def test_torchvisions_weights_load_and_answer_alike(build, names):
    try:
        import_timm()  # declares what torchvision lacks beside a CPU build of torch
    except ImportError as error:
        pytest.skip(str(error))
    import torchvision

    torch.manual_seed(0)
    theirs = torchvision.models.get_model(names, weights=None).eval()
    ours = build().eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.parametrize("build", PARAMETERS)
@pytest.mark.parametrize("size", [64, 96])
def test_output_shape(build, size):
    with torch.inference_mode():
        assert build().eval()(torch.randn(2, 3, size, size)).shape == (2, 1000)


def test_resnet_layers():
    net = ResNet18(num_classes=10)
    counted = sum(
        isinstance(part, nn.Linear) or (isinstance(part, nn.Conv2d) and part.kernel_size != (1, 1))
        for part in net.modules()
    )
    assert counted == 18
    x = torch.randn(1, 3, 224, 224)
    with torch.inference_mode():
        stem = net.maxpool(net.conv1(x))
        assert stem.shape == (1, 64, 56, 56)
        assert net.layer4(net.layer3(net.layer2(net.layer1(stem)))).shape == (1, 512, 7, 7)


def test_a_basic_block_adds_its_input():
    block = BasicBlock(4, 4, 1).eval()
    nn.init.zeros_(block.conv2.weight)
    x = torch.randn(1, 4, 5, 5)
    assert torch.equal(block(x), x.relu())


def test_an_inverted_residual_adds_its_input_where_it_can():
    same, narrower = InvertedResidual(8, 8, 1, 6), InvertedResidual(8, 8, 2, 6)
    assert (same.shortcut, narrower.shortcut) == (True, False)
    assert sum(isinstance(part, InvertedResidual) for part in MobileNetV2().modules()) == 17


def test_squeeze_excite_scales_channels_by_their_means():
    block = SqueezeExcite(32)
    x = torch.randn(2, 32, 5, 5)
    with torch.inference_mode():
        scale = block(x) / x
        assert torch.allclose(scale, scale[:, :, :1, :1].expand_as(x), atol=1e-5)
        hidden = nn.functional.linear(x.mean((2, 3)), block.fc1.weight, block.fc1.bias).relu()
        expected = nn.functional.linear(hidden, block.fc2.weight, block.fc2.bias).sigmoid()
        torch.testing.assert_close(scale[:, :, 0, 0], expected, rtol=1e-4, atol=1e-5)
    assert sum(isinstance(part, SqueezeExcite) for part in SEResNet18().modules()) == 8


@pytest.fixture(scope="module", params=PARAMETERS, ids=lambda build: build.__name__)
def costs(request):
    """A network's class, and what its captured graph costs at 224 x 224."""
    captured = capture(request.param().eval(), torch.randn(2, 3, 224, 224), None, CompileOptions())
    return request.param, graph_cost(captured.graph)


def test_costs_of_the_captured_graph(costs):
    """The graph holds all parameters, and the running statistics of batch norm."""
    build, cost = costs
    statistics = sum(2 * part.num_features for part in build().modules() if isinstance(part, nn.BatchNorm2d))
    assert cost.totals.parameters == PARAMETERS[build] + statistics
    assert cost.totals.unknown == 0


def test_multiply_adds_are_the_published_ones(costs):
    """1.81 and 0.30 billion at 224x224 in the papers; to the unit, fvcore's count, without biases."""
    build, cost = costs
    layers = [node for node in cost.nodes if node.operator in ("Conv", "Gemm", "MatMul")]
    assert sum(node.flops - math.prod(node.shape) for node in layers) == 2 * MULTIPLY_ADDS[build]
