"""The program of a fused region: values, instructions, and how both are written as attributes.

A fused region is one node of the domain `nncompile`. Its attributes are a small program, schema 1:

    program    [A, then for each activation: layout, C, H, W;  M, then M instructions;
                Q, then for each output: value, layout]
    constants  the floating-point numbers that instructions name by their index

Its inputs are the A activations, then the weights. A value is C x H x W numbers for each sample; a tensor
of rank 2 has its features as channels of one element, and one of rank 3, N x H x C, is a plane one column
wide. A layout is a rank, 2, 3 or 4, or 5 for N x H x W x C. Values are numbered: the activations first,
then the result of each instruction. An instruction is [opcode, number of fields, fields]; the fields of all
opcodes come in one order: values (for CONCAT behind their number), weights, numbers, constants. -1 stands
for what is left out.

The kernels compute sample by sample. So dimension 0 of every value must be the same batch, and an operator
that mixes samples has no instruction.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import onnx_ir as ir

from nncompile.passes.values import Array, constant, static_shape

DOMAIN, OPERATOR, VERSION, SCHEMA = "nncompile", "FusedRegion", 1, 1

_CHANNELS_LAST = 5  # as a layout
_LARGEST_DIMENSION, _LARGEST_VALUE = 2**24, 2**30  # the kernels count in 32 bits


class Opcode(IntEnum):
    """The instructions, with the fields behind the values."""

    CONV = 1  # w b kh kw sh sw dh dw top left bottom right groups
    MAX_POOL = 2  # kh kw sh sw top left bottom right ceil
    AVERAGE_POOL = 3  # kh kw sh sw top left bottom right ceil include_pad
    GLOBAL_AVERAGE = 4
    ADD = 5
    LINEAR = 6  # w b transposed; of each pixel
    ACTIVATION = 7  # kind c0 c1
    SOFTMAX = 8
    LOG_SOFTMAX = 9
    CONCAT = 10
    MULTIPLY = 11  # of the same shape, or by a number for each channel or pixel; of the two
    FLATTEN = 12
    SELECT = 13  # number of channels, each as a channel of the value
    SUBTRACT = 14
    RESIZE = 15  # height width how
    CONV_TRANSPOSE = 16  # w b kh kw sh sw dh dw top left height width groups
    LAYER_NORM = 17  # scale shift epsilon; over the channels of each pixel
    PLANE_NORM = 18  # the root of the sum of squares
    CHANNEL_MEAN = 19  # of each pixel
    DIVIDE = 20


_ELEMENTWISE = frozenset({Opcode.ACTIVATION, Opcode.ADD, Opcode.SUBTRACT, Opcode.MULTIPLY, Opcode.DIVIDE})


class Resizing(IntEnum):
    """How a plane of another size is made, of n rows m: which row or rows make row i of the m."""

    NEAREST = 0  # floor(i n / m)
    HALF_PIXELS = 1  # the two around (i + 1/2) n / m - 1/2, mixed
    CORNERS = 2  # the two around i (n - 1) / (m - 1), mixed


class Kind(IntEnum):
    """The activations, with their constants."""

    RELU = 1
    CLIP = 2  # least, largest
    LEAKY_RELU = 3  # slope
    SILU = 4
    HARD_SWISH = 5
    SIGMOID = 6
    TANH = 7
    HARD_SIGMOID = 8  # alpha, beta
    GELU = 9  # by the error function
    STAR_RELU = 10  # a max(x, 0)^2 + b: a, b


@dataclass(frozen=True)
class Sample:
    """A float32 tensor as the kernels see it: one sample of C x H x W numbers.

    Attributes:
        batch: Size or symbol of dimension 0; None where it has no name, so that it equals no other.
        rank: 2, 3 or 4.
        shape: (C, H, W); (C, 1, 1) for rank 2, (C, H, 1) for rank 3.
        channels_last: Whether the tensor is N x H x C or N x H x W x C.
    """

    batch: int | str | None
    rank: int
    shape: tuple[int, int, int]
    channels_last: bool = False

    @property
    def dimensions(self) -> tuple[int | str | None, ...]:
        """The tensor's shape."""
        if self.channels_last:
            return (self.batch, *self.shape[1 : self.rank - 1], self.shape[0])
        return (self.batch, *self.shape[: self.rank - 1])

    @property
    def channel_axis(self) -> int:
        """Where the tensor has its channels."""
        return self.rank - 1 if self.channels_last else 1

    def is_channel_axis(self, axis: int) -> bool:
        """Whether an axis, which may be counted from the end, is that of the channels."""
        return axis in (self.channel_axis, self.channel_axis - self.rank)

    @property
    def layout(self) -> int:
        """The rank, or what stands for the channels last."""
        return _CHANNELS_LAST if self.channels_last and self.rank == 4 else self.rank

    def goes_with(self, other: Sample) -> bool:
        """Whether both hold the same samples, row by row, in the same order of axes."""
        alike = self.layout == other.layout
        return alike and self.batch is not None and self.batch == other.batch


@dataclass(frozen=True)
class Step:
    """A node as an instruction whose values and weights are still those of the graph.

    Attributes:
        opcode: What it does; None where the result is the value it reads, with its axes in another order.
        result: What it computes.
        values: The activations it reads.
        weights: The weights it reads; None for one that is left out.
        numbers: Further fields.
        constants: Floating-point numbers; the field of one that is None is -1.
    """

    opcode: Opcode | None
    result: Sample
    values: tuple[ir.Value, ...] = ()
    weights: tuple[ir.Value | None, ...] = ()
    numbers: tuple[int, ...] = ()
    constants: tuple[float | None, ...] = ()

    @property
    def elementwise(self) -> bool:
        """Whether each element of the result follows from the one at its place, or from that and a gate."""
        return self.scales_channels or self.opcode in _ELEMENTWISE

    @property
    def scales_channels(self) -> bool:
        """Whether it scales and shifts each channel."""
        one_to_one = (1, 1, 1, 1, 1, 1, 0, 0, 0, 0, self.result.shape[0])
        return self.opcode is Opcode.CONV and self.numbers == one_to_one

    @property
    def of_planes(self) -> bool:
        """Whether it is a convolution, or a linear layer of each pixel."""
        of_pixels = self.opcode is Opcode.LINEAR and self.result.shape[1:] != (1, 1)
        return of_pixels or self.opcode in (Opcode.CONV, Opcode.CONV_TRANSPOSE)

    @property
    def interpolates(self) -> bool:
        """Whether it resizes planes by mixing elements."""
        return self.opcode is Opcode.RESIZE and self.numbers[-1] != Resizing.NEAREST


def sample_of(value: ir.Value) -> Sample | str:
    """A value as the kernels see it, or why they cannot."""
    if constant(value) is not None:
        return "it reads a constant where the kernels take activations only"
    if value.dtype is not ir.DataType.FLOAT:
        return f"its input is {str(value.dtype).lower()}, not float32"
    sizes = static_shape(value)
    if sizes is None or len(sizes) not in (2, 3, 4):
        return "its input's rank is not known" if sizes is None else f"its input's rank is {len(sizes)}"
    known = [size for size in sizes[1:] if size is not None]
    if len(known) != len(sizes) - 1:
        return "a size of its input is not known"
    first = value.shape[0] if value.shape else None
    batch = first.value if isinstance(first, ir.SymbolicDim) else first
    if len(known) == 2:  # a sequence
        sample = Sample(batch, 3, (known[1], known[0], 1), channels_last=True)
    else:
        channels, height, width = (*known, 1, 1)[:3]
        sample = Sample(batch, len(sizes), (channels, height, width))
    return size_fault(sample) or sample


def weight_fault(value: ir.Value | None, rank: int) -> str | None:
    """Why a constant is no weight of the kernels; None where it is one, or is left out."""
    array = constant(value)
    if value is None or array is None:
        return None
    if not value.is_initializer():
        return "a weight is computed by a node"
    if array.dtype != np.float32 or array.ndim != rank:
        return f"a weight is {array.dtype} of shape {list(array.shape)}"
    return None


def made_weight(name: str, array: Array) -> ir.Value:
    """A weight that is no value of the graph yet; the region that reads it gives it a place there."""
    return ir.val(name, const_value=ir.tensor(np.ascontiguousarray(array), name=name))


def size_fault(sample: Sample) -> str | None:
    """Why a value is too large for the kernels, or empty; None where they take it."""
    elements = math.prod(sample.shape)
    if 0 < elements <= _LARGEST_VALUE and max(sample.shape) <= _LARGEST_DIMENSION:
        return None
    return "a value is empty" if not elements else f"a sample has {elements} elements"


@dataclass(frozen=True)
class Program:
    """The attributes of a region, and the weights that it reads, each once."""

    code: tuple[int, ...]
    constants: tuple[float, ...]
    weights: tuple[ir.Value, ...]


def assemble(
    activations: Mapping[ir.Value, Sample], steps: Mapping[ir.Value, Step], outputs: Sequence[ir.Value]
) -> Program:
    """Number values, weights and constants, and write the program.

    Args:
        activations: What the region reads.
        steps: The instruction that computes each inner value, in an order in which they can run.
        outputs: What the region returns, each a key of `steps`.
    """
    numbers = {value: number for number, value in enumerate(activations)}
    instructions: list[Step] = []
    for value, step in steps.items():
        if step.opcode is None:
            numbers[value] = numbers[step.values[0]]
        else:
            numbers[value] = len(activations) + len(instructions)
            instructions.append(step)
    weights: dict[ir.Value, int] = {}
    constants: dict[float, int] = {}
    code = [len(activations)]
    for sample in activations.values():
        code += (sample.layout, *sample.shape)
    code.append(len(instructions))
    for step in instructions:
        fields = [len(step.values)] if step.opcode is Opcode.CONCAT else []
        fields += [numbers[value] for value in step.values]
        fields += [-1 if w is None else weights.setdefault(w, len(weights)) for w in step.weights]
        fields += step.numbers
        fields += [-1 if c is None else constants.setdefault(c, len(constants)) for c in step.constants]
        code += (int(step.opcode or 0), len(fields), *fields)
    code.append(len(outputs))
    for value in outputs:
        code += (numbers[value], steps[value].result.layout)
    return Program(tuple(map(int, code)), tuple(constants) or (0.0,), tuple(weights))
