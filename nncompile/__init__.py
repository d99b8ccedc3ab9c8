"""nncompile: compile a torch.nn model to one verified ONNX file and run it fast.

Importing this package loads neither torch nor ONNX Runtime.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from nncompile_runtime import (
    CaptureError,
    DeviceError,
    InputError,
    ModelLoadError,
    NncompileError,
    OutOfMemoryError,
    PassError,
    PlanError,
    VerificationError,
)

if TYPE_CHECKING:
    from nncompile.compiled import CompiledModel
    from nncompile.compiler import compile  # noqa: A004
    from nncompile_runtime import ImagePreprocessing, Plan, Predictor, load

__version__ = "0.1.0"

__all__ = [
    "CaptureError",
    "CompiledModel",
    "DeviceError",
    "ImagePreprocessing",
    "InputError",
    "ModelLoadError",
    "NncompileError",
    "OutOfMemoryError",
    "PassError",
    "Plan",
    "PlanError",
    "Predictor",
    "VerificationError",
    "compile",
    "load",
]

_LAZY = {
    "CompiledModel": "nncompile.compiled",
    "compile": "nncompile.compiler",
    "ImagePreprocessing": "nncompile_runtime",
    "Plan": "nncompile_runtime",
    "Predictor": "nncompile_runtime",
    "load": "nncompile_runtime",
}


def __getattr__(name: str) -> Any:
    """Import heavy modules when they are first asked for (PEP 562)."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(_LAZY[name]), name)
    except ModuleNotFoundError as error:
        raise NncompileError(
            f"nncompile.{name} needs {error.name}, which is not installed.",
            remedy="Run: pip install 'nncompile[compile,cpu]' (or [compile,gpu]).",
        ) from error


def __dir__() -> list[str]:
    """The public names, loaded or not."""
    return [*__all__, "__version__"]
