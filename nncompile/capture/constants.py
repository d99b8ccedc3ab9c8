"""Python's numbers in graphs of float64, which the exporter rounds to float32 on their way.

Its pass that promotes types makes a `scalar_tensor` of each Python number beside a tensor of float64, so that
with this one and `full` most operators are exact. Those of ONNX that keep a number as an attribute, which is
float32 by the standard, are in `doubles.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx_ir as ir
import torch
from onnxscript import opset18
from onnxscript.function_libs.torch_lib.ops import common

aten = torch.ops.aten
op: Any = opset18  # Python's numbers become constants, which its types do not say
_DEFAULT = -1  # what the exporter gives for no dtype


def _exact(number: Any, dtype: int) -> Any:
    """A float as a constant of float64 where that is asked for; anything else as the exporter has it."""
    if isinstance(number, float) and dtype == ir.DataType.DOUBLE:
        return op.Constant(value=ir.tensor(number, dtype=ir.DataType.DOUBLE))
    return number if dtype == _DEFAULT else common.cast_to(number, dtype)


def scalar_tensor(s: Any, dtype: int = _DEFAULT, **_: Any) -> Any:
    """A number as a tensor without dimensions."""
    return _exact(s, ir.DataType.FLOAT if dtype == _DEFAULT else dtype)


def full(size: Any, fill_value: Any, dtype: int = _DEFAULT, **_: Any) -> Any:
    """A tensor of one number."""
    value = _exact(fill_value, dtype)
    return op.Expand(value, op.Cast(size, to=ir.DataType.INT64))


TRANSLATIONS: dict[Any, Callable[..., Any]] = {
    aten.scalar_tensor.default: scalar_tensor,
    aten.full.default: full,
}
