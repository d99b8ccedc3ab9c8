"""Operators that scale and shift each channel: what they are as `y * scale + shift`, and why they are not."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from nncompile.passes.values import Array, constant, float_attribute, int_attribute, weights


def arithmetic(operator: str, k: Array, *, constant_first: bool = False) -> tuple[Array, Array]:
    """Scale and shift of `operator(y, k)`, or of `operator(k, y)`.

        y * k: k, 0    y / k: 1 / k, 0    y + k: 1, k    y - k: 1, -k    k - y: -1, k

    Args:
        operator: Mul, Div, Add or Sub.
        k: Float64, of any shape.
        constant_first: Whether k is the first operand.

    Returns:
        Float64, each of the shape of k.

    Raises:
        ValueError: It is no such map: `k / y`, or another operator.
    """
    with np.errstate(divide="ignore"):
        match operator, constant_first:
            case "Mul", _:
                return k, np.zeros_like(k)
            case "Div", False:
                return 1 / k, np.zeros_like(k)
            case "Add", _:
                return np.ones_like(k), k
            case "Sub", False:
                return np.ones_like(k), -k
            case "Sub", True:
                return -np.ones_like(k), k
    raise ValueError(f"{operator} of {'a constant and y' if constant_first else 'y and a constant'}")


def in_training(norm: ir.Node) -> bool:
    """Whether a BatchNormalization computes its statistics, or returns them."""
    return bool(int_attribute(norm, "training_mode", 0)) or len(norm.outputs) > 1


def batch_norm_fault(norm: ir.Node) -> str | None:
    """Why a BatchNormalization is no map that is known and finite; None where it is."""
    if in_training(norm):
        return "the batch norm is in training mode"
    if any(constant(value) is None for value in norm.inputs[1:]):
        return "a weight of the batch norm is not constant"
    if not all(np.isfinite(part).all() for part in batch_norm(norm)):
        return "the running statistics give a scale that is not finite"
    return None


def batch_norm(norm: ir.Node) -> tuple[Array, Array]:
    """Scale and shift of a BatchNormalization with constant statistics, channel by channel, in float64.

    (Ioffe and Szegedy, "Batch Normalization", arXiv:1502.03167, algorithm 2.)
    """
    weight, bias, mean, variance = (weights(value).astype(np.float64) for value in norm.inputs[1:])
    with np.errstate(all="ignore"):
        scale = weight / np.sqrt(variance + float_attribute(norm, "epsilon", 1e-5))
        return scale, bias - mean * scale
