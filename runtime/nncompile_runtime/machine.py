"""The machine that a plan is chosen for: processors that may be used, and a fingerprint."""

from __future__ import annotations

import contextlib
import math
import os
import platform
import re
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")
_TOPOLOGY = Path("/sys/devices/system/cpu")
_CPU_INFO = Path("/proc/cpuinfo")
_NVIDIA = Path("/proc/driver/nvidia")
_KERNELS = "nncompile-kernels"
_VECTOR_FLAGS = ("avx2", "fma", "avx512f", "avx512_vnni", "asimd")


@dataclass(frozen=True)
class Machine:
    """What decides how fast a plan is.

    Attributes:
        cpu: Processor model, as the system names it.
        vector_flags: The vector extensions that matter to kernels.
        processors: How many cores this process may keep busy.
        onnxruntime: Version of the installed ONNX Runtime; empty where there is none.
        kernels: Version of the installed native kernels; empty where there are none.
        gpus: Models of the NVIDIA GPUs, in their order.
        driver: Version of NVIDIA's driver; empty where there is none.
        quota: Processors' worth of time that the control group allows; None without a limit.
    """

    cpu: str
    vector_flags: tuple[str, ...]
    processors: int
    onnxruntime: str
    kernels: str = ""
    gpus: tuple[str, ...] = ()
    driver: str = ""
    quota: float | None = None

    @property
    def fingerprint(self) -> str:
        """A readable key under which plans for this machine are kept.

        Of many GPUs the first eight are named; the parts are cut to what the manifest's keys may hold.
        """
        flags = "+".join(self.vector_flags) or "no vector flags"
        quota = "" if self.quota is None else f" of {self.quota:.2f}"
        parts = [
            self.cpu[:64],
            flags[:40],
            f"{self.processors} cpus{quota}",
            f"onnxruntime {self.onnxruntime[:16]}",
            f"kernels {self.kernels[:16]}" if self.kernels else "no kernels",
        ]
        if self.driver:
            parts.append(f"{'+'.join(self.gpus[:8])[:48]}, driver {self.driver[:16]}")
        return " | ".join(parts)


@lru_cache(maxsize=1)
def this_machine() -> Machine:
    """The machine at hand, read once."""
    text = _read(_CPU_INFO)
    fields = {
        key.strip(): value.strip() for key, _, value in (line.partition(":") for line in text.splitlines())
    }
    present = set((fields.get("flags") or fields.get("Features") or "").split())
    return Machine(
        cpu=fields.get("model name") or platform.processor() or platform.machine(),
        vector_flags=tuple(flag for flag in _VECTOR_FLAGS if flag in present),
        processors=available_processors(),
        onnxruntime=next(iter(installed_onnxruntime().values()), ""),
        kernels=_version(_KERNELS) or "",
        gpus=nvidia_gpus(),
        driver=nvidia_driver(),
        quota=_cgroup_quota(_CGROUP),
    )


def nvidia_gpus(driver: Path = _NVIDIA) -> tuple[str, ...]:
    """Models of the GPUs, as NVIDIA's driver lists them in order of their bus addresses."""
    texts = (_read(path) for path in sorted(driver.glob("gpus/*/information")))
    models = (re.search(r"^Model:\s*(.+?)\s*$", text, re.MULTILINE) for text in texts)
    return tuple(found[1] for found in models if found)


def nvidia_driver(driver: Path = _NVIDIA) -> str:
    """Version of NVIDIA's kernel driver, say `550.54.15`; empty where there is none."""
    found = re.search(r"Kernel Module.*?\s(\d+(?:\.\d+)+)\s", _read(driver / "version"))
    return found[1] if found else ""


def available_processors(cgroup: Path = _CGROUP, topology: Path = _TOPOLOGY) -> int:
    """Cores that this process may keep busy: those of its affinity, cut to the cgroup's CPU quota.

    Two hardware threads of one core count once, as in ONNX Runtime's own default: they share its
    vector units.

    Args:
        cgroup: Where the control group's files are mounted (version 2 or 1).
        topology: Where the kernel lists, for each processor, those that share its core.
    """
    cores = _cores(topology)
    quota = _cgroup_quota(cgroup)
    return max(1, min(cores, math.ceil(quota)) if quota else cores)


def _cores(topology: Path) -> int:
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    allowed = os.sched_getaffinity(0)
    siblings = {
        _read(topology / f"cpu{n}" / "topology" / "thread_siblings_list").strip() or str(n) for n in allowed
    }
    return len(siblings)


def installed_onnxruntime() -> dict[str, str]:
    """The ONNX Runtime distributions in the folder that is imported from, name -> version.

    One in a later folder of the path is never imported and overwrites nothing: `pip install --target` puts
    onnxruntime-gpu in front of an onnxruntime that belongs to the system, for example.
    """
    folders: dict[str, str] = {}
    for name in ("onnxruntime", "onnxruntime-gpu"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            folders[name] = os.path.realpath(str(metadata.distribution(name).locate_file("")))
    spec = find_spec("onnxruntime")
    package = next(iter((spec and spec.submodule_search_locations) or ()), "")
    imported = os.path.dirname(os.path.realpath(package))
    names = [name for name in folders if folders[name] == imported] or list(folders)
    return {name: metadata.version(name) for name in names}


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _cgroup_quota(cgroup: Path) -> float | None:
    """CPUs' worth of time per period; None where there is no limit."""
    words = _read(cgroup / "cpu.max").split()
    if not words:
        words = [_read(cgroup / "cpu" / name).strip() for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us")]
    try:
        quota, period = float(words[0]), float(words[1])
    except (ValueError, IndexError):
        return None
    if not (quota > 0 and period > 0):
        return None
    cpus = quota / period
    return cpus if math.isfinite(cpus) else None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
