"""Artifacts to write into a model repository, and an empty one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
from runtime.graphs import conv_net, manifest

from nncompile_runtime import container


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    return folder


@pytest.fixture
def saved(tmp_path: Path) -> Any:
    """`saved(model, inputs, outputs, ...)`: the path of an artifact, about which the options say more."""

    def save(model: onnx.ModelProto, *ports: Any, name: str = "net", **about: Any) -> Path:
        path = tmp_path / f"{name}.onnx"
        container.write(path, container.append_manifest(model.SerializeToString(), manifest(*ports, **about)))
        return path

    return save


@pytest.fixture
def net(saved: Any) -> Path:
    return saved(*conv_net(), labels=("a", "b", "c", "d", "e"))
