"""ONNX for operators that PyTorch's exporter has none for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from onnxscript import opset20

from nncompile.capture import constants

aten = torch.ops.aten
op: Any = opset20  # lists of numbers become constants, which its types do not say


def _rnn(
    activation: str,
    x: Any,
    states: Any,
    params: Sequence[Any],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Any, Any]:
    """`nn.RNN` as one RNN of ONNX for each layer, which takes any length.

    torch gives (input to hidden, hidden to hidden) weights for each direction of each layer in turn, with
    two biases behind them where it has biases; ONNX wants the directions stacked, and the biases joined.
    """
    del dropout, train  # evaluation
    directions = 2 if bidirectional else 1
    each = 4 if has_biases else 2
    sequence = op.Transpose(x, perm=[1, 0, 2]) if batch_first else x
    last = []
    for layer in range(num_layers):
        first = layer * directions
        own = [params[(first + i) * each : (first + i + 1) * each] for i in range(directions)]

        def stacked(parts: list[Any]) -> Any:
            return op.Concat(*(op.Unsqueeze(part, [0]) for part in parts), axis=0)

        biases = stacked([op.Concat(*weights[2:], axis=0) for weights in own]) if has_biases else None
        steps, final = op.RNN(
            sequence,
            stacked([weights[0] for weights in own]),
            stacked([weights[1] for weights in own]),
            biases,
            None,
            op.Slice(states, [first], [first + directions], [0]),
            activations=[activation] * directions,
            direction="bidirectional" if bidirectional else "forward",
            hidden_size=own[0][1].shape[1],
        )
        last.append(final)
        # (length, directions, batch, hidden) -> (length, batch, directions * hidden)
        sequence = op.Reshape(op.Transpose(steps, perm=[0, 2, 1, 3]), [0, 0, -1])
    sequence = op.Transpose(sequence, perm=[1, 0, 2]) if batch_first else sequence
    return sequence, op.Concat(*last, axis=0)


def rnn_tanh(
    x: Any, hx: Any, params: Sequence[Any], has_biases: bool, num_layers: int, dropout: float,
    train: bool, bidirectional: bool, batch_first: bool,
) -> tuple[Any, Any]:  # fmt: skip
    """`nn.RNN` with tanh."""
    return _rnn("Tanh", x, hx, params, has_biases, num_layers, dropout, train, bidirectional, batch_first)


def rnn_relu(
    x: Any, hx: Any, params: Sequence[Any], has_biases: bool, num_layers: int, dropout: float,
    train: bool, bidirectional: bool, batch_first: bool,
) -> tuple[Any, Any]:  # fmt: skip
    """`nn.RNN` with ReLU."""
    return _rnn("Relu", x, hx, params, has_biases, num_layers, dropout, train, bidirectional, batch_first)


TRANSLATIONS: dict[Any, Callable[..., Any]] = {
    aten.rnn_tanh.input: rnn_tanh,
    aten.rnn_relu.input: rnn_relu,
    **constants.TRANSLATIONS,
}
