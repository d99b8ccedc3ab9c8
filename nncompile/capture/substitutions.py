"""Python code of torch that cannot be traced, replaced by code that can while a module is captured.

Most of it checks values, which a graph cannot, or calls an autograd.Function that has no symbolic form.
The caller's module is not touched: classes and functions of torch get another body for the duration.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules import transformer
from torch.nn.modules.adaptive import _ASMoutput

from nncompile.capture import losses, quantized
from nncompile.capture.fractional import fractional_max_pool, samples_at_hand
from nncompile.capture.recurrent import known_shapes


def _data_parallel(self: nn.DataParallel[Any], *inputs: Any, **named: Any) -> Any:
    """On one device DataParallel is the module that it wraps."""
    return self.module(*inputs, **named)


def _cross_map_lrn(self: nn.CrossMapLRN2d, x: torch.Tensor) -> torch.Tensor:
    """Divide by (k + alpha / size * sum of squares over neighbouring channels) ** beta.

    Source: torch/nn/modules/_functions.py. Its running sum never drops channel 0, and neither does this.
    """
    reach = int((self.size - 1) / 2 + 1)
    channel = torch.arange(x.shape[1])
    later, earlier = channel.unsqueeze(0), channel.unsqueeze(1)
    summed = (later < earlier + reach) & ((later > earlier - reach) | (later == 0))
    window = summed.to(x.dtype).unsqueeze(-1).unsqueeze(-1)
    total = nn.functional.conv2d(x * x, window)
    return x / (self.k + total * (self.alpha / self.size)) ** self.beta


def _adaptive_log_softmax(self: nn.AdaptiveLogSoftmaxWithLoss, x: torch.Tensor, target: torch.Tensor) -> Any:
    """The log-probability of each row's target, and the mean loss, computed for every class."""
    batched = x.dim() > 1
    rows, index = (x, target) if batched else (x.unsqueeze(0), target.unsqueeze(0))
    output = self.log_prob(rows).gather(1, index.unsqueeze(1)).squeeze(1)
    loss = (-output).mean()
    return _ASMoutput(output if batched else output.squeeze(0), loss)


_linear_cross_entropy = getattr(nn.functional, "linear_cross_entropy", None)  # new in torch 2.13


def _without_options(*args: Any, options: Any = None, **named: Any) -> Any:
    """Its options trade memory for time in training, and call an operator that cannot be exported."""
    del options
    return _linear_cross_entropy(*args, **named)  # type: ignore[misc]  # substituted only where it is


def _is_causal(mask: torch.Tensor | None, is_causal: bool | None = None, size: int | None = None) -> bool:
    """Only a hint for a faster kernel: the mask is applied in any case. torch compares its values."""
    del mask, size
    return bool(is_causal)


_SUBSTITUTES: tuple[tuple[Any, str, Any], ...] = (
    (transformer, "_detect_is_causal_mask", _is_causal),
    (nn.DataParallel, "forward", _data_parallel),
    (nn.CrossMapLRN2d, "forward", _cross_map_lrn),
    (nn.AdaptiveLogSoftmaxWithLoss, "forward", _adaptive_log_softmax),
    (nn.FractionalMaxPool2d, "forward", fractional_max_pool),
    (nn.FractionalMaxPool3d, "forward", fractional_max_pool),
    (nn.functional, "gaussian_nll_loss", losses.gaussian_nll),
    (nn.functional, "ctc_loss", losses.ctc),
    (nn.functional, "linear_cross_entropy", _without_options),
    *quantized.SUBSTITUTES,
)


@contextmanager
def substituted(module: nn.Module) -> Iterator[None]:
    """Replace what cannot be traced in a module, and put everything back."""
    present = [(owner, name, body) for owner, name, body in _SUBSTITUTES if hasattr(owner, name)]
    originals = [(owner, name, getattr(owner, name)) for owner, name, _ in present]
    try:
        for owner, name, body in present:
            setattr(owner, name, body)
        with samples_at_hand(module), known_shapes():
            yield
    finally:
        for owner, name, original in originals:
            setattr(owner, name, original)
