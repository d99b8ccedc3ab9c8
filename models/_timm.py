"""Import timm (for seed 000's `MyNet`) beside any build of torch.

timm imports torchvision, and torchvision registers fake kernels for its compiled operators `nms` and `qnms`
while it is imported. Its wheel for CUDA cannot load its compiled part beside a CPU build of torch; the two
operators then do not exist and the import fails. Their schemas are all that the import needs, and image
classifiers call neither operator.
"""

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import torch

INSTALL_COMMAND = "pip install --no-deps torchvision==0.28.0 timm"

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
# torch forgets the operators of a Library that is garbage-collected.
_declared: list[torch.library.Library] = []


def import_timm() -> ModuleType:
    """Import timm, declaring torchvision's operators first where its compiled part cannot be loaded.

    Returns:
        The module `timm`.

    Raises:
        ImportError: timm or torchvision is missing, or the two do not fit the installed torch; the message
            holds the command that installs them.
    """
    for package in ("torchvision", "timm"):
        if find_spec(package) is None:
            raise ImportError(f"this network needs {package}: {INSTALL_COMMAND}", name=package)
    if not _operators_exist() and not _load_operators():
        _declare_operators()
    try:
        return import_module("timm")
    except (ImportError, RuntimeError) as error:
        message = f"timm cannot be imported beside torch {torch.__version__} ({error}): {INSTALL_COMMAND}"
        raise ImportError(message, name="timm") from error


def _operators_exist() -> bool:
    return hasattr(torch.ops.torchvision, "nms") and hasattr(torch.ops.torchvision, "qnms")


def _load_operators() -> bool:
    """Load torchvision's operator library without importing torchvision; False where that fails."""
    spec = find_spec("torchvision")
    folders = spec.submodule_search_locations if spec else None
    for library in (path for folder in folders or () for path in sorted(Path(folder).glob("_C*"))):
        if library.suffix in {".so", ".pyd", ".dylib"}:
            try:
                torch.ops.load_library(str(library))  # type: ignore[no-untyped-call]
            except OSError:
                continue
            return _operators_exist()
    return False


def _declare_operators() -> None:
    library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for schema in _SCHEMAS:
        if not hasattr(torch.ops.torchvision, schema.partition("(")[0]):
            library.define(schema)  # type: ignore[no-untyped-call]
    _declared.append(library)
