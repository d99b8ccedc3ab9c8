"""The native kernels for fused regions, from the optional package nncompile-kernels.

A fused region is a node with a function (`nncompile.FusedRegion`). Where the kernels' library is registered
in a session it computes the node; elsewhere ONNX Runtime inlines the function: the same answers at plain
speed. The library's path comes from the installed package, never from a model or a plan.
"""

from __future__ import annotations

import logging
from functools import lru_cache
from importlib import import_module
from itertools import count
from typing import Any, NamedTuple

from nncompile_runtime.plan import Plan

REGION = "FusedRegion"
_PACKAGE, _DISTRIBUTION = "nncompile_kernels", "nncompile-kernels"

# What kernels take that say nothing of what they take.
_FIRST_OPTIONS = ("threads", "exact")
_sessions = count(1)
_log = logging.getLogger("nncompile")


class Layer(NamedTuple):
    """The convolutions of one shape, where Winograd's algorithm applies to them.

    Attributes:
        name: The shape of the weight and the output's plane: `16x6x5x5@10x10`.
        winograd: Whether that algorithm runs them.
        cost: What the kernels reckon that it costs, over what the definition does.
        rows: Whether it runs along the rows alone (F(4, r)), not in tiles (F(4 x 4, r x r)).
    """

    name: str
    winograd: bool
    cost: float
    rows: bool = False


class Kernels(NamedTuple):
    """Whether kernels are there, or are used, with one line for people.

    Attributes:
        active: Whether they are.
        note: Their version, or why not.
        lanes: The fewest samples that they put into the lanes of a vector; 0 where they do so with none.
        layers: Where they had to choose an algorithm, and what they chose.
        session: The number by which the library knows the session; 0 where it does not.
    """

    active: bool
    note: str
    lanes: int = 0
    layers: tuple[Layer, ...] = ()
    session: int = 0


class Library(NamedTuple):
    """The kernels' library as installed.

    Attributes:
        path: The file to register; None where it cannot be used.
        note: The package's version, or why not.
        options: What a session may ask of it, as `nncompile.<option>`.
    """

    path: str | None
    note: str
    options: tuple[str, ...] = ()


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
        options = tuple(getattr(package, "OPTIONS", _FIRST_OPTIONS))
        return Library(path, f"{named} ({info['used']})", options)
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
    asked = _asked(plan)
    unknown = sorted(asked.keys() - set(library.options))
    if unknown:
        return refused(f"{library.note} knows no {', '.join(unknown)}, which the plan gives; update it")
    number = next(_sessions) if "session" in library.options else 0
    if number:
        asked["session"] = str(number)
    for name, value in asked.items():
        options.add_session_config_entry(f"nncompile.{name}", value)
    try:
        options.register_custom_ops_library(library.path)
    except Exception as error:
        why = str(error).strip().partition("\n")[0]
        return refused(f"ONNX Runtime could not register {library.note}: {why}")
    return Kernels(True, library.note, session=number)


def _asked(plan: Plan) -> dict[str, str]:
    """What a session asks of the kernels: beside the oldest options only what the plan says."""
    asked = {"threads": str(plan.threads), "exact": str(int(plan.exact))}
    if plan.winograd != "auto":
        asked["winograd"] = plan.winograd
    if not plan.lanes:
        asked["lanes"] = "off"
    if plan.split is not None:
        asked["split"] = str(plan.split)
    return asked


def with_choices(kernels: Kernels, plan: Plan, model: str) -> Kernels:
    """What the kernels of a session that was just opened have chosen.

    Args:
        kernels: Of the session.
        plan: How it runs. One that names convolutions which the model does not have is warned about.
        model: Its name, for that warning.
    """
    if not kernels.session:
        return kernels
    lines = [line.split() for line in import_module(_PACKAGE).report(kernels.session)]
    lanes = min((int(line[1]) for line in lines if line[0] == "lanes"), default=0)
    layers = {
        name: Layer(name, runs == "1", float(cost), form == ["rows"])  # the oldest kernels tell no form
        for name, runs, cost, *form in (line for line in lines if line[0] != "lanes")
    }
    if "@" in plan.winograd and not plan.exact:
        missing = [name for name in plan.winograd.split(",") if name not in layers]
        if missing:
            _log.warning(
                "The plan's winograd names %s; of %s it applies to %s.",
                ", ".join(missing),
                model,
                ", ".join(layers) or "no convolution",
            )
    return kernels._replace(lanes=lanes, layers=tuple(layers.values()))


def refused(note: str) -> Kernels:
    """Installed kernels that cannot be used: warned about once, since all runs slower than it could."""
    _warn_once(note)
    return Kernels(False, note)


@lru_cache(maxsize=64)
def _warn_once(note: str) -> None:
    _log.warning("Fused regions run without the native kernels. %s.", note)
