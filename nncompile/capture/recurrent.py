"""The shapes of recurrent layers, without walking through their time steps.

To know what an LSTM, GRU or RNN returns, torch traces it step by step, which fixes the length of the sequence
and takes as long as the sequence is. The operator itself is kept and becomes ONNX's in any case.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch._decomp import decomposition_table

aten = torch.ops.aten
_RECURRENT = (aten.lstm.input, aten.gru.input, aten.rnn_tanh.input, aten.rnn_relu.input)


def _shapes(
    x: torch.Tensor,
    states: torch.Tensor | Sequence[torch.Tensor],
    params: Sequence[torch.Tensor],
    has_biases: bool,
    layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[torch.Tensor, ...]:
    """The sequence with directions * hidden features, and the states: two of an LSTM, one of the others.

    A state is (layers * directions, batch, hidden), which fixes its first size, as the steps would have.
    """
    del params, has_biases, dropout, train
    every = (states,) if isinstance(states, torch.Tensor) else tuple(states)
    directions = 2 if bidirectional else 1
    check: Callable[[Any], None] = torch._check
    for state in every:
        check(state.shape[0] == layers * directions)
        check(state.shape[1] == x.shape[0 if batch_first else 1])
    sequence = x.new_empty((*x.shape[:-1], directions * every[0].shape[-1]))
    return sequence, *map(torch.empty_like, every)


@contextmanager
def known_shapes() -> Iterator[None]:
    """Answer for the shapes of recurrent layers while a module is traced."""
    kernels = {op: dict(op.py_kernels) for op in _RECURRENT}
    decompositions = {op: decomposition_table[op] for op in _RECURRENT if op in decomposition_table}
    try:
        for op, own in kernels.items():
            op.py_kernels.update(dict.fromkeys(own, _shapes))
            op._dispatch_cache.clear()
        for op in decompositions:
            decomposition_table[op] = _shapes
        yield
    finally:
        for op, decomposition in decompositions.items():
            decomposition_table[op] = decomposition
        for op, own in kernels.items():
            op.py_kernels.update(own)
            op._dispatch_cache.clear()
