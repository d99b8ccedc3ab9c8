"""`torch.compile(model, backend="nncompile")`: each graph that dynamo hands over goes through `compile`.

torch finds the backend by the entry point group `torch_dynamo_backends`; without an installed distribution,
`torch.compile(model, backend=nncompile.dynamo.backend)` is the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch._guards import tracing

from nncompile.dynamo.options import checked
from nncompile.dynamo.piece import Piece
from nncompile_runtime.errors import NncompileError

__all__ = ["backend"]


def backend(
    graph: torch.fx.GraphModule,
    example_inputs: Sequence[Any],
    *,
    options: Mapping[str, Any] | None = None,
    mode: str | None = None,
) -> Callable[..., Any]:
    """Compile a graph of dynamo's for inference.

    Weights become constants of the compiled graph. Each call looks whether they are still the same, bit by
    bit, and compiles anew where they are not. A second batch size compiles once more, for any batch; a change
    of any other size or number, which dynamo makes symbolic too, compiles for that value.

    Args:
        graph: What dynamo traced.
        example_inputs: The tensors and numbers of the first call.
        options: `torch.compile(options=...)`: parameters of `nncompile.compile` (`target`, `precision`,
            `exact`, `passes`, `disabled_passes`, `verify`, `tune`, `progress`), and two booleans.
            `frozen` promises that weights are written only in ways that torch counts, which spares comparing
            them; `fallback` runs a graph that cannot be compiled in eager PyTorch, with a warning.
        mode: `torch.compile(mode=...)`; Inductor's, so refused.

    Raises:
        CaptureError: The graph needs gradients, draws random numbers, writes into its inputs or cannot be
            captured. torch wraps this and the others in a `BackendCompilerFailed`, with their sentences.
        VerificationError: Compiled, it does not answer as eager PyTorch does.
        NncompileError: An option is unknown or has a value that is not offered.
    """
    if mode is not None:
        raise NncompileError(f"mode={mode!r} is Inductor's.", remedy="Give options={'tune': True} instead.")
    piece = Piece(graph, checked(options or {}))
    with tracing(None):  # torch.export would add its guards to those of the code that dynamo traces
        piece.compile(
            [
                x.node.hint if isinstance(x, (torch.SymInt, torch.SymFloat, torch.SymBool)) else x
                for x in example_inputs
            ]
        )
    return piece
