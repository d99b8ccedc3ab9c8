"""What ONNX Runtime returned, as torch tensors of the dtypes that `forward` returns."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from nncompile_runtime.manifest import TensorSpec


def as_tensors(outputs: list[Any], narrow: Sequence[TensorSpec] | None, device: Any = None) -> list[Any]:
    """Torch tensors; torch is imported already, as an input was one.

    Args:
        outputs: Arrays, whose memory the tensors share, or tensors, which stay where they are.
        narrow: The outputs' specifications, where one of them is bfloat16: float32 until here.
        device: Where tensors made of arrays go; None leaves them on the host.
    """
    torch = sys.modules["torch"]
    if isinstance(outputs[0], np.ndarray):
        tensors = [torch.from_numpy(y) for y in outputs]
    else:
        tensors, device = outputs, None
    if narrow is not None:
        dtypes = [torch.bfloat16 if spec.dtype == "bfloat16" else None for spec in narrow]
        return [y.to(device, dtype=dtype) for y, dtype in zip(tensors, dtypes, strict=True)]
    return tensors if device is None else [y.to(device) for y in tensors]
