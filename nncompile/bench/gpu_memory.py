"""How much of a GPU's memory is taken, asked of the driver: every allocator's, without torch.

The functions are those of https://docs.nvidia.com/cuda/cuda-driver-api (primary context, memory management).
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

from nncompile_runtime.errors import DeviceError

_DRIVER = "libcuda.so.1"


class GpuMemory:
    """The memory of one GPU. What other processes take counts too."""

    def __init__(self, number: int = 0, load: Callable[[str], Any] = ctypes.CDLL) -> None:
        """Open the GPU; its context, which every engine shares, is there from now on.

        Args:
            number: Index of the GPU.
            load: Opens a shared library by name, or raises OSError.

        Raises:
            DeviceError: There is no driver, or it refuses.
        """
        try:
            self._driver = load(_DRIVER)
        except OSError:
            raise DeviceError(
                f"There is no NVIDIA driver ({_DRIVER}).", remedy="Run this on a machine with an NVIDIA GPU."
            ) from None
        device, self._context = ctypes.c_int(), ctypes.c_void_p()
        self._ask("cuInit", 0)
        self._ask("cuDeviceGet", ctypes.byref(device), number)
        self._ask("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), device)

    def used(self) -> int:
        """Bytes that are not free."""
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self._ask("cuCtxPushCurrent_v2", self._context)
        try:
            self._ask("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        finally:
            self._ask("cuCtxPopCurrent_v2", ctypes.byref(ctypes.c_void_p()))
        return total.value - free.value

    def _ask(self, function: str, *arguments: Any) -> None:
        status = getattr(self._driver, function)(*arguments)
        if status:
            raise DeviceError(
                f"The NVIDIA driver's {function} fails with CUDA error {status}.",
                remedy="Run nncompile doctor, which says what is missing, or leave --cold out.",
            )
