"""torch.compile with the backend, started anew for each test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from nncompile.dynamo import backend, piece


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    torch._dynamo.reset()
    torch.manual_seed(0)
    yield
    torch._dynamo.reset()


@pytest.fixture
def compiled() -> Callable[..., Any]:
    """`compiled(model, **options of torch.compile)`."""

    def run(model: Any, **arguments: Any) -> Any:
        return torch.compile(model, backend=backend, **arguments)

    return run


@pytest.fixture
def compiles(monkeypatch) -> list[dict[str, Any]]:
    """The keyword arguments of every compile so far, with the `shapes` of the example."""
    seen: list[dict[str, Any]] = []
    compile_module = piece.compile_module

    def counting(module: Any, example: Any, **arguments: Any) -> Any:
        model = compile_module(module, example, **arguments)
        seen.append({**arguments, "shapes": [tuple(x.shape) for x in example], "model": model})
        return model

    monkeypatch.setattr(piece, "compile_module", counting)
    return seen


@pytest.fixture
def alike() -> Callable[..., Any]:
    """`alike(call, model, *args)`: both without gradients; the compiled answer, which is eager's."""

    def run(call: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
        with torch.no_grad():
            got, wanted = call(*args, **kwargs), model(*args, **kwargs)
        same_nest = torch.utils._pytree.tree_structure(got) == torch.utils._pytree.tree_structure(wanted)
        assert same_nest
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)
        return got

    return run
