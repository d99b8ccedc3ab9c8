"""Capturing as `compile` does it, without passes and verification."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from likeness import assert_like
from running import call
from torch.utils import _pytree as pytree

import nncompile
from nncompile.calling import evaluation_mode
from nncompile.capture import capture
from nncompile.capture.containers import known_containers
from nncompile.compiled import CompiledModel
from nncompile.options import CompileOptions
from nncompile.stages import CapturedModel

Captured = Callable[..., CapturedModel]


@pytest.fixture(scope="session")
def captured() -> Captured:
    """`captured(module, inputs, kwargs, dynamic_batch=...)`: the exporter's graph with its signature."""

    def run(
        module: Any, inputs: Any = (), kwargs: Any = None, *, dynamic_batch: bool = True
    ) -> CapturedModel:
        return capture(module, inputs, kwargs, CompileOptions(dynamic_batch=dynamic_batch))

    return run


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


@pytest.fixture
def works_end_to_end(tmp_path: Path) -> Callable[..., CompiledModel]:
    """`works_end_to_end(module, args, kwargs, rtol=...)`: compiled, saved and loaded, it answers as eager.

    At batches 1, 2 and 5, on the compiled model and on the file; dtypes and nesting included.
    """

    def check(
        module: Any, args: Any = (), kwargs: Any = None, *, rtol: float = 1e-4, atol: float = 1e-5
    ) -> CompiledModel:
        kwargs = kwargs or {}
        model = nncompile.compile(module, args, kwargs)
        assert model.signature.batch == "batch"
        assert model.report.verification.dropped_passes == ()
        model.save(tmp_path / "model.onnx")
        loaded = nncompile.load(tmp_path / "model.onnx", device="cpu")
        with evaluation_mode(module):
            for batch in (1, 2, 5):
                given = _with_rows((args, kwargs), batch)
                with torch.no_grad():
                    expected = module(*given[0], **given[1])
                for predictor in (model, loaded):
                    assert_like(predictor.predict(*given[0], **given[1]), expected, rtol, atol)
        return model

    return check


def _with_rows(inputs: Any, batch: int) -> Any:
    """The inputs with their rows repeated or cut to `batch`, which the first tensor carries."""
    with known_containers() as make_known:
        make_known(inputs)
        size = next(len(x) for x in pytree.tree_leaves(inputs) if isinstance(x, torch.Tensor) and x.dim())
        rows = torch.arange(batch) % size

        def resized(x: Any) -> Any:
            return x[rows] if isinstance(x, torch.Tensor) and x.dim() and len(x) == size else x

        return pytree.tree_map(resized, inputs)
