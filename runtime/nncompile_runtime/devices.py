"""Which execution provider a `device` argument stands for."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple

from nncompile_runtime.errors import DeviceError

_log = logging.getLogger("nncompile")
NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")
# One of them is there where a driver is: sandboxes such as gVisor show no /proc/driver, WSL only the last.
_SIGNS = (NVIDIA_DRIVER, Path("/dev/nvidiactl"), Path("/usr/lib/wsl/lib/libcuda.so.1"))


class Device(NamedTuple):
    """An execution provider and the index of its device."""

    provider: Literal["cpu", "cuda"]
    number: int = 0

    def __str__(self) -> str:
        """`cpu`, `cuda:0`, ..."""
        return self.provider if self.provider == "cpu" else f"{self.provider}:{self.number}"


CPU = Device("cpu")


def candidates(device: str, signs: Sequence[Path] = _SIGNS) -> tuple[Device, ...]:
    """The devices to try in order; one for a strict request, perhaps two for `auto`.

    Args:
        device: `cpu`, `cuda`, `cuda:1` or `auto`.
        signs: Files of which one is there where an NVIDIA driver is.

    Raises:
        DeviceError: The name is none of these.
    """
    kind, colon, index = device.partition(":") if isinstance(device, str) else ("", "", "")
    if device == "auto":
        if any(sign.exists() for sign in signs):
            return Device("cuda"), CPU
        say_cpu("there is no NVIDIA driver", logging.INFO)
        return (CPU,)
    if device == "cpu":
        return (CPU,)
    if kind == "cuda" and (not colon or (index.isascii() and index.isdigit() and int(index) < 256)):
        return (Device("cuda", int(index or 0)),)
    raise DeviceError(f"Unknown device {device!r}.", remedy="Use 'auto', 'cpu', 'cuda' or 'cuda:1'.")


@lru_cache(maxsize=64)
def say_cpu(why: str, level: int = logging.WARNING) -> None:
    """Log that `auto` takes the CPU; each reason once a process, however many models are loaded."""
    _log.log(level, "device='auto': running on the CPU, because %s", why)
