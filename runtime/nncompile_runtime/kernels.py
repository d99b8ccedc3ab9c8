"""The native kernels for fused regions, from the optional package nncompile-kernels.

A fused region is a node with a function (`nncompile.FusedRegion`). Where the kernels' library is registered
in a session it computes the node; elsewhere ONNX Runtime inlines the function: the same answers at plain
speed. The library's path comes from the installed package, never from a model or a plan.
"""

from __future__ import annotations

import logging
from functools import lru_cache
from importlib import import_module
from typing import Any, NamedTuple

from nncompile_runtime.plan import Plan

REGION = "FusedRegion"
_PACKAGE, _DISTRIBUTION = "nncompile_kernels", "nncompile-kernels"

_log = logging.getLogger("nncompile")


class Kernels(NamedTuple):
    """Whether kernels are there, or are used, with one line for people.

    Attributes:
        active: Whether they are.
        note: Their version, or why not.
    """

    active: bool
    note: str


class Library(NamedTuple):
    """The kernels' library as installed.

    Attributes:
        path: The file to register; None where it cannot be used.
        note: The package's version, or why not.
    """

    path: str | None
    note: str


def installed_library() -> Library:
    """Look for the library; a package that is broken is a reason, not an error."""
    try:
        package = import_module(_PACKAGE)
    except ModuleNotFoundError as error:
        if error.name == _PACKAGE:
            return Library(None, f"{_DISTRIBUTION} is not installed")
        return Library(None, f"{_DISTRIBUTION} cannot be imported: {error}")
    except Exception as error:
        return Library(None, f"{_DISTRIBUTION} cannot be imported: {error}")
    try:
        path, info = package.library_path(), package.info()
        named = f"{_DISTRIBUTION} {info['version']}"
        if path is None:
            return Library(None, f"{named} has no kernels for this processor")
        return Library(path, f"{named} ({info['used']})")
    except Exception as error:
        return Library(None, f"{_DISTRIBUTION} is broken: {type(error).__name__}: {error}")


def register(options: Any, plan: Plan) -> Kernels:
    """Offer the kernels to a session that is about to be created.

    Args:
        options: Its `onnxruntime.SessionOptions`.
        plan: How the session runs.
    """
    if plan.provider != "cpu":
        return Kernels(False, "the kernels are for the CPU")
    if not plan.native:
        return Kernels(False, "the plan says native=False")
    library = installed_library()
    if library.path is None:
        return Kernels(False, library.note)
    options.add_session_config_entry("nncompile.threads", str(plan.threads))
    options.add_session_config_entry("nncompile.exact", str(int(plan.exact)))
    try:
        options.register_custom_ops_library(library.path)
    except Exception as error:
        why = str(error).strip().partition("\n")[0]
        return refused(f"ONNX Runtime could not register {library.note}: {why}")
    return Kernels(True, library.note)


def refused(note: str) -> Kernels:
    """Installed kernels that cannot be used: warned about once, since all runs slower than it could."""
    _warn_once(note)
    return Kernels(False, note)


@lru_cache(maxsize=64)
def _warn_once(note: str) -> None:
    _log.warning("Fused regions run without the native kernels. %s.", note)
