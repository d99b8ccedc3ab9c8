"""Fixtures of the runtime's tests."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
import pytest
from hypothesis import settings

from nncompile_runtime import container, cuda, session
from nncompile_runtime.manifest import Manifest

from . import stand_in
from .graphs import conv_net, manifest

if TYPE_CHECKING:
    from nncompile import CompiledModel

# The same examples in every run, and no deadline: the machine may be busy.
settings.register_profile("nncompile", derandomize=True, deadline=None)
settings.load_profile("nncompile")


@pytest.fixture(scope="session")
def compiled_net() -> CompiledModel:
    """A small convolutional network, through the whole compiler."""
    torch = pytest.importorskip("torch")
    import nncompile

    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3),
        torch.nn.BatchNorm2d(4),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(2),
        torch.nn.Flatten(),
        torch.nn.Linear(36, 5),
    )
    return nncompile.compile(net, torch.randn(2, 1, 8, 8), labels=list("abcde"))


@pytest.fixture(scope="session")
def artifact(compiled_net: CompiledModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`compiled_net` as a file."""
    path = tmp_path_factory.mktemp("artifact") / "net.onnx"
    compiled_net.save(path)
    return path


@pytest.fixture(scope="session")
def model() -> onnx.ModelProto:
    """A convolutional network that PyTorch had no part in."""
    return conv_net()[0]


@pytest.fixture(scope="session")
def about() -> Manifest:
    """The manifest of `model`."""
    _, inputs, outputs = conv_net()
    return manifest(inputs, outputs, labels=("a", "b", "c", "d", "e"))


@pytest.fixture(scope="session")
def packed(model: onnx.ModelProto, about: Manifest) -> bytes:
    """`model` with its manifest and digest."""
    return container.append_manifest(model.SerializeToString(), about)


@pytest.fixture(scope="session")
def cuda_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with CUDA's libraries as ONNX Runtime's provider wants them; they compute nothing."""
    folder = tmp_path_factory.mktemp("cuda")
    stand_in.build(folder, list(cuda.examine(session.onnxruntime()).libraries))
    return folder


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """What nncompile logs, from INFO on."""
    caplog.set_level(logging.INFO, logger="nncompile")
    return caplog
