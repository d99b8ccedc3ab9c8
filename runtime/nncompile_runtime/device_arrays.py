"""torch tensors on a GPU, without importing torch: what one is, and results beside it.

Who gives such a tensor has imported torch. Only torch's tensors are taken: the memory of a result must not
be used again before the caller's stream is done with it, which torch's allocator sees to and DLPack cannot
express. An array of another library becomes a tensor without a copy by `torch.from_dlpack`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np


def is_on_gpu(value: Any) -> bool:
    """Whether a value of a feed is a tensor on a GPU; else it is an array of the host."""
    return not isinstance(value, np.ndarray)


@lru_cache(maxsize=64)
def numpy_dtype(dtype: Any) -> np.dtype[Any] | None:
    """Torch's dtype as numpy's; None where numpy has none."""
    try:
        return np.dtype(str(dtype).removeprefix("torch."))
    except TypeError:
        return None


@lru_cache(maxsize=64)
def torch_dtype(dtype: np.dtype[Any]) -> Any:
    """Numpy's dtype as torch's."""
    return getattr(_torch(), dtype.name)


def cast(tensor: Any, dtype: np.dtype[Any]) -> Any:
    """The tensor in another dtype, on its device."""
    return tensor.to(torch_dtype(dtype))


def empty(dtype: np.dtype[Any], shape: Sequence[int], like: Any) -> Any:
    """Memory on the device of the tensor `like`, tied to the current stream."""
    return _torch().empty(tuple(shape), dtype=torch_dtype(dtype), device=like.device)


def joined(parts: Sequence[Any]) -> Any:
    """Pieces of a batch as one tensor, or one array."""
    return _torch().cat(tuple(parts)) if is_on_gpu(parts[0]) else np.concatenate(parts)


def to_host(tensor: Any) -> Any:
    """A tensor's values as an array; waits for them."""
    return tensor.cpu().numpy()


def to_gpu(array: Any, like: Any) -> Any:
    """An array's values as a tensor on the device of `like`."""
    return empty(array.dtype, array.shape, like).copy_(_torch().from_numpy(array))


def callers_stream(tensor: Any) -> int:
    """Handle of the calling thread's current stream on the tensor's GPU; 0 is the default one."""
    return int(_torch().cuda.current_stream(tensor.device).cuda_stream)


def _torch() -> Any:
    return sys.modules["torch"]
