"""The inputs that engines are compared on: seeded, of the signature's shapes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy.typing as npt

from nncompile_runtime.devices import candidates
from nncompile_runtime.errors import DeviceError, NncompileError
from nncompile_runtime.feeds import standard_feed
from nncompile_runtime.manifest import Signature

Array = npt.NDArray[Any]


def make_feed(
    signature: Signature, batch: int, sizes: Mapping[str, int] | None = None, seed: int = 0
) -> dict[str, Array]:
    """`standard_feed` by graph input name.

    Raises:
        InputError: A free dimension has no size.
    """
    names = (spec.name for spec in signature.inputs)
    return dict(zip(names, standard_feed(signature, batch, sizes, seed), strict=True))


TRANSFERS = ("none", "in-out")


def check_placement(device: str, transfers: str) -> None:
    """Refuse what is no place for a benchmark.

    Raises:
        DeviceError: There is no such device; `auto` is none, because a report must say where it ran.
        NncompileError: There is no such way of counting transfers.
    """
    if device == "auto":
        raise DeviceError("device='auto' does not say what is measured.", remedy="Use 'cpu' or 'cuda'.")
    candidates(device)
    if transfers not in TRANSFERS:
        raise NncompileError(
            f"transfers={transfers!r} is not offered.", remedy=f"Choose from {', '.join(TRANSFERS)}."
        )


def placed(feed: Mapping[str, Array], device: str, transfers: str) -> Mapping[str, Any]:
    """A feed where a benchmark's calls find it: on the GPU, where no transfer is to be counted.

    Args:
        feed: Inputs by graph input name.
        device: Where the model runs.
        transfers: `none` or `in-out`; means nothing on the CPU.
    """
    if device == "cpu" or transfers != "none":
        return feed
    import torch

    return {name: torch.from_numpy(array).to(device) for name, array in feed.items()}


def fixed_batch(signature: Signature) -> int | None:
    """The one batch that the model takes; None where any will do."""
    if signature.batch is not None:
        return None
    first = next((spec.shape[0] for spec in signature.inputs if spec.shape), 1)
    return first if isinstance(first, int) else 1


def check_batches(signature: Signature, batches: tuple[int, ...]) -> None:
    """Refuse batches that cannot be measured.

    Raises:
        NncompileError: There is none, one is below 1, or the model's batch is fixed to another size.
    """
    fixed = fixed_batch(signature)
    if not batches or any(type(batch) is not int or batch < 1 for batch in batches):
        raise NncompileError(
            f"The batches are {list(batches)}.", remedy="Give one or more whole numbers from 1 on."
        )
    if fixed is not None and set(batches) != {fixed}:
        raise NncompileError(
            f"The model's batch is fixed to {fixed}, so {list(batches)} cannot be measured.",
            remedy=f"Measure batch {fixed} only, or compile with dynamic_batch=True.",
        )
