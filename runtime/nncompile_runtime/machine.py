"""The machine that a plan is chosen for: processors that may be used, and a fingerprint."""

from __future__ import annotations

import math
import os
import platform
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")
_TOPOLOGY = Path("/sys/devices/system/cpu")
_CPU_INFO = Path("/proc/cpuinfo")
_VECTOR_FLAGS = ("avx2", "fma", "avx512f", "avx512_vnni", "asimd")


@dataclass(frozen=True)
class Machine:
    """What decides how fast a plan is.

    Attributes:
        cpu: Processor model, as the system names it.
        vector_flags: The vector extensions that matter to kernels.
        processors: How many cores this process may keep busy.
        onnxruntime: Version of the installed ONNX Runtime; empty where there is none.
    """

    cpu: str
    vector_flags: tuple[str, ...]
    processors: int
    onnxruntime: str

    @property
    def fingerprint(self) -> str:
        """A readable key under which a plan for this machine is kept."""
        flags = "+".join(self.vector_flags) or "no vector flags"
        return f"{self.cpu[:128]} | {flags} | {self.processors} cpus | onnxruntime {self.onnxruntime}"[:256]


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
    )


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
    """The installed ONNX Runtime distributions, name -> version."""
    found = {}
    for name in ("onnxruntime", "onnxruntime-gpu"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


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
