"""torch's tensors, without importing torch: who gives one has. What is asked of them, and made beside them.

The memory of a tensor goes back to the stream that was current when it was allocated, and only what that
stream is given afterwards gets it (`c10/cuda/CUDACachingAllocator.cpp`). So results are allocated here.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

_ON_HOST = ("cpu", "meta")  # a meta tensor has no values, which is found where they are asked for


def is_tensor(value: Any) -> bool:
    """Whether `value` is a torch tensor, wherever it lies."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def owns(value: Any) -> bool:
    """Whether `value` is a torch tensor that is not on the host."""
    return is_tensor(value) and value.device.type not in _ON_HOST


def memory_of(tensor: Any, dtype: np.dtype[Any] | None, device: str) -> Any:
    """What is fed for a plain tensor of the right dtype and place; None for one that needs a closer look.

    Args:
        tensor: A torch tensor.
        dtype: What the graph takes.
        device: Where the model runs: `cpu`, `cuda:0` and so on.

    Returns:
        An array on the memory of a tensor of the host, or the tensor on the GPU.
    """
    if tensor.is_cpu:
        try:
            array = tensor.numpy(force=True)
        except (TypeError, RuntimeError):
            return None
        return array if array.dtype == dtype else None
    # Of a dtype that a graph takes none is conjugated or quantised.
    fit = _numpy_dtype(tensor.dtype) == dtype and tensor.layout is _torch().strided
    fit = fit and tensor.is_contiguous() and not tensor.is_neg()
    return tensor if fit and str(tensor.device) == device else None


def device(tensor: Any) -> str:
    """Where it lies, `cuda:0` say."""
    return str(tensor.device)


def described(tensor: Any) -> str:
    """What it is, for a message."""
    return f"a torch tensor of {tensor.dtype}, layout {tensor.layout}, device {tensor.device}"


def moving(device: str) -> str:
    """Code that moves a tensor `x` to a device."""
    return "x.cpu()" if device == "cpu" else f"x.to('{device}')"


def casting(dtype: str) -> str:
    """Code that casts a tensor `x` to a dtype of that name."""
    return f"x.to(torch.{dtype})"


def plain(tensor: Any, dtype: np.dtype[Any]) -> Any:
    """The tensor as values in memory; None for a sparse or quantised one.

    bfloat16, which numpy lacks, becomes float32 where `dtype`, to which it will be cast, holds that.
    """
    if tensor.layout is not _torch().strided or tensor.is_quantized:
        return None
    found = tensor.detach().resolve_conj().resolve_neg()
    widened = found.dtype is _torch().bfloat16 and dtype in (np.float32, np.float64)
    return found.float() if widened else found


def numpy_dtype(tensor: Any) -> np.dtype[Any] | None:
    """Its dtype as numpy's; None where numpy has none."""
    return _numpy_dtype(tensor.dtype)


def cast(tensor: Any, dtype: np.dtype[Any]) -> Any:
    """The tensor in another dtype, on its device."""
    return tensor.to(_torch_dtype(dtype))


def contiguous(tensor: Any) -> Any:
    """The tensor, or a copy, whose elements lie row by row without gaps."""
    return tensor.contiguous()


def address(tensor: Any) -> int:
    """Of its first element."""
    return int(tensor.data_ptr())


def empty(dtype: np.dtype[Any], shape: Sequence[int], like: Any) -> Any:
    """Memory on the device of the tensor `like`, tied to the current stream."""
    return _torch().empty(tuple(shape), dtype=_torch_dtype(dtype), device=like.device)


def joined(parts: Sequence[Any]) -> Any:
    """Pieces of a batch as one tensor."""
    return _torch().cat(tuple(parts))


def to_host(tensor: Any) -> Any:
    """A tensor's values as an array; waits for them."""
    return tensor.detach().cpu().numpy()


def to_gpu(array: Any, like: Any) -> Any:
    """An array's values as a tensor on the device of `like`."""
    return empty(array.dtype, array.shape, like).copy_(_torch().from_numpy(array))


def callers_stream(tensor: Any) -> int:
    """Handle of the calling thread's current stream on the tensor's GPU; 0 is the default one."""
    torch = _torch()
    ask = getattr(torch._C, "_cuda_getCurrentRawStream", None)  # as the code that torch.compile writes does
    if ask is not None:
        return int(ask(tensor.device.index))
    return int(torch.cuda.current_stream(tensor.device).cuda_stream)


@lru_cache(maxsize=64)
def _numpy_dtype(dtype: Any) -> np.dtype[Any] | None:
    try:
        return np.dtype(str(dtype).removeprefix("torch."))
    except TypeError:
        return None


@lru_cache(maxsize=64)
def _torch_dtype(dtype: np.dtype[Any]) -> Any:
    return getattr(_torch(), dtype.name)


def _torch() -> Any:
    return sys.modules["torch"]
