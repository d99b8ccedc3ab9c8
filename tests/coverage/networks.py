"""Whole networks that nobody here wrote: timm's and torchvision's, with random weights, at small sizes."""

from collections.abc import Callable

import torch
from torch import nn

from models._timm import import_timm

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
_RESIZED = ("vit_", "deit_")
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
    "vit_b_16": 224,
    "densenet121": 64,
}
IN_EVERY_TEST_RUN = ("timm/mobilenetv3_small_050", "timm/vit_tiny_patch16_224", "torchvision/squeezenet1_1")


def networks() -> dict[str, Callable[[], tuple[nn.Module, torch.Tensor]]]:
    """Name -> a function that makes the network, in evaluation mode, and an example of one image."""
    made = {f"timm/{name}": _timm(name, size) for name, size in TIMM.items()}
    return made | {f"torchvision/{name}": _torchvision(name, size) for name, size in TORCHVISION.items()}


def _timm(name: str, size: int) -> Callable[[], tuple[nn.Module, torch.Tensor]]:
    def make() -> tuple[nn.Module, torch.Tensor]:
        torch.manual_seed(0)
        options = {"img_size": size} if name.startswith(_RESIZED) else {}
        net = import_timm().create_model(name, pretrained=False, num_classes=10, **options)
        return _live(net), _image(size)

    return make


def _torchvision(name: str, size: int) -> Callable[[], tuple[nn.Module, torch.Tensor]]:
    def make() -> tuple[nn.Module, torch.Tensor]:
        import_timm()  # declares the operators that torchvision's import needs
        import torchvision

        torch.manual_seed(0)
        options = {"init_weights": True} if name in ("googlenet", "inception_v3") else {}
        return _live(torchvision.models.get_model(name, weights=None, num_classes=10, **options)), _image(
            size
        )

    return make


def _image(size: int) -> torch.Tensor:
    return torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(1))


def _live(net: nn.Module) -> nn.Module:
    """Running statistics as after training, so that folding them is put to the test."""
    generator = torch.Generator().manual_seed(2)
    for part in net.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.running_mean is not None:
            part.running_mean.copy_(torch.randn(part.running_mean.shape, generator=generator) * 0.1)
            part.running_var.copy_(torch.rand(part.running_var.shape, generator=generator) + 0.5)
    return net.eval()
