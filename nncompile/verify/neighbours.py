"""Eager's own error on inputs next to a case's: what one case may show too little of.

Rounding errors are a matter of luck. Where an output has few elements, eager may have all of them right to
the last digit on inputs beside which it is far off: a group norm of two values that are nearly the same has
an error of anything up to 1e-4 there, and so has any graph of it. A graph that is no worse than eager would
then be called wrong. So before that, eager is asked again, on inputs that its dtype hardly tells from these.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from nncompile.verify.compare import Array, largest_error
from nncompile.verify.eager import Eager, widened

NEIGHBOURS = 8
_SEED = 20240501


def undecided(eager: Eager, inputs: Sequence[torch.Tensor], answer: Sequence[Array]) -> bool:
    """Whether a rounding of the inputs changes integers of the answer: of equal values, any comes first."""
    whole = [number for number, output in enumerate(answer) if output.dtype.kind in "iub"]
    if not whole:
        return False
    generator = torch.Generator().manual_seed(_SEED)
    try:
        near = eager([moved(x, generator) for x in inputs])
    except Exception:
        return False
    return any(not np.array_equal(near[number], answer[number]) for number in whole)


def own_errors(eager: Eager, double: Eager, inputs: Sequence[torch.Tensor]) -> list[float]:
    """Eager's largest absolute error in each output over `NEIGHBOURS` inputs next to those given.

    Args:
        eager: The module as it is.
        double: The module in float64.
        inputs: Flat; floating-point elements are moved by at most two units in the last place.

    Returns:
        One number for each output; none where eager takes none of the neighbours.
    """
    generator = torch.Generator().manual_seed(_SEED)
    found: list[list[float]] = []
    for _ in range(NEIGHBOURS):
        near = [moved(x, generator) for x in inputs]
        try:
            pairs = zip(eager(near), double(widened(near)), strict=True)
        except Exception:  # noqa: S112 - a value beyond what the module takes, by a rounding
            continue
        found.append([largest_error(own, reference) for own, reference in pairs])
    return [max(column) for column in zip(*found, strict=True)]


def moved(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Floating-point elements by at most two units in the last place; others as they are."""
    if not x.is_floating_point():
        return x
    steps = torch.rand(x.shape, generator=generator, dtype=torch.float64) * 2 - 1
    return (x.double() * (1 + torch.finfo(x.dtype).eps * steps)).to(x.dtype)
