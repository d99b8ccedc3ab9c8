"""Arrays in .npy and .npz files, never through pickle."""

from __future__ import annotations

import io
import os
import tokenize
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from nncompile_runtime import container
from nncompile_runtime.errors import InputError, NncompileError
from nncompile_runtime.inputs import Array
from nncompile_runtime.manifest import TensorSpec

SUFFIXES = frozenset({".npy", ".npz"})


def read_arrays(path: str | os.PathLike[str]) -> tuple[tuple[Array, ...], dict[str, Array]]:
    """Read inputs from a file.

    Returns:
        One positional array for `.npy`; arrays by name for `.npz`.

    Raises:
        InputError: The file is missing, damaged, or holds Python objects.
    """
    name = os.fspath(path)
    try:
        with np.load(name, allow_pickle=False) as loaded:
            return (), {key: loaded[key] for key in loaded.files}
    except (AttributeError, TypeError):  # a .npy file gives an array, which is no context manager
        return (np.load(name, allow_pickle=False),), {}
    except (
        OSError,
        ValueError,
        EOFError,
        MemoryError,
        NotImplementedError,
        tokenize.TokenError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        system = error.strerror if isinstance(error, OSError) else None
        # Whatever is neither an array nor an archive, numpy takes for a pickle, and recommends to allow that.
        reason = system or ("it holds no array" if _is_neither(name) else str(error).rstrip("."))
        raise InputError(
            f"{name} cannot be read: {reason}.",
            remedy="Check the path and its permissions."
            if system
            else "Give a .npy or .npz file of plain numbers.",
        ) from None


def _is_neither(path: str) -> bool:
    """Whether a file begins like neither of the two formats (numpy.lib.format; PKZIP's APPNOTE)."""
    with open(path, "rb") as file:
        return not file.read(6).startswith((b"\x93NUMPY", b"PK\x03\x04", b"PK\x05\x06"))


def write_arrays(path: str | os.PathLike[str], specs: Sequence[TensorSpec], arrays: Sequence[Array]) -> None:
    """Write outputs: `.npz` by name, or `.npy` where there is one.

    Raises:
        NncompileError: Several outputs do not fit one `.npy`, or the file cannot be written.
    """
    buffer = io.BytesIO()
    if Path(path).suffix == ".npz":
        with zipfile.ZipFile(buffer, "w") as archive:  # numpy.savez cannot take an array named "file"
            for spec, array in zip(specs, arrays, strict=True):
                with archive.open(f"{spec.name}.npy", "w", force_zip64=True) as member:
                    np.save(member, array)
    elif len(arrays) == 1:
        np.save(buffer, arrays[0])
    else:
        raise NncompileError(
            f"The model has {len(arrays)} outputs; .npy holds one.", remedy="Write a .npz file."
        )
    container.write(path, buffer.getvalue())
