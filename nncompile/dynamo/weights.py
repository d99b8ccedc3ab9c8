"""Weights that became constants, and whether they still are what they were.

A write by `p.copy_`, an optimiser or `load_state_dict` is counted in `p._version`. One by way of `p.data` or
of a numpy array on the same memory is not, so by default the values are compared at each call, bit by bit:
one pass over the weights at the speed of memory.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable, Sequence

import torch

_SAME_SIZE = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_Look = Callable[[torch.Tensor], bool]

_differ = ctypes.CDLL(None).memcmp
_differ.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two tensors of one dtype hold the same, NaN and the sign of zero included."""
    if a.dtype is torch.complex128:  # no integer is as wide
        a, b = torch.view_as_real(a), torch.view_as_real(b)
    bits = _SAME_SIZE[a.dtype.itemsize]
    return torch.equal(a.detach().view(bits), b.detach().view(bits))


class Frozen:
    """Some weights as they were when they were compiled in."""

    def __init__(
        self, weights: Sequence[torch.Tensor], forget: Callable[[object], None], *, trusting: bool
    ) -> None:
        """Remember the weights.

        Args:
            weights: Dense tensors.
            forget: Called when one of them is no more.
            trusting: Whether to go by what torch counts, and to keep no copy.
        """
        self._looks: list[tuple[weakref.ref[torch.Tensor], _Look]] = []
        for weight in weights:
            counts = trusting and not weight.is_inference()  # which has no counter
            self._looks.append(
                (weakref.ref(weight, forget), _counted(weight) if counts else _compared(weight))
            )

    def still(self, weights: Sequence[torch.Tensor]) -> bool:
        """Whether these are the same tensors, holding the same."""
        for weight, (own, same) in zip(weights, self._looks, strict=True):
            if own() is not weight or not same(weight):
                return False
        return True

    @property
    def gone(self) -> bool:
        """Whether one of the tensors is no more: no call will bring it."""
        return any(own() is None for own, _ in self._looks)


def _counted(weight: torch.Tensor) -> _Look:
    version, place = weight._version, weight.data_ptr()
    return lambda now: now._version == version and now.data_ptr() == place


def _compared(weight: torch.Tensor) -> _Look:
    kept = weight.detach().clone()
    if not (weight.is_cpu and weight.is_contiguous()):
        return lambda now: same_bits(now, kept)

    def same(now: torch.Tensor, place: int = kept.data_ptr(), size: int = kept.nbytes) -> bool:
        return not _differ(now.data_ptr(), place, size)

    same.kept = kept  # type: ignore[attr-defined]  # whose memory is at `place`
    return same
