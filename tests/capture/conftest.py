"""Capturing as `compile` does it, without passes and verification."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch.utils import _pytree as pytree

from nncompile.capture import capture
from nncompile.options import CompileOptions
from nncompile.stages import CapturedModel
from nncompile_runtime import container
from nncompile_runtime.inputs import InputBinder
from nncompile_runtime.machine import this_machine
from nncompile_runtime.plan import default_plan
from nncompile_runtime.session import Session
from nncompile_runtime.structure import unflattener

Captured = Callable[..., CapturedModel]


@pytest.fixture(scope="session")
def captured() -> Captured:
    """`captured(module, inputs, kwargs, dynamic_batch=...)`: the exporter's graph with its signature."""

    def run(
        module: Any, inputs: Any = (), kwargs: Any = None, *, dynamic_batch: bool = True
    ) -> CapturedModel:
        return capture(module, inputs, kwargs, CompileOptions(dynamic_batch=dynamic_batch))

    return run


def call(model: CapturedModel, *args: Any, **kwargs: Any) -> Any:
    """Run the captured graph as it stands, called and answering as `forward`."""
    data = ir.to_proto(model.graph).SerializeToString()
    session = Session(container.parse(data, "captured"), default_plan(this_machine()))
    feed, _ = InputBinder(model.signature)(args, kwargs)
    return unflattener(model.signature.result)(session.run(feed))


def assert_same(got: Any, expected: Any) -> None:
    """Same nesting, same constants, tensors within float32 tolerance."""
    if isinstance(expected, torch.Tensor):
        np.testing.assert_allclose(got, expected.detach().numpy(), rtol=1e-5, atol=1e-5)
        return
    assert type(got).__name__ == type(expected).__name__
    if isinstance(expected, dict):
        assert list(got) == list(expected)
        got, expected = list(got.values()), list(expected.values())
    if isinstance(expected, (tuple, list)):
        assert getattr(got, "_fields", None) == getattr(expected, "_fields", None)
        for a, b in zip(got, expected, strict=True):
            assert_same(a, b)
    else:
        assert got == expected


@pytest.fixture(scope="session")
def answers_as_eager() -> Callable[..., None]:
    """`answers_as_eager(model, *inputs, **kwargs)`: the graph returns what the module returns."""

    def check(model: CapturedModel, *args: Any, **kwargs: Any) -> None:
        arrays = pytree.tree_map(lambda x: x.numpy() if isinstance(x, torch.Tensor) else x, (args, kwargs))
        with torch.no_grad():
            expected = model.module(*args, **kwargs)
        assert_same(call(model, *arrays[0], **arrays[1]), expected)

    return check


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)
