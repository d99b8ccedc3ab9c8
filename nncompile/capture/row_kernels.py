"""Convolutions with kernels of their own for each row, as in StyleGAN's modulation or CondConv.

Modules fold the batch into the channels for it, and convolve in as many groups as there are rows. ONNX keeps
the number of groups in the node, where no free batch can be: here each group is a product of matrices.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

aten = torch.ops.aten


def has_free_groups(node: torch.fx.Node, place: int) -> bool:
    """Whether a convolution's number of groups, its argument at this place, depends on the batch."""
    groups = node.args[place] if len(node.args) > place else node.kwargs.get("groups", 1)
    return not isinstance(groups, int)


def conv1d(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: Sequence[int] = (1,),
    padding: Sequence[int] = (0,),
    dilation: Sequence[int] = (1,),
    groups: Any = 1,
) -> Any:
    """As planes of one row."""
    if isinstance(groups, int):
        return NotImplemented
    planes, kernels = x.unsqueeze(2), weight.unsqueeze(2)
    y = conv2d(planes, kernels, bias, (1, *stride), (0, *padding), (1, *dilation), groups)
    return y.squeeze(2)


def conv2d(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
    groups: Any = 1,
) -> Any:
    """Each group's kernels times its windows."""
    if isinstance(groups, int):
        return NotImplemented
    kernel = weight.shape[2:]
    rows = x.reshape(-1, *weight.shape[1:2], *x.shape[2:])
    windows = aten.im2col(rows, kernel, dilation, padding, stride).unflatten(0, (-1, groups))
    y = weight.reshape(groups, -1, windows.shape[2]) @ windows
    axes = zip(x.shape[2:], kernel, dilation, padding, stride, strict=True)
    sizes = [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, d, p, s in axes]
    return _with_bias(y.reshape(x.shape[0], weight.shape[0], *sizes), bias)


def conv_transpose2d(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0),
    output_padding: Sequence[int] = (0, 0),
    groups: Any = 1,
    dilation: Sequence[int] = (1, 1),
) -> Any:
    """Each group's kernels times its pixels make windows, which are added up where they overlap."""
    if isinstance(groups, int):
        return NotImplemented
    kernel = weight.shape[2:]
    kernels = weight.reshape(groups, -1, weight.shape[1:].numel()).transpose(1, 2)
    windows = kernels @ torch.unflatten(x.flatten(2), 1, (groups, -1))
    axes = zip(x.shape[2:], kernel, dilation, padding, output_padding, stride, strict=True)
    sizes = [(n - 1) * s - 2 * p + d * (k - 1) + more + 1 for n, k, d, p, more, s in axes]
    y = aten.col2im(windows.flatten(0, 1), sizes, kernel, dilation, padding, stride)
    return _with_bias(y.reshape(x.shape[0], -1, *sizes), bias)


def _with_bias(y: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    return y if bias is None else y + bias.reshape(-1, *[1] * (y.dim() - 2))
