"""What ONNX Runtime raises, as errors that say what to do."""

from __future__ import annotations

import re

from nncompile_runtime import cuda
from nncompile_runtime.container import ModelFile
from nncompile_runtime.errors import (
    DeviceError,
    InputError,
    ModelLoadError,
    NncompileError,
    OutOfMemoryError,
)
from nncompile_runtime.plan import Plan

NO_KERNEL = "Could not find an implementation for"  # as ONNX Runtime says it
# What it says of an index: the node, and from Gather the largest one that there is.
_OUTSIDE = re.compile(
    r"Name:'([^']*)'.*?(?:indices element out of data bounds.*?,(\d+)\]|Out of range value in index)",
    re.DOTALL,
)


def start_failure(error: Exception, model: ModelFile, plan: Plan, version: str) -> NncompileError:
    """The error for a session that ONNX Runtime, of that version, did not start."""
    full = cuda.missing_memory(error) is not None
    if plan.provider == "cuda" and (full or cuda.at_fault(error)):
        return (OutOfMemoryError if full else DeviceError)(
            f"{model.name} could not be started on {plan.device}: {cuda.failure(error) or reason(error)}.",
            remedy="Run nncompile doctor, or choose device='cpu'.",
        )
    missing = re.search(rf"{NO_KERNEL} (\w+)", str(error))
    if missing and plan.provider == "cpu" and model.in_bfloat16:
        return DeviceError(
            f"{model.name} computes in bfloat16, for which ONNX Runtime's CPU has no {missing[1]}.",
            remedy="Load it on an NVIDIA GPU (device='cuda'), or compile with target='portable', "
            "which computes bfloat16 in float32.",
        )
    return ModelLoadError(
        f"ONNX Runtime {version} refuses {model.name}: {reason(error)}.",
        remedy="Check that the file is a valid ONNX model, or update ONNX Runtime.",
    )


def run_failure(error: Exception) -> InputError:
    """The error for a run that ONNX Runtime gave up."""
    outside = _OUTSIDE.search(str(error))
    if outside:
        takes = f", which takes 0 to {outside[2]}" if outside[2] else ""
        return InputError(
            f"An index among the inputs is outside its table, at node {outside[1]!r}{takes}.",
            remedy="Check the integer inputs: ids beyond the vocabulary, or -1 as a mark for padding.",
        )
    return InputError(
        f"ONNX Runtime could not run this input: {reason(error)}.",
        remedy="Check the input's sizes against the model's signature (nncompile inspect).",
    )


def reason(error: Exception) -> str:
    """Its first line, without what ONNX Runtime puts in front."""
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return first.rsplit(" : ", 1)[-1].rstrip(".")[:400]
