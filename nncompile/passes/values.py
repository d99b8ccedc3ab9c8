"""Questions that rules ask about values."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir


def constant(value: ir.Value | None) -> npt.NDArray[Any] | None:
    """The value's array where it is a weight that no caller can override; None otherwise."""
    if value is None or value.const_value is None or value.is_graph_input():
        return None
    return value.const_value.numpy()


def weights(value: ir.Value | None) -> npt.NDArray[Any]:
    """The array of a value that is known to be constant."""
    array = constant(value)
    if array is None:
        raise ValueError(f"{value} is not constant")
    return array


def given_input(node: ir.Node, index: int) -> ir.Value | None:
    """An optional input; None where it is left out."""
    return node.inputs[index] if len(node.inputs) > index else None


def static_shape(value: ir.Value | None) -> tuple[int | None, ...] | None:
    """Sizes, None for each that is not known; None where the rank is not known."""
    if value is None or value.shape is None:
        return None
    return tuple(size if isinstance(size, int) else None for size in value.shape)


def folded(array: npt.NDArray[Any], like: npt.NDArray[Any]) -> ir.TensorProtocol:
    """A weight computed in float64, rounded once to the dtype of the weight it replaces."""
    return ir.tensor(np.ascontiguousarray(array.astype(like.dtype)))


def int_attribute(node: ir.Node, name: str, default: int) -> int:
    """An integer attribute, or its default."""
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_int()


def float_attribute(node: ir.Node, name: str, default: float) -> float:
    """A float attribute, or its default."""
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_float()
