"""nncompile's serving side: load a compiled model and predict, without torch."""

import os

# ONNX Runtime's official Linux builds report usage by default since 1.29; it reads this once, when
# it is first imported (its Privacy.md).
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

from importlib import import_module
from typing import TYPE_CHECKING, Any

from nncompile_runtime.errors import (
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
    from nncompile_runtime.manifest import ImagePreprocessing
    from nncompile_runtime.plan import Plan
    from nncompile_runtime.predictor import Predictor, load

__all__ = [
    "CaptureError",
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
    "load",
]

_LAZY = {
    "ImagePreprocessing": "nncompile_runtime.manifest",
    "Plan": "nncompile_runtime.plan",
    "Predictor": "nncompile_runtime.predictor",
    "load": "nncompile_runtime.predictor",
}


def __getattr__(name: str) -> Any:
    """Import what needs numpy and pydantic when it is first asked for (PEP 562)."""
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
