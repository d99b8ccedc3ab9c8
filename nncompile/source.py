"""An nn.Module from what a user writes on a command line: `path/file.py:Class` or `package.module:name`."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import logging
import pickle
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from nncompile_runtime.errors import CaptureError

_log = logging.getLogger("nncompile")

# How training scripts wrap a state dict in a checkpoint.
_WRAPPERS = ("state_dict", "model_state_dict", "model")
# nn.DataParallel and DistributedDataParallel hold the module they train under this name.
_PARALLEL = "module."
# How files begin that torch.save writes: a zip archive, or a pickle before torch 1.6.
_SAVED_BY_TORCH = (b"PK\x03\x04", b"\x80")


def load_module(reference: str, arguments: Mapping[str, Any], weights: Path | None) -> torch.nn.Module:
    """Create a module and load its weights. This runs the user's own code.

    Args:
        reference: `path/to/file.py:Name` or `package.module:Name`, where Name is an nn.Module class,
            a function that returns a module, or a module.
        arguments: Keyword arguments for the class or function.
        weights: A state dict: safetensors, or whatever `torch.load(weights_only=True)` reads.

    Raises:
        CaptureError: The file, the name or the weights are missing, fail, or do not fit.
    """
    module = _create(reference, _find(reference), arguments)
    if weights is not None:
        _load_weights(module, weights)
    return module


def parse_arguments(texts: Iterable[str]) -> dict[str, Any]:
    """`["out=10", "name=resnet18"]` to `{"out": 10, "name": "resnet18"}`: Python literals, else strings.

    Raises:
        CaptureError: A text has no `=`.
    """
    parsed: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier():
            raise CaptureError(f"--arg {text!r} is not NAME=VALUE.", remedy="For example: --arg out=10.")
        try:
            parsed[name] = ast.literal_eval(value)
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):  # what its docs list
            parsed[name] = value
    return parsed


def split_reference(reference: str) -> tuple[str, str]:
    """`path/file.py:Name` to `path/file.py` and `Name`.

    Raises:
        CaptureError: One of the two is missing.
    """
    place, colon, name = reference.rpartition(":")
    if not colon or not place or not name:
        raise CaptureError(
            f"{reference!r} does not name a module.",
            remedy="Write path/to/file.py:Class or package.module:Class; Class may be a factory function.",
        )
    return place, name


def _find(reference: str) -> Any:
    place, name = split_reference(reference)
    is_path = place.endswith(".py") or "/" in place
    if Path(place).suffix not in ("", ".py") and Path(place).is_file():
        raise CaptureError(f"{place} is no Python file.", remedy="Name the .py file that defines the class.")
    python = _import_file(Path(place).with_suffix(".py")) if is_path else _import_package(place)
    found = python
    for part in name.split("."):
        if not hasattr(found, part):
            raise CaptureError(f"{place} has no {name!r}.", remedy=_suggestion(python))
        found = getattr(found, part)
    return found


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise CaptureError(f"There is no file {path}.", remedy="Check the path before the colon.")
    # What the file itself imports: from where the user stands, and from beside the file.
    for folder in (str(Path.cwd()), str(path.resolve().parent)):
        if folder not in sys.path:
            sys.path.append(folder)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise CaptureError(f"{path} is no Python file.", remedy="Check the path before the colon.")
    python = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(path.stem, python)  # dataclasses and pickling look their module up
    try:
        spec.loader.exec_module(python)
    except (Exception, SystemExit) as error:
        raise _failed_import(str(path), error) from error
    return python


def _import_package(name: str) -> ModuleType:
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        raise _failed_import(name, error) from error


def _failed_import(place: str, error: BaseException) -> CaptureError:
    return CaptureError(
        f"{place} cannot be imported: {type(error).__name__}: {error}",
        remedy="Run it with python to see the whole error, or use --debug.",
    )


def _suggestion(python: ModuleType) -> str:
    own = [
        name
        for name, value in vars(python).items()
        if isinstance(value, type)
        and issubclass(value, torch.nn.Module)
        and value.__module__ == python.__name__
        and not name.startswith("_")
    ]
    return f"It has {', '.join(own)}." if own else "It defines no nn.Module class."


def _create(reference: str, found: Any, arguments: Mapping[str, Any]) -> torch.nn.Module:
    given = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
    if isinstance(found, torch.nn.Module):
        if arguments:
            raise CaptureError(
                f"{reference} is a module already; it takes no arguments ({given}).",
                remedy="Leave --arg out, or name its class.",
            )
        return found
    if not callable(found):
        raise CaptureError(
            f"{reference} is of type {type(found).__name__}.", remedy="Name a class, a function or a module."
        )
    try:
        module = found(**arguments)
    except (Exception, SystemExit) as error:
        raise CaptureError(
            f"{reference}({given}) fails: {type(error).__name__}: {error}",
            remedy=_arguments_of(found, arguments),
        ) from error
    if not isinstance(module, torch.nn.Module):
        raise CaptureError(
            f"{reference} returned {type(module).__name__}, not an nn.Module.",
            remedy="Name an nn.Module class, or a function that returns an instance of one.",
        )
    return module


def _arguments_of(found: Callable[..., Any], arguments: Mapping[str, Any]) -> str:
    """What to do where `found` fails with the arguments given: they do not fit, or its own code fails."""
    try:
        signature = inspect.signature(found)
    except (TypeError, ValueError):  # of code that was not written in Python
        return "Give its arguments with --arg NAME=VALUE."
    try:
        signature.bind(**arguments)
    except TypeError:
        bare = (p.replace(annotation=p.empty) for p in signature.parameters.values())
        return f"It takes ({', '.join(map(str, bare))}): give its arguments with --arg NAME=VALUE."
    given = "the --arg values and " if arguments else ""
    return f"Check {given}its code; --debug shows where it fails."


def _load_weights(module: torch.nn.Module, path: Path) -> None:
    state = _read_state(path)
    for wrapper in _WRAPPERS:
        if isinstance(state, Mapping) and isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
            break
    if not isinstance(state, Mapping) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise CaptureError(
            f"{path} holds no state dict of tensors.", remedy="Save module.state_dict() with safetensors."
        )
    try:
        module.load_state_dict(_without_parallel(state, module, path), strict=True)
    except RuntimeError as error:
        details = [_few(line.strip()) for line in str(error).splitlines()[1:] if line.strip()]
        more = f" And {len(details) - 4} more." if len(details) > 4 else ""
        raise CaptureError(
            f"The weights in {path} do not fit {type(module).__name__}: {' '.join(details[:4])}{more}",
            remedy="Check the class and its --arg values against the training script.",
        ) from None


def _few(line: str) -> str:
    """The first of the names that torch lists, and how many follow."""
    names = line.rstrip(". ").split('", "')
    return line if len(names) <= 4 else '", "'.join(names[:3]) + f'" and {len(names) - 3} more.'


def _without_parallel(
    state: Mapping[str, torch.Tensor], module: torch.nn.Module, path: Path
) -> Mapping[str, torch.Tensor]:
    """The names as the module has them, where they were saved from within a data-parallel wrapper."""
    wrapped = bool(state) and all(str(name).startswith(_PARALLEL) for name in state)
    if not wrapped or any(name.startswith(_PARALLEL) for name in module.state_dict()):
        return state
    _log.warning(
        "Every name in %s begins with %r, as nn.DataParallel saves them; it is left out.", path, _PARALLEL
    )
    return {name.removeprefix(_PARALLEL): tensor for name, tensor in state.items()}


def _read_state(path: Path) -> Any:
    if not path.is_file():
        raise CaptureError(f"There is no weights file {path}.", remedy="Check --weights.")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        if not _begins_as_saved_by_torch(path):
            raise ValueError("this is not a weights file")
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise CaptureError(
            f"{path} holds more than tensors, and loading it would run code from the file.",
            remedy="Save module.state_dict() with safetensors.torch.save_file, in a place you trust it.",
        ) from None
    except Exception as error:
        raise CaptureError(
            f"The weights in {path} cannot be read: {str(error).splitlines()[0] if str(error) else error!r}",
            remedy="Give a file named *.safetensors, or a state dict saved by torch.save.",
        ) from error


def _begins_as_saved_by_torch(path: Path) -> bool:
    """Whether the unpickler's verdict on the file means anything: it takes any other for dangerous code."""
    with path.open("rb") as file:
        return file.read(4).startswith(_SAVED_BY_TORCH)
