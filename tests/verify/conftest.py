"""Suites without torch.export: a module beside a graph in ONNX's text format."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from row_wise import IN, OUT, Of, graph

from nncompile.verify.suite import Failure, Suite
from nncompile_runtime.manifest import Argument, Signature, TensorSpec, Verification
from nncompile_runtime.structure import SequenceOf, TensorLeaf


def make_signature(
    inputs: Mapping[str, str], outputs: Mapping[str, str], batch: str | None = "n"
) -> Signature:
    """Plain tensors in and out: `{"x": "float32 n 4"}` is an input float32[n, 4]."""

    def spec(name: str, text: str) -> TensorSpec:
        dtype, *sizes = text.split()
        return TensorSpec(name=name, dtype=dtype, shape=tuple(int(s) if s.isdigit() else s for s in sizes))

    results = tuple(TensorLeaf(index=i) for i in range(len(outputs)))
    return Signature(
        arguments=tuple(Argument(name=name, structure=TensorLeaf(index=i)) for i, name in enumerate(inputs)),
        inputs=tuple(spec(name, text) for name, text in inputs.items()),
        outputs=tuple(spec(name, text) for name, text in outputs.items()),
        result=results[0] if len(results) == 1 else SequenceOf(kind="tuple", items=results),
        batch=batch,
    )


def make_model(text: str, weights: Mapping[str, Any] | None = None) -> bytes:
    """A serialised model from ONNX's text format; weights may be torch tensors."""
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 20]>\n{text}')
    for name, value in (weights or {}).items():
        array = value.detach().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    onnx.checker.check_model(model)
    return model.SerializeToString()


@pytest.fixture(scope="session")
def signature() -> Callable[..., Signature]:
    return make_signature


@pytest.fixture(scope="session")
def onnx_bytes() -> Callable[..., bytes]:
    return make_model


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def compare(
    signature: Callable[..., Signature], onnx_bytes: Callable[..., bytes]
) -> Callable[..., Failure | Verification]:
    """`compare(function, nodes, **weights)`: row-wise x -> y, both float32[n, 4]."""

    def run(function: Any, nodes: str, **weights: Any) -> Failure | Verification:
        module = function if isinstance(function, torch.nn.Module) else Of(function)
        suite = Suite(module, signature(IN, OUT), (torch.randn(5, 4),))
        return suite.compare(onnx_bytes(graph(nodes), weights))

    return run
