"""Native fused kernels for nncompile: a custom-operator library of ONNX Runtime, a build an instruction set.

The operator is `nncompile::FusedRegion`. Register `library_path()` with
`onnxruntime.SessionOptions.register_custom_ops_library`; nncompile's runtime does so by itself.
"""

from __future__ import annotations

import ctypes
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TypedDict

__all__ = ["OPTIONS", "Info", "info", "library_path", "report"]

OPTIONS = ("threads", "exact", "winograd", "lanes", "split", "session")
"""What a session may be asked for, as its configuration entries `nncompile.<option>` (docs/plans.md)."""

_BEST_FIRST = ("avx512", "avx2")
_PREFIX = "nncompile_kernels_"
_FOLDER = Path(__file__).parent


class Info(TypedDict):
    """What is installed, and what of it this CPU runs."""

    version: str
    built: list[str]
    used: str | None


@cache
def library_path(instruction_set: str | None = None) -> str | None:
    """The library for this CPU.

    Args:
        instruction_set: "avx512", "avx2" or "portable" instead of the best one. "portable" is the reference
            of the tests: plain C++, slower than ONNX Runtime.

    Returns:
        The path of a shared library, or None where this CPU can run none (or not that one).
    """
    for name in _BEST_FIRST if instruction_set is None else (instruction_set,):
        path = _FOLDER / f"{_PREFIX}{name}.so"
        if path.is_file() and _runs_here(path):
            return str(path)
    return None


def info() -> Info:
    """The version, the instruction sets that were built, and the one that is used on this CPU."""
    try:
        installed = version("nncompile-kernels")
    except PackageNotFoundError:
        installed = "unknown"
    path = library_path()
    built = sorted(file.stem.removeprefix(_PREFIX) for file in _FOLDER.glob(f"{_PREFIX}*.so"))
    used = Path(path).stem.removeprefix(_PREFIX) if path else None
    return Info(version=installed, built=built, used=used)


def report(session: int, instruction_set: str | None = None) -> list[str]:
    """What the regions of a session chose; told once, and then forgotten.

    Args:
        session: What it was given as its configuration entry `nncompile.session`, 1 or more.
        instruction_set: Of its library; as for `library_path`.

    Returns:
        `lanes W` for samples in W lanes; then for each convolution that Winograd's algorithm applies to
        its weight's shape and output plane, 1 where that algorithm runs it and 0 where not, its cost over
        that of the definition, and where it runs `tiles` or, along the rows alone, `rows`:
        `16x6x5x5@10x10 1 0.412 rows`.
    """
    path = library_path(instruction_set)
    if path is None:
        return []
    ask = ctypes.CDLL(path).nncompile_kernels_report
    ask.restype, ask.argtypes = ctypes.c_size_t, (ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t)
    text = ctypes.create_string_buffer(ask(session, None, 0))
    length = ask(session, text, len(text))
    return text.raw[:length].decode().splitlines()


def _runs_here(path: Path) -> bool:
    """Ask the library itself: that part of it is compiled for any CPU."""
    try:
        return bool(ctypes.CDLL(str(path)).nncompile_kernels_supported())
    except OSError:
        return False
