"""CuPy's arrays, without importing CuPy: who gives one has. What is asked of them, and made beside them.

The memory of an array goes back to the stream that was current when it was allocated, and only what that
stream is given afterwards gets it: CuPy's pool keeps free memory apart by stream, and its asynchronous one
frees on that stream (`SingleDeviceMemoryPool` and `MemoryAsync` in cupy/cuda/memory.pyx). So results are
allocated here. CuPy computes on the current device, which need not be that of its arrays.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np


def owns(value: Any) -> bool:
    """Whether `value` is one of CuPy's arrays, which all lie on a GPU."""
    return isinstance(value, getattr(sys.modules.get("cupy"), "ndarray", ()))


def memory_of(array: Any, dtype: np.dtype[Any] | None, device: str) -> Any:
    """The array where it is fed as it is; None for one that needs a closer look.

    Args:
        array: One of CuPy's.
        dtype: What the graph takes.
        device: Where the model runs: `cpu`, `cuda:0` and so on.
    """
    fit = array.dtype == dtype and array.flags.c_contiguous and f"cuda:{array.data.device_id}" == device
    return array if fit else None


def device(array: Any) -> str:
    """Where it lies, `cuda:0` say."""
    return f"cuda:{array.data.device_id}"


def described(array: Any) -> str:
    """What it is, for a message."""
    return f"a CuPy array of {array.dtype}, device {device(array)}"


def moving(device: str) -> str:
    """Code that moves an array `x` to a device."""
    number = device.partition(":")[2]
    return "x.get()" if device == "cpu" else f"with cupy.cuda.Device({number}): x = cupy.asarray(x)"


def casting(dtype: str) -> str:
    """Code that casts an array `x` to a dtype of that name; bfloat16 is given, and taken, as float32."""
    return f"x.astype('{'float32' if dtype == 'bfloat16' else dtype}')"


def plain(array: Any, _dtype: np.dtype[Any]) -> Any:
    """The array as values in memory; every one is."""
    return array


def numpy_dtype(array: Any) -> np.dtype[Any]:
    """Its dtype, which is numpy's."""
    found: np.dtype[Any] = array.dtype
    return found


def cast(array: Any, dtype: np.dtype[Any]) -> Any:
    """The array in another dtype, on its device."""
    with array.device:
        return array.astype(dtype)


def contiguous(array: Any) -> Any:
    """The array, or a copy, whose elements lie row by row without gaps."""
    with array.device:
        return _cupy().ascontiguousarray(array)


def address(array: Any) -> int:
    """Of its first element."""
    return int(array.data.ptr)


def empty(dtype: np.dtype[Any], shape: Sequence[int], like: Any) -> Any:
    """Memory on the device of the array `like`, tied to the current stream."""
    with like.device:
        return _cupy().empty(tuple(shape), dtype)


def joined(parts: Sequence[Any]) -> Any:
    """Pieces of a batch as one array."""
    with parts[0].device:
        return _cupy().concatenate(tuple(parts))


def to_host(array: Any) -> Any:
    """Its values as an array of numpy; waits for them."""
    with array.device:
        return array.get()


def to_gpu(array: Any, like: Any) -> Any:
    """The values of an array of numpy on the device of `like`."""
    with like.device:
        return _cupy().asarray(array)


def callers_stream(array: Any) -> int:
    """Handle of the calling thread's current stream on the array's GPU; 0 is the default one."""
    return int(_cupy().cuda.get_current_stream(array.data.device_id).ptr)


def _cupy() -> Any:
    return sys.modules["cupy"]
