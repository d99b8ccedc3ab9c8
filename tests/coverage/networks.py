"""Whole networks that nobody here wrote: timm's and torchvision's, with random weights, at small sizes."""

import copy
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

import nncompile
from models._timm import import_timm
from nncompile.verify.compare import EAGER_MULTIPLE

# name -> height and width of the input; chosen so that each family of layers occurs.
TIMM = {
    "resnet18": 64,
    "resnet26d": 64,
    "resnext26ts": 64,
    "seresnext26t_32x4d": 64,
    "ecaresnet26t": 64,
    "mobilenetv2_050": 64,
    "mobilenetv3_small_050": 64,
    "efficientnet_b0": 64,
    "efficientnetv2_rw_t": 64,
    "ghostnet_050": 64,
    "regnetx_002": 64,
    "regnety_002": 64,
    "mnasnet_small": 64,
    "tinynet_e": 64,
    "lcnet_035": 64,
    "convnext_atto": 64,
    "convnextv2_atto": 64,
    "repvgg_a0": 64,
    "mobileone_s0": 64,
    "densenet121": 64,
    "dla34": 64,
    "vgg11": 64,
    "vit_tiny_patch16_224": 64,
    "deit_tiny_patch16_224": 64,
    "swin_tiny_patch4_window7_224": 224,
    "mixer_s32_224": 224,
    "gmlp_ti16_224": 224,
    "resmlp_12_224": 224,
    "poolformer_s12": 64,
    "edgenext_xx_small": 64,
    "pvt_v2_b0": 64,
    "xcit_nano_12_p16_224": 64,
}
_RESIZED = ("vit_", "deit_")  # of timm: those that are made for a size other than their default
_MADE_OTHERWISE = {  # options of torchvision's
    "googlenet": {"init_weights": True},
    "inception_v3": {"init_weights": True},
    "vit_b_16": {"image_size": 64},
}
TORCHVISION = {
    "alexnet": 64,
    "googlenet": 64,
    "inception_v3": 96,
    "mnasnet0_5": 64,
    "mobilenet_v2": 64,
    "mobilenet_v3_small": 64,
    "resnet18": 64,
    "shufflenet_v2_x0_5": 64,
    "squeezenet1_1": 64,
    "vgg11_bn": 64,
    "efficientnet_b0": 64,
    "regnet_y_400mf": 64,
    "convnext_tiny": 64,
    "swin_t": 64,
    "vit_b_16": 64,
    "densenet121": 64,
}
IN_EVERY_TEST_RUN = ("timm/mobilenetv3_small_050", "timm/vit_tiny_patch16_224", "torchvision/squeezenet1_1")


def networks() -> dict[str, Callable[[], tuple[nn.Module, torch.Tensor]]]:
    """Name -> a function that makes the network, in evaluation mode, and an example of one image."""
    made = {f"timm/{name}": _timm(name, size) for name, size in TIMM.items()}
    return made | {f"torchvision/{name}": _torchvision(name, size) for name, size in TORCHVISION.items()}


def largest_errors(
    net: nn.Module, model: nncompile.CompiledModel, image: torch.Tensor
) -> tuple[float, float, float]:
    """Compare with eager PyTorch in float64 on new images, at batches 1 and 3.

    Returns:
        The largest difference of the compiled network, of it without Winograd's algorithm, and of eager
        PyTorch in float32, all relative to the largest value.

    Raises:
        AssertionError: The compiled network is off by more than 1e-4 and by more than what verification
            allows, `EAGER_MULTIPLE` times what eager is; without Winograd's algorithm by more than 1e-4 and
            more than twice that; or the answer is the same for each image and so says nothing.
    """
    double = copy.deepcopy(net).double()
    with tempfile.TemporaryDirectory() as folder:
        model.save(Path(folder) / "model.onnx")
        exact = nncompile.load(Path(folder) / "model.onnx", device="cpu", plan={"exact": True})
    errors = []
    for batch in (1, 3):
        x = torch.randn(batch, *image.shape[1:], generator=torch.Generator().manual_seed(batch))
        with torch.no_grad():
            want, eager = double(x.double()), net(x)
        scale = want.abs().max()
        found = [float((y - want).abs().max() / scale) for y in (model(x), exact(x), eager)]
        own = found[-1]
        for error, multiple in zip(found, (EAGER_MULTIPLE, 2), strict=False):
            assert error <= max(1e-4, multiple * own), (
                f"off by {error:.2g} at batch {batch}, eager by {own:.2g}"
            )
        spread = float((want.amax(0) - want.amin(0)).max() / scale)
        assert batch == 1 or spread > 0.01, "each image has the same answer"
        errors.append(found)
    ours, without, own = map(max, zip(*errors, strict=True))
    return ours, without, own


def _timm(name: str, size: int) -> Callable[[], tuple[nn.Module, torch.Tensor]]:
    def make() -> tuple[nn.Module, torch.Tensor]:
        torch.manual_seed(0)
        options = {"img_size": size} if name.startswith(_RESIZED) else {}
        net = import_timm().create_model(name, pretrained=False, num_classes=10, **options)
        return _live(net, size), _image(size)

    return make


def _torchvision(name: str, size: int) -> Callable[[], tuple[nn.Module, torch.Tensor]]:
    def make() -> tuple[nn.Module, torch.Tensor]:
        import_timm()  # declares the operators that torchvision's import needs
        import torchvision

        torch.manual_seed(0)
        options = _MADE_OTHERWISE.get(name, {})
        net = torchvision.models.get_model(name, weights=None, num_classes=10, **options)
        return _live(net, size), _image(size)

    return make


def _image(size: int, batch: int = 1) -> torch.Tensor:
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(1))


def _live(net: nn.Module, size: int) -> nn.Module:
    """Weights and running statistics as after training, so that every layer shows in the answer.

    Many of these networks begin with next to nothing in the last norm of a residual branch, in a layer
    scale or in the classifier: the branch, or the whole answer, would be 0 whatever comes before it.
    """
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for weight in net.eval().parameters():
            if weight.abs().max() < 1e-3:
                weight.copy_(torch.randn(weight.shape, generator=generator) * 0.1)
        norms = [part for part in net.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
        for norm in norms:
            norm.train()
            norm.momentum = 1.0
        net(_image(size, batch=64))
        for norm in norms:  # a channel that was silent on these few images would drown all others
            norm.running_var.clamp_(min=0.1 * float(norm.running_var.mean()))
    return net.eval()
