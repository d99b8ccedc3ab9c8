"""Questions that rules ask about values."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

Array = npt.NDArray[Any]
# What ONNX Runtime's CPU has a Gemm of.
GEMM_DTYPES = frozenset({ir.DataType.FLOAT16, ir.DataType.FLOAT, ir.DataType.DOUBLE})


def constant(value: ir.Value | None) -> Array | None:
    """The value's array where it is a weight that no caller can override; None otherwise."""
    if value is None or value.const_value is None or value.is_graph_input():
        return None
    return value.const_value.numpy()


def weights(value: ir.Value | None) -> Array:
    """The array of a value that is known to be constant."""
    array = constant(value)
    if array is None:
        raise ValueError(f"{value} is not constant")
    return array


def weight_fault(*layers: ir.Node) -> str | None:
    """Why new weights cannot be computed from a layer's, all its inputs but the first; None if they can."""
    if any(constant(value) is None for layer in layers for value in layer.inputs[1:] if value is not None):
        return "a weight is not constant"
    dtype = weights(layers[-1].inputs[1]).dtype
    return None if dtype.kind == "f" else f"the weights are of dtype {dtype}"


def given_input(node: ir.Node, index: int) -> ir.Value | None:
    """An optional input; None where it is left out."""
    return node.inputs[index] if len(node.inputs) > index else None


def static_shape(value: ir.Value | None) -> tuple[int | None, ...] | None:
    """Sizes, None for each that is not known; None where the rank is not known."""
    if value is None or value.shape is None:
        return None
    return tuple(size if isinstance(size, int) else None for size in value.shape)


def subgraphs(node: ir.Node) -> Iterator[ir.Graph]:
    """The graphs in a node's attributes: the branches of an If, the body of a Loop."""
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            yield attribute.as_graph()
        elif attribute.type == ir.AttributeType.GRAPHS:
            yield from attribute.as_graphs()


def folded(array: Array, like: Array) -> ir.TensorProtocol:
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


def kernel_view(layer: ir.Node, weight: Array) -> Array:
    """A contiguous weight of Conv, ConvTranspose, Gemm or MatMul, seen alike for all four.

    Returns:
        A view of shape (group, outputs of a group, inputs of a group, kernel elements); writing to it
        writes to `weight`.
    """
    if layer.op_type in ("Gemm", "MatMul"):
        matrix = weight if int_attribute(layer, "transB", 0) else weight.T
        return matrix[None, :, :, None]
    group = int_attribute(layer, "group", 1)
    elements = int(np.prod(weight.shape[2:]))
    view = weight.reshape(group, weight.shape[0] // group, weight.shape[1], elements)
    return view.swapaxes(1, 2) if layer.op_type == "ConvTranspose" else view


def in_groups(view: Array, group: int) -> Array:
    """The kernel of a grouped convolution as that of one with fewer groups, zeros between the blocks.

    Args:
        view: As `kernel_view` gives it.
        group: A divisor of the view's own groups.
    """
    finer, outputs, inputs, elements = view.shape
    ratio = finer // group
    if ratio == 1:
        return view
    blocks = np.zeros((group, ratio, outputs, ratio, inputs, elements), view.dtype)
    for i in range(ratio):
        blocks[:, i, :, i] = view[i::ratio]
    return blocks.reshape(group, ratio * outputs, ratio * inputs, elements)


def channel_bias(layer: ir.Node, channels: int) -> Array | None:
    """What a Conv, ConvTranspose or Gemm adds to each output channel, in float64, Gemm's beta included.

    Returns:
        Zeros where the constant bias is left out; None where it is not one value per channel.
    """
    if given_input(layer, 2) is None:
        return np.zeros(channels)
    bias = weights(layer.inputs[2])
    if bias.size not in (1, channels) or (bias.ndim > 1 and bias.shape[:-1] != (1,)):
        return None
    beta = float_attribute(layer, "beta", 1.0)
    return np.broadcast_to(bias.astype(np.float64).reshape(-1) * beta, (channels,))


def with_weights(op: Any, layer: ir.Node, x: ir.Value, kernel: Array, bias: Array, suffix: str) -> Any:
    """A Conv, ConvTranspose or Gemm on another input, with other weights, Gemm's beta among them.

    Args:
        op: Where the operator is added.
        layer: The layer as it was; what stays the same is taken from it.
        x: What the new one reads.
        kernel: The new weight, computed in float64.
        bias: What is added to each output channel, in float64.
        suffix: For the names of the new weights.
    """
    like, name = weights(layer.inputs[1]), layer.inputs[1].name  # type: ignore[union-attr]
    inputs = [x, layer.inputs[1]]
    if not np.array_equal(kernel, like):
        inputs[1] = op.initializer(folded(kernel, like), name=f"{name}_{suffix}")
    if given_input(layer, 2) is not None or bias.any():
        inputs.append(op.initializer(folded(bias, like), name=f"{name}_{suffix}_bias"))
    attributes = {key: value for key, value in layer.attributes.items() if key != "beta"}
    return getattr(op, layer.op_type)(*inputs, **attributes)


def rounding_fault(kernel: Array, bias: Array, before: Array, dtype: np.dtype[Any]) -> str | None:
    """Why weights computed in float64 cannot be rounded to their dtype; None where they can.

    A channel whose largest weight falls below the normal range of the dtype would lose digits.

    Args:
        kernel: The new weights, as `kernel_view` gives them.
        bias: The new bias.
        before: The weights that they replace, also by output channel.
        dtype: A floating-point dtype.
    """
    if not (np.isfinite(kernel).all() and np.isfinite(bias).all()):
        return "a folded weight is not finite"
    limits = np.finfo(dtype)
    if max(np.abs(kernel).max(initial=0), np.abs(bias).max(initial=0)) > limits.max:
        return f"a folded weight is beyond the range of {dtype}"
    peak, was = (np.abs(view).max(axis=(2, 3), initial=0) for view in (kernel, before))
    if ((peak > 0) & (peak < limits.tiny) & (was >= limits.tiny)).any():
        return f"the folded weights of a channel are too small for {dtype}"
    return None


def ints_attribute(node: ir.Node, name: str) -> tuple[int, ...] | None:
    """A list of integers; None where the attribute is absent."""
    attribute = node.attributes.get(name)
    return None if attribute is None else tuple(attribute.as_ints())


def string_attribute(node: ir.Node, name: str, default: str) -> str:
    """A string attribute, or its default."""
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_string()


@dataclass(frozen=True)
class Window:
    """Where a convolution or pool looks: one number for each spatial axis.

    Attributes:
        kernel: Elements that one window reads.
        strides: Steps from one window to the next.
        dilations: Steps from one element of a window to the next.
        before: Padding in front; says nothing where `auto_pad` is SAME_UPPER or SAME_LOWER.
        after: Padding behind; likewise.
        auto_pad: NOTSET, VALID, SAME_UPPER or SAME_LOWER.
        ceil: Whether the number of windows is rounded up.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]
    auto_pad: str
    ceil: bool

    @property
    def same(self) -> bool:
        """Whether the padding follows from the size of the input."""
        return self.auto_pad.startswith("SAME")

    @property
    def padded(self) -> bool:
        """Whether a window may reach beyond the input (`ceil` apart)."""
        return self.same or any(self.before + self.after)

    @property
    def dilated(self) -> bool:
        """Whether a window skips elements."""
        return any(step != 1 for step in self.dilations)


def known_window(node: ir.Node) -> Window:
    """The window of a convolution or pool whose kernel's shape is known."""
    view = window(node)
    if view is None:
        raise ValueError(f"the kernel of {node} is not known")
    return view


def window(node: ir.Node) -> Window | None:
    """The window of a convolution or pool; None where its kernel's shape is not known."""
    kernel = ints_attribute(node, "kernel_shape")
    if kernel is None:
        shape = static_shape(given_input(node, 1)) or (None,)
        known = tuple(size for size in shape[2:] if size is not None)
        if len(known) != len(shape[2:]) or not known:
            return None
        kernel = known
    ones, pads = (1,) * len(kernel), ints_attribute(node, "pads") or (0,) * 2 * len(kernel)
    auto_pad = string_attribute(node, "auto_pad", "NOTSET")
    if auto_pad == "VALID":
        pads = (0,) * len(pads)
    return Window(
        kernel,
        ints_attribute(node, "strides") or ones,
        ints_attribute(node, "dilations") or ones,
        pads[: len(kernel)],
        pads[len(kernel) :],
        auto_pad,
        bool(int_attribute(node, "ceil_mode", 0)),
    )
