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
Tensors = Sequence[torch.Tensor]


def _lstm(
    x: torch.Tensor,
    states: Tensors,
    params: Tensors,
    has_biases: bool,
    layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The sequence with directions * hidden features, and both states."""
    del params, has_biases, dropout, train
    hidden, cell = states
    directions = 2 if bidirectional else 1
    for state in states:
        _check_state(x, state, layers * directions, batch_first)
    sequence = x.new_empty((*x.shape[:-1], directions * hidden.shape[-1]))
    return sequence, torch.empty_like(hidden), torch.empty_like(cell)


def _one_state(
    x: torch.Tensor,
    hidden: torch.Tensor,
    params: Tensors,
    has_biases: bool,
    layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """As for an LSTM, with one state."""
    del params, has_biases, dropout, train
    directions = 2 if bidirectional else 1
    _check_state(x, hidden, layers * directions, batch_first)
    return x.new_empty((*x.shape[:-1], directions * hidden.shape[-1])), torch.empty_like(hidden)


def _check_state(x: torch.Tensor, state: torch.Tensor, layers: int, batch_first: bool) -> None:
    """What the steps would have shown: (layers * directions, batch, hidden), which fixes the first."""
    check: Callable[[Any], None] = torch._check
    check(state.shape[0] == layers)
    check(state.shape[1] == x.shape[0 if batch_first else 1])


_SHAPES: dict[Any, Callable[..., Any]] = {
    aten.lstm.input: _lstm,
    aten.gru.input: _one_state,
    aten.rnn_tanh.input: _one_state,
    aten.rnn_relu.input: _one_state,
}


@contextmanager
def known_shapes() -> Iterator[None]:
    """Answer for the shapes of recurrent layers while a module is traced."""
    kernels = {op: dict(op.py_kernels) for op in _SHAPES}
    decompositions = {op: decomposition_table[op] for op in _SHAPES if op in decomposition_table}
    try:
        for op, shapes in _SHAPES.items():
            op.py_kernels.update(dict.fromkeys(kernels[op], shapes))
            op._dispatch_cache.clear()
            decomposition_table.update({op: shapes} if op in decompositions else {})
        yield
    finally:
        decomposition_table.update(decompositions)
        for op, own in kernels.items():
            op.py_kernels.update(own)
            op._dispatch_cache.clear()
