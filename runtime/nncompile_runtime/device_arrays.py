"""Arrays of other libraries on a GPU: torch's and CuPy's, one module each, and what refuses all others.

The memory of a result must not be used again before the caller's stream is done with it. The allocators of
torch and CuPy see to that, and DLPack has no way to ask for it: another library's array becomes one of
theirs, without a copy, by `torch.from_dlpack` or `cupy.from_dlpack`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from nncompile_runtime import cupy_arrays, torch_arrays
from nncompile_runtime.torch_arrays import is_tensor

_DLPACK_HOST = (1, 3)  # kDLCPU, and kDLCUDAHost: pinned (https://dmlc.github.io/dlpack/latest/c_api.html)


class Library(Protocol):
    """The functions of the modules `torch_arrays` and `cupy_arrays`."""

    def owns(self, value: Any) -> bool:
        """Whether `value` is one of the library's that is not on the host."""

    def memory_of(self, array: Any, dtype: np.dtype[Any] | None, device: str, /) -> Any:
        """What is fed for an array of the right dtype and place; None for one that needs a closer look."""

    def device(self, array: Any, /) -> str:
        """Where it lies, `cuda:0` say."""

    def described(self, array: Any, /) -> str:
        """What it is, for a message."""

    def moving(self, device: str) -> str:
        """Code that moves an array `x` to a device."""

    def casting(self, dtype: str) -> str:
        """Code that casts an array `x` to a dtype of that name."""

    def plain(self, array: Any, dtype: np.dtype[Any], /) -> Any:
        """The array as values in memory, to be cast to a dtype; None where it is something else."""

    def numpy_dtype(self, array: Any, /) -> np.dtype[Any] | None:
        """Its dtype as numpy's; None where numpy has none."""

    def cast(self, array: Any, dtype: np.dtype[Any], /) -> Any:
        """The array in another dtype, on its device."""

    def contiguous(self, array: Any, /) -> Any:
        """The array, or a copy, whose elements lie row by row without gaps."""

    def address(self, array: Any, /) -> int:
        """Of its first element."""

    def empty(self, dtype: np.dtype[Any], shape: Sequence[int], like: Any) -> Any:
        """Memory on the device of the array `like`, tied to the current stream."""

    def joined(self, parts: Sequence[Any]) -> Any:
        """Pieces of a batch as one array."""

    def to_host(self, array: Any, /) -> Any:
        """Its values as an array of numpy; waits for them."""

    def to_gpu(self, array: Any, like: Any) -> Any:
        """The values of an array of numpy on the device of `like`."""

    def callers_stream(self, array: Any, /) -> int:
        """Handle of the calling thread's current stream on the array's GPU; 0 is the default one."""


_LIBRARIES: tuple[Library, ...] = (torch_arrays, cupy_arrays)


def library_of(value: Any) -> Library | None:
    """Whose a value on a GPU is; None for what is on the host, and for what no library here knows."""
    for library in _LIBRARIES:
        if library.owns(value):
            return library
    return None


def taker_of(value: Any) -> Library | None:
    """The same, but also for torch's tensors on the host."""
    if is_tensor(value):
        return torch_arrays
    return cupy_arrays if cupy_arrays.owns(value) else None


def to_take_over(value: Any) -> str | None:
    """Code that makes a tensor or a CuPy array of another library's array on a device, without a copy.

    Returns:
        None for what is on the host. `__array__` of any other might copy it there unasked.
    """
    where = getattr(value, "__dlpack_device__", None)
    if callable(where) and where()[0] not in _DLPACK_HOST:
        return "torch.from_dlpack(value) or cupy.from_dlpack(value)"
    if hasattr(value, "__cuda_array_interface__"):
        return "torch.as_tensor(value, device='cuda') or cupy.asarray(value)"
    return None


def joined(parts: Sequence[Any]) -> Any:
    """Pieces of a batch as one array, tensor or CuPy array."""
    library = library_of(parts[0])
    return np.concatenate(parts) if library is None else library.joined(parts)
