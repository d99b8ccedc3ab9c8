"""The libraries of CUDA that ONNX Runtime's provider needs: their names, and loading them from packages.

The names are those of `onnxruntime.preload_dlls`: CUDA's carry its major version, cuFFT's is one less, cuRAND
has stayed at 10, and cuDNN is 9. That function looks into the `site-packages` of ONNX Runtime itself, and
where the system looks. Packages may lie elsewhere: after `pip install --target`, or in an environment over
the system's packages.
"""

from __future__ import annotations

import contextlib
import io
import threading
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

# Two threads that redirect stdout at once would leave it redirected.
_printing = threading.Lock()

Load = Callable[[str], Any]


def names_of(cuda_version: str) -> tuple[str, ...]:
    """What a provider that was built for this version of CUDA, such as `13.0`, is linked to."""
    major = int(cuda_version.partition(".")[0])
    # cuBLAS comes after its Lt, which it needs.
    of_cuda = tuple(f"lib{name}.so.{major}" for name in ("cudart", "cublasLt", "cublas"))
    return (*of_cuda, "libcurand.so.10", f"libcufft.so.{major - 1}", "libcudnn.so.9")


def load_all(onnxruntime: Any, names: tuple[str, ...], load: Load) -> dict[str, str | None]:
    """Load libraries, which stay loaded: by ONNX Runtime, else from any package that Python would import.

    Args:
        onnxruntime: The module.
        names: The libraries, each after those that it needs.
        load: Opens a shared library by name or by file, or raises OSError.

    Returns:
        The file of each; its name alone where the system does not tell, None where it cannot be loaded.
    """
    # What this prints of failures is found again below.
    with _printing, contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(Exception):
        onnxruntime.preload_dlls()
    for name in names:
        if not _loads(name, load):
            any(_loads(str(file), load) for folder in folders() for file in _in_folder(folder, name))
    return _files(names, load)


def folders() -> list[Path]:
    """Where Python's packages keep such libraries: NVIDIA's, and torch, which is not imported for it."""
    return [*_locations("nvidia"), *(folder / "lib" for folder in _locations("torch"))]


def _locations(package: str) -> Iterator[Path]:
    with contextlib.suppress(ValueError):  # a module that something put there, without a spec
        spec = find_spec(package)
        yield from map(Path, (spec.submodule_search_locations or ()) if spec else ())


def _in_folder(folder: Path, name: str) -> list[Path]:
    """`torch/lib/NAME`; `nvidia/cu13/lib/NAME` or, of CUDA 12, `nvidia/cublas/lib/NAME`."""
    return [file for pattern in (name, f"*/lib/{name}") for file in sorted(folder.glob(pattern))]


def _loads(library: str, load: Load) -> bool:
    try:
        load(library)
    except OSError:
        return False
    return True


def _files(names: tuple[str, ...], load: Load) -> dict[str, str | None]:
    """The file that each library was loaded from; its name alone where the system does not tell."""
    files = {name: name if _loads(name, load) else None for name in names}
    with contextlib.suppress(OSError):  # read once: a process with CUDA has thousands of these lines
        for line in Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines():
            file = line.rpartition("/")[2]
            for name in names if file.startswith(names) else ():
                if file.startswith(name) and files[name] == name:
                    files[name] = line.split(maxsplit=5)[-1]
    return files
