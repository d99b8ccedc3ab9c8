"""Models of one FusedRegion node, and sessions that run them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import onnxruntime
import pytest
import torch
from eager import LAST, SEQUENCE, Answer, evaluate, interpret
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from nncompile.passes.region_program import Kind, Opcode, Resizing

kernels = pytest.importorskip("nncompile_kernels", reason="nncompile-kernels is not installed")

ATTRIBUTES = {
    "schema": AttributeProto.INT,
    "program": AttributeProto.INTS,
    "constants": AttributeProto.FLOATS,
}
EXACT = {"rtol": 1e-4, "atol": 1e-5}  # of direct kernels against float64, for values of order one
WINOGRAD = {"rtol": 1e-3, "atol": 1e-4}  # test_winograd_error.py says more


class Region:
    """A program in the making. Its methods add an instruction and return the number of the value it computes.

    Args:
        inputs: The shape of each, (C,) or (C, H, W).
        last: Numbers of the inputs that are N x H x W x C.
        sequences: Of those that are N x H x C; their shapes are (C, H, 1).

    Attributes:
        shapes: Of every value, (C, H, W).
    """

    def __init__(
        self, *inputs: tuple[int, ...], last: Collection[int] = (), sequences: Collection[int] = ()
    ) -> None:
        self.inputs = inputs
        self.layouts = [len(shape) // 2 * 2 + 2 for shape in inputs]
        for layout, numbers in ((LAST, last), (SEQUENCE, sequences)):
            for i in numbers:
                self.layouts[i] = layout
        self.shapes = [(*shape, 1, 1)[:3] for shape in inputs]
        self.weights: list[np.ndarray] = []
        self.constants = [0.0]
        self.instructions: list[tuple[int, tuple[int, ...]]] = []
        self.outputs: list[tuple[int, int]] = []

    def conv(self, x, weight, bias=None, stride=(1, 1), pads=(0, 0, 0, 0), groups=1, dilations=(1, 1)):
        """`pads`: top, left, bottom, right."""
        kernel = weight.shape[2:]
        return self._add(
            Opcode.CONV,
            x,
            self._weight(weight),
            self._weight(bias),
            *kernel,
            *stride,
            *dilations,
            *pads,
            groups,
        )

    def conv_transpose(
        self, x, weight, bias=None, stride=(1, 1), pads=(0, 0), plane=None, groups=1, dilations=(1, 1)
    ):
        """`pads`: top, left; `plane`: height and width, by default all that the kernel reaches."""
        kernel = weight.shape[2:]
        plane = plane or [
            (size - 1) * s + (k - 1) * d + 1 - pad
            for size, s, k, d, pad in zip(self.shapes[x][1:], stride, kernel, dilations, pads, strict=True)
        ]
        weights = self._weight(weight), self._weight(bias)
        numbers = (*kernel, *stride, *dilations, *pads, *plane, groups)
        return self._add(Opcode.CONV_TRANSPOSE, x, *weights, *numbers)

    def max_pool(self, x, kernel, stride, pads=(0, 0, 0, 0), ceil=False):
        return self._add(Opcode.MAX_POOL, x, *kernel, *stride, *pads, int(ceil))

    def average_pool(self, x, kernel, stride, pads=(0, 0, 0, 0), ceil=False, include_pad=False):
        return self._add(Opcode.AVERAGE_POOL, x, *kernel, *stride, *pads, int(ceil), int(include_pad))

    def global_average(self, x):
        return self._add(Opcode.GLOBAL_AVERAGE, x)

    def add(self, x, y):
        return self._add(Opcode.ADD, x, y)

    def subtract(self, x, y):
        return self._add(Opcode.SUBTRACT, x, y)

    def multiply(self, x, y):
        return self._add(Opcode.MULTIPLY, x, y)

    def divide(self, x, y):
        return self._add(Opcode.DIVIDE, x, y)

    def plane_norm(self, x):
        return self._add(Opcode.PLANE_NORM, x)

    def channel_mean(self, x):
        return self._add(Opcode.CHANNEL_MEAN, x)

    def linear(self, x, weight, bias=None, *, transposed=True):
        """Of each pixel. `weight`: outputs x inputs, or the other way round where not `transposed`."""
        return self._add(Opcode.LINEAR, x, self._weight(weight), self._weight(bias), int(transposed))

    def activation(self, x, kind: Kind, *constants: float):
        indices = [self._constant(value) for value in constants]
        return self._add(Opcode.ACTIVATION, x, kind, *(*indices, -1, -1)[:2])

    def layer_norm(self, x, scale, shift=None, epsilon=1e-5):
        return self._add(
            Opcode.LAYER_NORM, x, self._weight(scale), self._weight(shift), self._constant(epsilon)
        )

    def softmax(self, x, *, logarithm=False):
        return self._add(Opcode.LOG_SOFTMAX if logarithm else Opcode.SOFTMAX, x)

    def concat(self, *values):
        return self._add(Opcode.CONCAT, len(values), *values)

    def select(self, x, channels):
        return self._add(Opcode.SELECT, x, len(channels), *channels)

    def resize(self, x, plane, how: Resizing):
        return self._add(Opcode.RESIZE, x, *plane, how)

    def flatten(self, x):
        return self._add(Opcode.FLATTEN, x)

    def output(self, value, rank=None):
        """Return `value`, by default as a tensor of rank 4 where it has a plane; or as `rank` says."""
        self.outputs.append((value, rank or (2 if self.shapes[value][1:] == (1, 1) else 4)))
        return self

    @property
    def program(self) -> list[int]:
        code = [len(self.inputs)]
        for layout, shape in zip(self.layouts, self.inputs, strict=True):
            code += [layout, *(*shape, 1, 1)[:3]]
        code.append(len(self.instructions))
        for opcode, fields in self.instructions:
            code += [opcode, len(fields), *fields]
        code.append(len(self.outputs))
        for output in self.outputs:
            code += output
        return [int(number) for number in code]

    def model(self, **changed) -> bytes:
        """The ONNX file. `changed`: attributes, the `declared` shapes of inputs, `weights_as_inputs`."""
        weights_as_inputs = changed.pop("weights_as_inputs", False)
        declared = changed.pop("declared", [["N", *shape] for shape in self._tensors()])
        inputs = [_float(f"x{i}", shape) for i, shape in enumerate(declared)]
        weights = [numpy_helper.from_array(array, f"w{i}") for i, array in enumerate(self.weights)]
        axes = {2: "C", SEQUENCE: "HC", 4: "CHW", LAST: "HWC"}
        outputs = [
            _float(f"y{i}", ["N", *axes.get(layout, "CHW")]) for i, (_, layout) in enumerate(self.outputs)
        ]
        attributes = {"schema": 1, "program": self.program, "constants": self.constants, **changed}
        names = [value.name for value in (*inputs, *weights)]
        node = helper.make_node("FusedRegion", names, [value.name for value in outputs], domain="nncompile")
        for name, value in attributes.items():
            node.attribute.append(helper.make_attribute(name, value, attr_type=ATTRIBUTES[name]))
        if weights_as_inputs:
            inputs += [_float(f"w{i}", array.shape) for i, array in enumerate(self.weights)]
            weights = []
        graph = helper.make_graph([node], "region", inputs, outputs, weights)
        domains = [helper.make_opsetid("", 20), helper.make_opsetid("nncompile", 1)]
        return helper.make_model(graph, opset_imports=domains, ir_version=10).SerializeToString()

    def eager(self, *inputs: np.ndarray) -> Answer:
        """What PyTorch computes, float64."""
        return interpret(self.program, self.constants, self.weights, inputs)

    def random_inputs(self, batch: int, seed: int = 0) -> list[np.ndarray]:
        random = np.random.default_rng(seed)
        return [random.standard_normal((batch, *shape), dtype=np.float32) for shape in self._tensors()]

    def _tensors(self) -> list[tuple[int, ...]]:
        """Shapes of a sample of each input."""
        return [
            {LAST: (*shape[1:], shape[0]), SEQUENCE: (*shape[1:2], shape[0])}.get(layout, shape)
            for layout, shape in zip(self.layouts, self.inputs, strict=True)
        ]

    def _add(self, opcode: Opcode, *fields: int) -> int:
        fields = tuple(map(int, fields))
        values = [torch.empty(1, *shape, device="meta") for shape in self.shapes]
        weights = [torch.from_numpy(weight).to("meta") for weight in self.weights]
        made = evaluate(opcode, fields, values, weights, self.constants)
        self.shapes.append(tuple(made.shape[1:]))
        self.instructions.append((opcode, fields))
        return len(self.shapes) - 1

    def _weight(self, array) -> int:
        if array is None:
            return -1
        self.weights.append(np.ascontiguousarray(array, dtype=np.float32))
        return len(self.weights) - 1

    def _constant(self, value: float) -> int:
        self.constants.append(float(np.float32(value)))
        return len(self.constants) - 1


def session(
    model: bytes,
    build: str,
    *,
    threads: int = 1,
    exact: bool = False,
    options: Mapping[str, str] | None = None,
):
    """ONNX Runtime with a build of the kernels. `options` go before `threads` and `exact`."""
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.log_severity_level = 4
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    for name, value in {"threads": str(threads), "exact": str(int(exact)), **(options or {})}.items():
        settings.add_session_config_entry(f"nncompile.{name}", value)
    settings.register_custom_ops_library(kernels.library_path(build))
    return onnxruntime.InferenceSession(model, settings, providers=["CPUExecutionProvider"])


def run(running, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    return running.run(None, {f"x{i}": array for i, array in enumerate(inputs)})


def assert_close(got: Sequence[np.ndarray], want: Answer, *, exact: bool = True) -> None:
    """Equal within the tolerance for the largest value on the way; NaN, inf and -inf at the same places."""
    tolerance = EXACT if exact else WINOGRAD
    atol = tolerance["atol"] * max(1.0, want.largest)
    for have, expected in zip(got, want.outputs, strict=True):
        assert have.shape == expected.shape
        np.testing.assert_allclose(have, expected, rtol=tolerance["rtol"], atol=atol)


def _float(name, shape):
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
