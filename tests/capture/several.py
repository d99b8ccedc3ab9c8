"""A module of several functions: one compile for all of them."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

import nncompile


class Of(nn.Module):
    """What each function makes of the same inputs."""

    def __init__(self, functions: Sequence[Callable[..., Any]]) -> None:
        """Any functions of tensors."""
        super().__init__()
        self.functions = functions

    def forward(self, *inputs: torch.Tensor) -> list[Any]:
        """Their answers."""
        return [function(*inputs) for function in self.functions]


def assert_as_eager(
    functions: Sequence[Callable[..., Any]],
    example: tuple[torch.Tensor, ...],
    *others: tuple[torch.Tensor, ...],
    rtol: float = 0.0,
    atol: float = 0.0,
) -> None:
    """Compiled and verified, they answer as eager PyTorch on the example and on other inputs, NaN as NaN."""
    net = Of(functions)
    model = nncompile.compile(net, example)
    for inputs in (example, *others):
        torch.testing.assert_close(model.predict(*inputs), net(*inputs), rtol=rtol, atol=atol, equal_nan=True)
