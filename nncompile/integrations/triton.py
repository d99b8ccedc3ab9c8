"""A compiled file in a model repository of Triton: `<repository>/<name>/config.pbtxt`, `.../1/model.onnx`.

Layout: https://docs.nvidia.com/deeplearning/triton-inference-server/user-guide/docs/user_guide/model_repository.html
"""

from __future__ import annotations

import os
import re
import shutil
import uuid
from pathlib import Path
from typing import NamedTuple

from nncompile.integrations.triton_config import (
    LABELS,
    Serving,
    config,
    names_classes,
    why_requests_stay_apart,
)
from nncompile_runtime import container, devices
from nncompile_runtime.container import ModelFile
from nncompile_runtime.errors import DeviceError, NncompileError
from nncompile_runtime.kernels import REGION
from nncompile_runtime.manifest import Signature
from nncompile_runtime.predictor import Predictor

MAX_BATCH_SIZE = 64
"""Rows of a call, at most, where nothing else is said."""
_CONFIG, _MODEL = "config.pbtxt", "model.onnx"
_VERSION = re.compile("[1-9][0-9]{0,17}", re.ASCII)  # other folders are no versions to Triton
_NAME = re.compile(r"\w[\w.-]*", re.ASCII)


class Written(NamedTuple):
    """What lies in a repository now.

    Attributes:
        folder: Of the version: `<repository>/<name>/<version>`.
        max_batch_size: The most rows of a call; 0 where each request is a call.
        notes: What Triton does otherwise than `nncompile.load`, as sentences.
    """

    folder: Path
    max_batch_size: int
    notes: tuple[str, ...]


def write(
    file: str | os.PathLike[str],
    repository: str | os.PathLike[str],
    *,
    name: str | None = None,
    version: int | None = None,
    device: str = "auto",
    max_batch_size: int | None = None,
    instances: int = 1,
    threads: int | None = None,
    kernels: str | None = None,
    overwrite: bool = False,
) -> Written:
    """Put a model into a repository that Triton's ONNX Runtime backend serves.

    Requests are batched only where every input and output has the free batch in front, and verification saw
    that no row's answer depends on another row. A version appears whole or not at all. Plans that `tune`
    found are not carried over: the backend has no such options.

    Args:
        file: A compiled file, or any single-file ONNX model.
        repository: Its folder, which must exist.
        name: What clients call the model; None takes the file's name without its suffix.
        version: From 1 on; None takes the one after the newest there.
        device: `cpu`, `cuda` for all GPUs, `cuda:1`, or `auto`: GPUs where the server has some, else the CPU.
        max_batch_size: The most rows of a call; None takes 64, or 0 where requests may not be batched.
        instances: Sessions that run at the same time, on each device.
        threads: Of each session on the CPU; None leaves it to ONNX Runtime, which takes one for each core,
            whatever quota the container has.
        kernels: Absolute path of the library of nncompile-kernels on the server
            (`nncompile_kernels.library_path()`); None runs fused regions on ONNX Runtime's own kernels.
        overwrite: Replace that version, and a configuration that says something else.

    Returns:
        Where the version lies, and what to know of it.

    Raises:
        ModelLoadError: The file is missing, damaged or refused.
        DeviceError: The device has no such name, or the model does not run there.
        NncompileError: An argument does not suit the model; or something is there and is not to be
            overwritten, or the folder cannot be written. Nothing was changed then.
    """
    model = container.read(file)
    signature = model.manifest.signature if model.manifest else Predictor(model, device="cpu").signature
    name = Path(file).stem if name is None else name
    if not _NAME.fullmatch(name):
        raise NncompileError(
            f"{name!r} is no name for a model: it is a folder's, of letters, digits, '.', '_' and '-'.",
            remedy="Give another name.",
        )
    how = _serving(model, signature, device, max_batch_size, instances, threads, kernels)
    beside = {_CONFIG: config(model, signature, how).encode()}
    if model.manifest and any(names_classes(model, spec) for spec in signature.outputs):
        beside[LABELS] = _label_file(model.manifest.labels or ())
    folder = _place(Path(repository) / name, version, beside, model.data, overwrite=overwrite)
    return Written(folder, how.max_batch_size, tuple(_notes(model, signature, how)))


def _serving(
    model: ModelFile,
    signature: Signature,
    device: str,
    max_batch_size: int | None,
    instances: int,
    threads: int | None,
    kernels: str | None,
) -> Serving:
    """The options, each checked against the model."""
    devices.candidates(device)
    if model.in_bfloat16 and device in ("auto", "cpu"):
        raise DeviceError(
            f"{model.name} computes in bfloat16, for which ONNX Runtime has kernels on GPUs only.",
            remedy="Give device='cuda'.",
        )
    for what, count in (("instances", instances), ("threads", 1 if threads is None else threads)):
        if not 1 <= count <= 1024:
            raise NncompileError(f"{what}={count} is not from 1 to 1024.", remedy="Give another number.")
    apart = why_requests_stay_apart(model, signature)
    if max_batch_size is None:
        max_batch_size = 0 if apart else MAX_BATCH_SIZE
    if not 0 <= max_batch_size < 2**31:
        raise NncompileError(
            f"max_batch_size={max_batch_size} is no number of rows.", remedy="Give 64, or 0 for no batching."
        )
    if max_batch_size and apart:
        raise NncompileError(
            f"max_batch_size={max_batch_size} does not suit {model.name}: {apart}.",
            remedy="Leave it out: each request is a call of its own then.",
        )
    if kernels is not None:
        _check_kernels(model, device, kernels)
    return Serving(device, max_batch_size, instances, threads, kernels)


def _check_kernels(model: ModelFile, device: str, path: str) -> None:
    fault = None
    if device != "cpu":
        fault = f"they are for the CPU, and the device is {device!r}"
    elif REGION not in model.facts.operators:
        fault = f"{model.name} has no fused regions"
    elif model.exact:
        fault = f"{model.name} was compiled with exact=True, which no configuration can tell them"
    elif not os.path.isabs(path):
        fault = f"{path!r} is no absolute path on the server"
    if fault is not None:
        raise NncompileError(f"The native kernels do not suit: {fault}.", remedy="Leave kernels out.")


def _label_file(labels: tuple[str, ...]) -> bytes:
    """Class names, one a line."""
    broken = next((label for label in labels if "\n" in label), None)
    if broken is not None:
        raise NncompileError(
            f"The label {broken!r} has a line break; Triton reads one label a line.",
            remedy="Compile the model with other labels.",
        )
    return "".join(label + "\n" for label in labels).encode()


def _notes(model: ModelFile, signature: Signature, how: Serving) -> list[str]:
    notes = []
    apart = why_requests_stay_apart(model, signature)
    if apart:
        notes.append(f"Requests are not batched: {apart}.")
    if REGION in model.facts.operators and how.kernels is None and how.device in ("auto", "cpu"):
        notes.append(
            "Fused regions run on ONNX Runtime's own kernels: the same answers within rounding, without the "
            "speed of the native ones, whose library `kernels` names."
        )
    if model.wrong_optimizers:
        wrong = " and ".join(model.wrong_optimizers)
        notes.append(
            f"ONNX Runtime's optimisers are off: {wrong} would change the answers, and Triton cannot switch "
            "off one alone."
        )
    if signature.sizes:
        rows = ", ".join(f"{name} {row}" for name, row in signature.sizes.items())
        notes.append(f"Triton takes any size, and the model is right for {rows}: check requests for it.")
    return notes


def _place(
    folder: Path, version: int | None, beside: dict[str, bytes], model: bytes, *, overwrite: bool
) -> Path:
    """Write what is missing; the version last, so that no version is served without its configuration."""
    if not folder.parent.is_dir():
        raise NncompileError(f"There is no folder {folder.parent}.", remedy="Create the repository first.")
    there = [int(path.name) for path in folder.glob("*") if _VERSION.fullmatch(path.name)]
    version = max(there, default=0) + 1 if version is None else version
    target = folder / str(version)
    if not _VERSION.fullmatch(target.name):
        raise NncompileError(f"version={version} is no version.", remedy="Give 1 or more, or leave it out.")
    _check_free(folder, target, beside, overwrite=overwrite)
    new = False
    try:
        if not folder.exists():
            folder.mkdir()
            new = True
        for name, data in beside.items():
            if not _holds(folder / name, data):
                container.write(folder / name, data)
        if target.exists():
            container.write(target / _MODEL, model)
        else:
            _appear(target, model)
    except BaseException as error:
        if new:
            shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, OSError):
            raise NncompileError(
                f"{target} cannot be written: {error.strerror or error}.",
                remedy="Choose a repository that is writable and has room.",
            ) from None
        raise
    return target


def _check_free(folder: Path, target: Path, beside: dict[str, bytes], *, overwrite: bool) -> None:
    if overwrite:
        return
    if target.exists():
        raise NncompileError(
            f"{target} exists.",
            remedy="Leave the version out for the next free one, or allow to overwrite it.",
        )
    for name, data in beside.items():
        path = folder / name
        if path.exists() and not _holds(path, data):
            raise NncompileError(
                f"{path} is there and says something else than this model needs.",
                remedy="Give the options it was written with, another name, or allow to overwrite it.",
            )


def _holds(path: Path, data: bytes) -> bool:
    return path.is_file() and path.read_bytes() == data


def _appear(target: Path, model: bytes) -> None:
    """A version's folder, renamed into its place: Triton sees no folder whose name is not a number."""
    hidden = target.parent / f".nncompile-{uuid.uuid4().hex}"
    hidden.mkdir()
    try:
        container.write(hidden / _MODEL, model)
        os.rename(hidden, target)
    except BaseException:
        shutil.rmtree(hidden, ignore_errors=True)
        raise
