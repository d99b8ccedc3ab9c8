"""The inputs that a compiled graph is compared on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from nncompile.resizing import resized
from nncompile_runtime.manifest import Signature

BATCHES = (1, 2, 3, 8)
_SEED = 20240501
_LARGE = 100.0


@dataclass(frozen=True)
class Case:
    """One set of inputs.

    Attributes:
        name: What kind of values, and the batch.
        inputs: Flat, in the order of the graph's inputs.
        fallback: The example's values at the same batch, for a module that takes no others (a loss
            of probabilities, say) or is chaotic on them; None where the inputs are the example's already.
    """

    name: str
    inputs: tuple[torch.Tensor, ...]
    fallback: tuple[torch.Tensor, ...] | None = None


def cases(signature: Signature, example: tuple[torch.Tensor, ...]) -> tuple[Case, ...]:
    """The user's example, seeded normal values, values of large range, and constants.

    With a dynamic batch the sizes 1, 2, 3 and 8 occur; otherwise every case has the example's size. Of
    other free sizes the smallest, some next to it and some larger than the example's occur. The example
    occurs as it is and at batch 1: once where the batch is fixed, and at batch 1 alone where its 1, 2, 3 or
    8 rows are all the same.
    Integer and boolean inputs are rows of the example: only the module knows what others would mean
    (an index into a table, a mask that hides a whole row).
    """
    generator = torch.Generator().manual_seed(_SEED)

    def normal(like: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
        if not like.is_floating_point():
            rows = torch.randint(max(len(like), 1), (len(like),), generator=generator) if like.dim() else ...
            return like[rows]
        return (torch.randn(like.shape, generator=generator, dtype=torch.float64) * scale).to(like.dtype)

    def constant(like: torch.Tensor) -> torch.Tensor:
        return torch.full_like(like, 0.5) if like.is_floating_point() else like

    def invented(
        name: str,
        batch: int,
        make: Callable[[torch.Tensor], torch.Tensor],
        sizes: Mapping[str, int] | None = None,
    ) -> Case:
        sized = at_batch(signature, example, batch, sizes)
        others = "".join(f", {symbol} {size}" for symbol, size in (sizes or {}).items())
        return Case(f"{name}, batch {batch}{others}", tuple(map(make, sized)), fallback=sized)

    one, two, three, large = BATCHES
    row = at_batch(signature, example, one)
    single = Case(f"example, batch {one}", row)
    return (
        *(() if signature.batch and _repeats(example, row) else (Case("example", example),)),
        *((single,) if signature.batch else ()),
        invented("normal", two, normal),
        invented("large range", three, lambda like: normal(like, _LARGE)),
        invented("constant", one, constant),
        *(
            invented("normal", batch, normal, sizes)
            for batch, sizes in zip((two, one, three), other_sizes(signature), strict=False)
        ),
        invented("normal", large, normal),
    )


def _repeats(example: tuple[torch.Tensor, ...], row: tuple[torch.Tensor, ...]) -> bool:
    """Whether the example is this row only, at a batch that occurs anyway: capture makes 2 rows of one so."""
    return all(
        torch.equal(x, first.expand_as(x)) and (x.shape == first.shape or len(x) in BATCHES)
        for x, first in zip(example, row, strict=True)
    )


def other_sizes(signature: Signature) -> tuple[dict[str, int], ...]:
    """What the free dimensions besides the batch are compared at, beyond the example's sizes.

    All at their smallest; all larger than in the example by about half; and each other one of them next to
    its smallest, so that no two that were equal in the example stay so.
    """
    rows = signature.sizes
    if not rows:
        return ()
    larger = {
        name: row.typical + row.step * max(1, row.typical // 2 // row.step) for name, row in rows.items()
    }
    next_to = {name: row.least + row.step * (1 + i % 2 * 2) for i, (name, row) in enumerate(rows.items())}
    wanted = ({name: row.least for name, row in rows.items()}, larger, next_to)
    allowed = ({n: s if s in rows[n] else rows[n].typical for n, s in sizes.items()} for sizes in wanted)
    return tuple(dict(sizes) for sizes in dict.fromkeys(tuple(sizes.items()) for sizes in allowed))


def at_batch(
    signature: Signature,
    inputs: tuple[torch.Tensor, ...],
    batch: int,
    sizes: Mapping[str, int] | None = None,
) -> tuple[torch.Tensor, ...]:
    """The inputs with their entries repeated or cut to a batch, and to other sizes where they are free."""
    wanted = {**(sizes or {}), **({signature.batch: batch} if signature.batch else {})}
    return tuple(
        resized(x, {axis: wanted[symbol] for axis, symbol in enumerate(spec.shape) if symbol in wanted})
        for x, spec in zip(inputs, signature.inputs, strict=True)
    )
