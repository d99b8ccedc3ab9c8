"""PyTorch's fast path for attention, whose answers are not those of the layers as they are written.

In evaluation without gradients `nn.TransformerEncoder` packs samples with padding at their end into a nested
tensor, computes without it, and answers 0 at padded positions; with gradients, or where the mask is another,
these positions get the numbers that the layers compute there. What reads them then (a decoder without a
mask of the memory, a mean over the positions) has two answers in PyTorch itself. torch 2.13,
`torch/nn/modules/transformer.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from nncompile_runtime.errors import VerificationError


@contextmanager
def switched_off() -> Iterator[bool]:
    """Without the fast path; whether it was on before."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield before
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def two_answers(what: str) -> VerificationError:
    """The error for a graph that answers as eager does without the fast path, and `what` it does with it."""
    return VerificationError(
        "PyTorch has two answers here: its fast path for attention answers 0 at padded positions, the layers "
        f"as they are written do not, and something reads those positions. {what}.",
        remedy="Mask them where they are read (memory_key_padding_mask); or, to get the answers of training, "
        "call torch.backends.mha.set_fastpath_enabled(False) and compile again.",
    )
