"""Quantised modules of torch.ao that torch.export cannot trace, and modules that compute the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.ao.nn.quantized import dynamic
from torch.ao.quantization.fake_quantize import (
    FakeQuantize,
    FakeQuantizeBase,
    FusedMovingAvgObsFakeQuantize,
)
from torch.ao.quantization.observer import ObserverBase
from torch.onnx.ops import symbolic

from nncompile.capture.exporter import OPSET
from nncompile.capture.quantized import fake_quantize
from nncompile_runtime.errors import CaptureError

_PACKED = ("torch.ao.nn.quantized.", "torch.ao.nn.intrinsic.quantized.")
_REFERENCE = "torch.ao.nn.quantized.reference."


def check_quantization(module: nn.Module) -> None:
    """Refuse what is half quantised, or quantised for PyTorch's own kernels.

    Raises:
        CaptureError: The module still observes ranges, or holds weights packed for PyTorch's kernels.
    """
    for name, part in module.named_modules():
        observes = isinstance(part, FakeQuantizeBase) and bool(part.observer_enabled[0])
        if observes or (isinstance(part, ObserverBase) and not _inside_fake_quantize(module, name)):
            raise CaptureError(
                f"{name or 'The module'!r} ({type(part).__name__}) still observes the range of its values.",
                remedy="Finish the quantisation with convert_to_reference_fx, or "
                "module.apply(torch.ao.quantization.disable_observer) where it is quantisation-aware.",
            )
        kind = f"{type(part).__module__}.{type(part).__name__}"
        if kind.startswith(_PACKED) and not kind.startswith(_REFERENCE) and not _is_dynamic(part, kind):
            raise CaptureError(
                f"{name or 'The module'!r} ({kind}) holds weights packed for PyTorch's own int8 kernels.",
                remedy="Convert with torch.ao.quantization.quantize_fx.convert_to_reference_fx, which keeps "
                "standard QuantizeLinear and DequantizeLinear steps.",
            )


def _is_dynamic(part: nn.Module, kind: str) -> bool:
    """Whether it is a dynamically quantised Linear, or holds the weights of one."""
    return type(part) is dynamic.Linear or kind.endswith(".LinearPackedParams")


def _inside_fake_quantize(module: nn.Module, name: str) -> bool:
    return isinstance(module.get_submodule(name.rpartition(".")[0]), FakeQuantizeBase)


class FixedFakeQuantize(nn.Module):
    """What FakeQuantize computes when it does not observe; `check_quantization` refuses one that does."""

    scale: torch.Tensor
    zero_point: torch.Tensor

    def __init__(self, source: Any) -> None:
        """Take the range and the scale of a FakeQuantize."""
        super().__init__()
        observer = source.activation_post_process
        self.low, self.high = observer.quant_min, observer.quant_max
        self.axis = source.ch_axis if source.is_per_channel else -1
        self.register_buffer("scale", source.scale)
        self.register_buffer("zero_point", source.zero_point)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Quantise and dequantise."""
        return fake_quantize(x, self.scale, self.zero_point, self.low, self.high, self.axis)


class DynamicLinear(nn.Module):
    """What torch.ao's dynamically quantised Linear computes: int8 weights, inputs quantised at each call.

    Source: PyTorch, aten/src/ATen/native/quantized/cpu/QuantUtils.h, ChooseQuantizationParams, with its
    `reduce_range`: 7 bits, so that no 16-bit sum of two products overflows.
    """

    _LEVELS = 127
    _SMALLEST_SCALE = 6.1e-5

    weight: torch.Tensor
    weight_scale: torch.Tensor
    weight_zero_point: torch.Tensor
    bias: torch.Tensor | None

    def __init__(self, source: Any) -> None:
        """Unpack the weights of a dynamically quantised Linear."""
        super().__init__()
        weight, bias = source.weight(), source.bias()
        if weight.qscheme() is torch.per_channel_affine:
            scale, zero_point = weight.q_per_channel_scales(), weight.q_per_channel_zero_points()
        else:
            scale, zero_point = torch.tensor(weight.q_scale()), torch.tensor(weight.q_zero_point())
        self.register_buffer("weight", weight.int_repr().t().contiguous())
        self.register_buffer("weight_scale", scale.float())
        self.register_buffer("weight_zero_point", zero_point.to(torch.int8))
        self.register_buffer("bias", None if bias is None else bias.detach())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Choose a scale for the whole input, multiply integers, scale back."""
        low, high = x.min().clamp(max=0).double(), x.max().clamp(min=0).double()
        scale = ((high - low) / self._LEVELS).float()
        scale = torch.where((scale == 0) | torch.isinf(1 / scale), 0.1, scale)
        zero_point = torch.round(-low / scale.double()).float()
        scale = scale.clamp(min=self._SMALLEST_SCALE)
        integers = (torch.round(x * (1 / scale)) + zero_point).clamp(0, 255).to(torch.uint8)
        product = symbolic(
            "MatMulInteger",
            (integers, self.weight, zero_point.to(torch.uint8), self.weight_zero_point),
            dtype=torch.int32,
            shape=(*x.shape[:-1], self.weight.shape[1]),
            version=OPSET,
        )
        y = product.float() * (scale * self.weight_scale)
        return y if self.bias is None else y + self.bias


class HalfLinear(nn.Module):
    """The dynamically quantised Linear of float16 weights: stored so, and computed with in float32."""

    weight: torch.Tensor
    bias: torch.Tensor | None

    def __init__(self, source: Any) -> None:
        """Unpack the weights of a dynamically quantised Linear."""
        super().__init__()
        bias = source.bias()
        self.register_buffer("weight", source.weight().half())
        self.register_buffer("bias", None if bias is None else bias.detach())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """As nn.Linear."""
        return nn.functional.linear(x, self.weight.float(), self.bias)


def _of_dynamic_linear(source: Any) -> nn.Module:
    half = source._packed_params.dtype is torch.float16
    return HalfLinear(source) if half else DynamicLinear(source)


def _of_fake_quantize(source: Any) -> nn.Module:
    return FixedFakeQuantize(source) if bool(source.fake_quant_enabled[0]) else nn.Identity()


# For a module of exactly this class, one that can be traced and computes the same.
STAND_INS: dict[type, Callable[[Any], nn.Module]] = {
    dynamic.Linear: _of_dynamic_linear,
    FakeQuantize: _of_fake_quantize,
    FusedMovingAvgObsFakeQuantize: _of_fake_quantize,
}
