"""Arithmetic of two values, or of one with itself, as instructions of the native kernels."""

from __future__ import annotations

from dataclasses import replace

import onnx_ir as ir

from nncompile.passes.region_program import Opcode, Sample, Step
from nncompile.passes.values import constant


def total(node: ir.Node, x: Sample, y: Sample) -> Step | str:
    """Add or Sub of tensors of one shape."""
    add = node.op_type == "Add"
    if not x.goes_with(y) or x.shape != y.shape:
        return _fault("adds" if add else "subtracts", x, y)
    return Step(Opcode.ADD if add else Opcode.SUBTRACT, x)


def product(node: ir.Node, x: Sample, y: Sample) -> Step | str:
    """Mul of tensors of one shape, of a tensor and a gate, or of a gate of channels and one of pixels.

    A gate has one number for each channel or for each pixel, and may stand on either side.
    """
    values = tuple(value for value in node.inputs if value is not None)
    if not x.goes_with(y):
        return _fault("multiplies", x, y)
    for first, second, read in ((x, y, values), (y, x, values[::-1])):
        channels, *plane = first.shape
        if second.shape in (first.shape, (channels, 1, 1), (1, *plane)):
            return Step(Opcode.MULTIPLY, first, read)
        if plane == [1, 1] and second.shape[0] == 1:
            return Step(Opcode.MULTIPLY, replace(first, shape=(channels, *second.shape[1:])), read)
    return _fault("multiplies", x, y)


def power(node: ir.Node, x: Sample) -> Step | str:
    """Pow by 2, as a product."""
    exponent = constant(node.inputs[1])
    if exponent is None or exponent.size != 1 or exponent.ndim > x.rank or exponent.item() != 2:
        return "its exponent is not 2"
    return Step(Opcode.MULTIPLY, x, tuple(value for value in node.inputs[:1] if value is not None) * 2)


def quotient(node: ir.Node, x: Sample, y: Sample) -> Step | str:
    """Div of tensors of one shape, or by one number for each pixel."""
    del node
    if not x.goes_with(y) or y.shape not in (x.shape, (1, *x.shape[1:])):
        return _fault("divides", x, y)
    return Step(Opcode.DIVIDE, x)


def _fault(verb: str, x: Sample, y: Sample) -> str:
    return f"it {verb} tensors of shape {list(x.dimensions)} and {list(y.dimensions)}"
