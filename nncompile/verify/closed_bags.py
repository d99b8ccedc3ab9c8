"""Bags of embeddings that do not end where their indices do, for which PyTorch has several answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


class ClosedBags(TorchFunctionMode):
    """Refuses bags with `include_last_offset` whose last offset is not the number of indices.

    PyTorch's documentation wants it to be. Where it is not, its kernels disagree: the sum in float32 leaves
    out what follows the end, and the mean only divides by its number; float64 and the maximum have it in the
    last bag. The graph refuses it (nncompile/capture/bags.py).
    """

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call `function`, as torch asks for it.

        Raises:
            ValueError: The bags end elsewhere.
        """
        del types
        named = dict(kwargs or {})
        if function is torch.nn.functional.embedding_bag and named.get("include_last_offset"):
            given, end = args[0].numel(), int(named["offsets"][-1])
            if end != given:
                raise ValueError(
                    f"the last offset of bags with include_last_offset=True is {end}, and there are {given} "
                    "indices; give input[:offsets[-1]], or PyTorch's answer depends on dtype and mode"
                )
        return function(*args, **named)
