"""Seed 000's `MyNet`, and the import of timm beside any build of torch."""

import importlib.util
import re
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from models import _timm, digits
from models.mynet import MyNet
from models.train import train
from models.zoo import ZOO

needs_timm = pytest.mark.skipif(
    any(importlib.util.find_spec(package) is None for package in ("torchvision", "timm")),
    reason=f"MyNet IS NOT TESTED: {_timm.INSTALL_COMMAND}",
)


@pytest.mark.parametrize("missing", ["torchvision", "timm"])
def test_missing_package_names_the_command(monkeypatch, missing):
    found = importlib.util.find_spec("torch")
    monkeypatch.setattr(_timm, "find_spec", lambda name: None if name == missing else found)
    command = re.escape("pip install --no-deps torchvision==0.28.0 timm")
    with pytest.raises(ImportError, match=f"needs {missing}: {command}") as caught:
        MyNet()
    assert caught.value.name == missing


@needs_timm
def test_timm_is_imported_in_a_fresh_process_where_the_operators_cannot_be_loaded():
    code = """
import torch
def refuse(path):
    raise OSError("no such library")
torch.ops.load_library = refuse
from models._timm import import_timm
first, second = import_timm(), import_timm()
assert first is second and first.__name__ == "timm"
print(torch.ops.torchvision.nms.default._schema)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(
        "torchvision::nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
    )


@needs_timm
def test_operators_that_can_be_loaded_are_not_declared_again():
    code = """
import torch
library = torch.library.Library("torchvision", "DEF")
def load(path):
    assert "_C" in path
    for name in ("nms", "qnms"):
        library.define(name + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
torch.ops.load_library = load
from models import _timm, digits
_timm.import_module = str.upper
_timm.import_timm()
print(_timm.import_timm(), _timm._declared)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "TIMM []"


@needs_timm
def test_timm_that_fails_to_import_names_the_command(monkeypatch):
    def fail(name):
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr(_timm, "import_module", fail)
    with pytest.raises(ImportError, match=r"nms does not exist.*pip install --no-deps"):
        _timm.import_timm()


@needs_timm
def test_parameters():
    net = ZOO["mynet"].build()
    assert net.state_channels == [64, 64, 128, 256, 512]
    heads = {name: tuple(p.shape) for name, p in net.named_parameters() if not name.startswith("backbone.")}
    assert heads == {
        "refinement.0.weight": (64, 512, 3, 3),
        "refinement.0.bias": (64,),
        "refinement_h.0.weight": (64, 64, 1, 1),
        "refinement_h.0.bias": (64,),
        "classifier.weight": (10, 64, 1, 1),
        "classifier.bias": (10,),
    }
    assert len(list(net.parameters())) == 66
    assert sum(p.numel() for p in net.backbone.parameters()) == 11_176_512
    assert sum(p.numel() for p in net.parameters()) == 11_476_298


@needs_timm
def test_forward_runs_the_layers_in_the_seeds_order():
    torch.manual_seed(0)
    net = MyNet().eval()
    x = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        maps = net.backbone(x)[-1]
        assert maps.shape == (2, 512, 2, 2)
        refined = F.relu(F.conv2d(maps, net.refinement[0].weight, net.refinement[0].bias, padding=1))
        pooled = refined.mean((2, 3))
        hidden = F.relu(F.linear(pooled, net.refinement_h[0].weight.flatten(1), net.refinement_h[0].bias))
        logits = F.linear(hidden, net.classifier.weight.flatten(1), net.classifier.bias)
        torch.testing.assert_close(net(x), logits, rtol=1e-4, atol=1e-5)


@needs_timm
def test_arguments():
    net = MyNet(backbone="resnet10t", num_classes=3, width=8, in_chans=1).eval()
    assert net.num_classes == 3
    assert net.refinement[0].out_channels == 8
    assert net(torch.randn(2, 1, 32, 32)).shape == (2, 3)


@needs_timm
def test_unknown_backbone():
    with pytest.raises(RuntimeError, match="Unknown model"):
        MyNet(backbone="resnet19")


@needs_timm
def test_twenty_steps_fit_one_batch():
    data = digits.split()
    x = torch.from_numpy(digits.to_input(digits.resize(data.train_images[:64], 32), channels=3))
    y = torch.from_numpy(data.train_labels[:64])
    torch.manual_seed(0)
    net = MyNet()
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
    losses = []
    for _ in range(20):
        loss = F.cross_entropy(net(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(2.3, abs=0.1)
    assert losses[-1] < 1.2


@needs_timm
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_training_learns_the_digits():
    assert train("mynet", epochs=3).accuracy >= 0.85
