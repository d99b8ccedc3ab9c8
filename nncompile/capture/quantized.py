"""torch.ao's quantised tensors as ONNX has them: QuantizeLinear and DequantizeLinear.

torch.export has no quantised tensors. What makes one is replaced, while a module is captured, by ONNX's
own operators: QuantizeLinear, whose result remembers how to be dequantised.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.ao.quantization.fx._decomposed  # registers torch.ops.quantized_decomposed
from torch.onnx.ops import symbolic

from nncompile.capture.exporter import OPSET
from nncompile_runtime.errors import CaptureError

_STORED = {
    torch.quint8: torch.uint8,
    torch.qint8: torch.int8,
    torch.uint8: torch.uint8,
    torch.int8: torch.int8,
}


class Scale:
    """How 8-bit integers stand for numbers: `scale * (integer - zero_point)`, for all or along an axis."""

    def __init__(self, scale: Any, zero_point: Any, stored: torch.dtype, axis: int = -1) -> None:
        """Take numbers or tensors; without an axis there is one scale for the whole tensor."""
        self._scale = _tensor(scale, torch.float32)
        self._zero_point = _tensor(zero_point, stored)
        if axis < 0:  # ONNX wants one scale without dimensions
            self._scale, self._zero_point = self._scale.reshape(()), self._zero_point.reshape(())
        self._attributes: dict[str, Any] = {"axis": axis} if axis >= 0 else {}
        self.stored = stored

    def quantized(self, x: torch.Tensor) -> torch.Tensor:
        """Round half to even, add the zero point, saturate."""
        return self._step("QuantizeLinear", x, self.stored)

    def dequantized(self, values: torch.Tensor) -> torch.Tensor:
        """The float32 tensor that integers stand for."""
        return self._step("DequantizeLinear", values, torch.float32)

    def _step(self, operator: str, x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        inputs = (x, self._scale, self._zero_point)
        return symbolic(operator, inputs, self._attributes, dtype=dtype, shape=x.shape, version=OPSET)


def _tensor(value: Any, dtype: torch.dtype) -> torch.Tensor:
    return value.to(dtype) if isinstance(value, torch.Tensor) else torch.full((), value, dtype=dtype)


class Quantized:
    """A tensor of 8-bit integers with its scale: what `torch.quantize_per_tensor` returns meanwhile."""

    def __init__(
        self, x: torch.Tensor, scale: Any, zero_point: Any, dtype: torch.dtype, axis: int = -1
    ) -> None:
        """Quantise `x`.

        Raises:
            CaptureError: `dtype` is none of 8 bits.
        """
        if dtype not in _STORED:
            raise CaptureError(
                f"forward quantises to {dtype}, which ONNX Runtime does not run.",
                remedy="Use quint8 or qint8.",
            )
        self._scale = Scale(scale, zero_point, _STORED[dtype], axis)
        self.values = self._scale.quantized(x)

    def dequantize(self) -> torch.Tensor:
        """The float32 tensor that it stands for."""
        return self._scale.dequantized(self.values)

    def clamped(self, low: int, high: int) -> Quantized:
        """The same with its integers kept between two bounds."""
        bounds = torch.iinfo(self._scale.stored)
        if low > bounds.min or high < bounds.max:
            self.values = self.values.clamp(max(low, bounds.min), min(high, bounds.max))
        return self


def quantize_per_tensor(input: torch.Tensor, scale: Any, zero_point: Any, dtype: torch.dtype) -> Quantized:  # noqa: A002 - torch's name
    """For `torch.quantize_per_tensor`."""
    return Quantized(input, scale, zero_point, dtype)


def quantize_per_channel(
    input: torch.Tensor,  # noqa: A002 - torch's name
    scales: torch.Tensor,
    zero_points: torch.Tensor,
    axis: int,
    dtype: torch.dtype,
) -> Quantized:
    """For `torch.quantize_per_channel`."""
    return Quantized(input, scales, zero_points, dtype, axis)


def dequantize(value: Any) -> Any:
    """For `torch.dequantize`: of one, or of several."""
    return [dequantize(one) for one in value] if isinstance(value, (list, tuple)) else value.dequantize()


def fake_quantize(
    x: torch.Tensor, scale: Any, zero_point: Any, low: int, high: int, axis: int = -1
) -> torch.Tensor:
    """Quantise to integers from `low` to `high`, and dequantise."""
    dtype = torch.qint8 if low < 0 else torch.quint8
    bounds = torch.iinfo(_STORED[dtype])
    if low < bounds.min or high > bounds.max:
        raise CaptureError(
            f"forward quantises to the integers from {low} to {high}.",
            remedy="Use 8 bits: 0 to 255, or -128 to 127.",
        )
    return Quantized(x, scale, zero_point, dtype, axis).clamped(low, high).dequantize()


def fake_quantize_per_channel(
    input: torch.Tensor,  # noqa: A002 - torch's name
    scale: torch.Tensor,
    zero_point: torch.Tensor,
    axis: int,
    quant_min: int,
    quant_max: int,
) -> torch.Tensor:
    """For `torch.fake_quantize_per_channel_affine`."""
    return fake_quantize(input, scale, zero_point, quant_min, quant_max, axis)


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "quantize_per_tensor": quantize_per_tensor,
    "quantize_per_channel": quantize_per_channel,
    "dequantize": dequantize,
    "fake_quantize_per_tensor_affine": fake_quantize,
    "fake_quantize_per_channel_affine": fake_quantize_per_channel,
}
# A graph of torch.fx calls functions by themselves, other code by their names in torch.
IN_GRAPHS = {getattr(torch, name): body for name, body in _FUNCTIONS.items()}
SUBSTITUTES: tuple[tuple[Any, str, Any], ...] = tuple(
    (torch, name, body) for name, body in _FUNCTIONS.items()
)


def _quantize_step(
    x: torch.Tensor, scale: Any, zero_point: Any, low: int, high: int, dtype: torch.dtype, *, axis: int = -1
) -> torch.Tensor:
    return Quantized(x, scale, zero_point, dtype, axis).clamped(low, high).values


def _dequantize_step(
    values: torch.Tensor,
    scale: Any,
    zero_point: Any,
    low: int,
    high: int,
    dtype: torch.dtype,
    *,
    axis: int = -1,
    out_dtype: torch.dtype | None = None,
) -> torch.Tensor:
    del low, high, dtype
    x = Scale(scale, zero_point, values.dtype, axis).dequantized(values)
    return x if out_dtype is None else x.to(out_dtype)


def _by_channel(step: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """The step as torch writes it for scales along an axis, which is the fourth argument."""

    def of_axis(
        x: torch.Tensor, scales: Any, zero_points: Any, axis: int, *rest: Any, **kw: Any
    ) -> torch.Tensor:
        return step(x, scales, zero_points, *rest, axis=axis, **kw)

    return of_axis


_ops = torch.ops.quantized_decomposed
LOWERINGS: dict[Any, Callable[..., Any]] = {
    _ops.quantize_per_tensor.default: _quantize_step,
    _ops.quantize_per_tensor.tensor: _quantize_step,
    _ops.dequantize_per_tensor.default: _dequantize_step,
    _ops.dequantize_per_tensor.tensor: _dequantize_step,
    _ops.quantize_per_channel.default: _by_channel(_quantize_step),
    _ops.dequantize_per_channel.default: _by_channel(_dequantize_step),
}
