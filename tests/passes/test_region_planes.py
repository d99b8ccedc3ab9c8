"""Resize as an instruction: only where ONNX Runtime computes the same, and all of what networks use."""

from itertools import product

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from nncompile.passes.region_encoders import encode
from nncompile.passes.region_program import Opcode, Resizing

COORDINATES = ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric", "half_pixel_symmetric")
ROUNDINGS = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
PLANE = (5, 6)
SCALES = [
    (2, 2),
    (3, 2),
    (1, 4),
    (5, 5),
    (0.5, 2),
    (1.5, 1.7),
    (1, 1),
    (0.2, 0.25),
    (28 / 5, 25 / 6),
    (2, 4 / 3),
]


def attributes(mode, coordinates, rounding="round_prefer_floor", more=""):
    return (
        f'mode = "{mode}", coordinate_transformation_mode = "{coordinates}", '
        f'nearest_mode = "{rounding}"{more}'
    )


@pytest.fixture
def encoded(parsed):
    """`encoded(attributes, scales)`: the model of one Resize and its instruction, or why there is none."""

    def run(attributes, scales, inputs="x, , s", x=f"float[n, 2, {PLANE[0]}, {PLANE[1]}] x"):
        weights = {"s": np.array(scales, "f4")} if len(scales) else {}
        text = f"g ({x}) => (float[n, c, h, w] y) {{ y = Resize<{attributes}>({inputs}) }}"
        model = parsed(text, weights)
        graph = ir.from_proto(model).graph
        graph.outputs[0].shape = None  # what it must be is for the instruction to say
        return model, encode(graph.node(0), {})

    return run


def mixed(how, size, count):
    """The result's elements as weighted sums of the plane's, along one axis."""
    matrix = np.zeros((count, size))
    for i in range(count):
        if how is Resizing.NEAREST:
            matrix[i, i * size // count] = 1
            continue
        at = (
            (i + 0.5) * size / count - 0.5
            if how is Resizing.HALF_PIXELS
            else i * (size - 1) / max(count - 1, 1)
        )
        at = min(max(at, 0), size - 1)
        matrix[i, int(at)] += 1 - at % 1
        matrix[i, min(int(at) + 1, size - 1)] += at % 1
    return matrix


def assert_like_onnx_runtime(model, step):
    (height, width, how), (_, *plane) = step.numbers, step.result.shape
    assert (step.opcode, plane) == (Opcode.RESIZE, [height, width])
    x = np.random.default_rng(0).standard_normal((3, 2, *PLANE)).astype("f4")
    rows, columns = (mixed(Resizing(how), size, count) for size, count in zip(PLANE, plane, strict=True))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (got,) = session.run(None, {"x": x})
    np.testing.assert_allclose(got, rows @ x.astype("f8") @ columns.T, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("scales", SCALES, ids=str)
@pytest.mark.parametrize("coordinates", COORDINATES)
def test_what_is_encoded_is_what_onnx_runtime_computes(encoded, coordinates, scales):
    """Every way to resize: refused, or the same."""
    for mode, rounding in product(("nearest", "linear"), ROUNDINGS):
        model, step = encoded(attributes(mode, coordinates, rounding), (1, 1, *scales))
        if not isinstance(step, str):
            assert_like_onnx_runtime(model, step)


@pytest.mark.parametrize(
    ("mode", "coordinates", "rounding", "scales", "how"),
    [
        ("nearest", "asymmetric", "floor", (2, 2), Resizing.NEAREST),
        ("nearest", "asymmetric", "floor", (4, 8), Resizing.NEAREST),
        ("nearest", "asymmetric", "floor", (28 / 5, 25 / 6), Resizing.NEAREST),
        ("nearest", "half_pixel", "round_prefer_floor", (3, 4), Resizing.NEAREST),
        ("nearest", "asymmetric", "round_prefer_floor", (2, 2), Resizing.NEAREST),
        ("linear", "half_pixel", "floor", (2, 8), Resizing.HALF_PIXELS),
        ("linear", "pytorch_half_pixel", "floor", (2, 0.5), Resizing.HALF_PIXELS),
        ("linear", "align_corners", "floor", (2, 2), Resizing.CORNERS),
        ("linear", "align_corners", "floor", (28 / 5, 25 / 6), Resizing.CORNERS),
    ],
)
def test_what_networks_use_is_encoded(encoded, mode, coordinates, rounding, scales, how):
    model, step = encoded(attributes(mode, coordinates, rounding), (1, 1, *scales))
    assert step.numbers[2] == how
    assert_like_onnx_runtime(model, step)


@pytest.mark.parametrize(
    ("given", "scales", "reason"),
    [
        (attributes("nearest", "asymmetric", "ceil"), (1, 1, 2, 2), "it takes other elements"),
        (attributes("nearest", "asymmetric", "round_prefer_ceil"), (1, 1, 2, 2), "it takes other elements"),
        (attributes("nearest", "asymmetric"), (1, 1, 2, 3), "it takes other elements"),
        (attributes("nearest", "half_pixel", "floor"), (1, 1, 2, 2), "it takes other elements"),
        (attributes("nearest", "align_corners", "floor"), (1, 1, 2, 2), "it takes other elements"),
        (attributes("nearest", "pytorch_half_pixel"), (1, 1, 2, 0.2), "it takes other elements"),
        (attributes("cubic", "half_pixel"), (1, 1, 2, 2), "it interpolates by cubic"),
        (attributes("linear", "asymmetric"), (1, 1, 2, 2), "with coordinates by asymmetric"),
        (attributes("linear", "half_pixel_symmetric"), (1, 1, 2, 2), "by half_pixel_symmetric"),
        (attributes("linear", "half_pixel"), (1, 1, 1.5, 1), "cut a part of an element off"),
        (attributes("linear", "pytorch_half_pixel"), (1, 1, 0.2, 1), "the kernels take the middle"),
        (attributes("linear", "half_pixel", more=", antialias = 1"), (1, 1, 2, 2), "it filters"),
        (attributes("nearest", "asymmetric", "floor"), (1, 2, 2, 2), "its scales are [1.0, 2.0, 2.0, 2.0]"),
        (attributes("nearest", "asymmetric", "floor"), (2, 1, 2, 2), "its scales are [2.0, 1.0, 2.0, 2.0]"),
        (attributes("nearest", "asymmetric", "floor"), (1, 1, 0.1, 2), "its scales are [1.0, 1.0, 0.1"),
        (attributes("nearest", "asymmetric", "floor"), (1, 1, 2**30, 2), "its scales are [1.0, 1.0, 107"),
        (attributes("nearest", "asymmetric", "floor"), (1, 1, 2**15, 2**15), "a sample has "),
    ],
)  # fmt: skip
def test_what_is_refused(encoded, given, scales, reason):
    _, step = encoded(given, scales)
    assert reason in step


@pytest.mark.parametrize("scale", [-2.0, 0.0, np.inf, np.nan])
def test_scales_that_are_none(encoded, scale):
    _, step = encoded(attributes("nearest", "asymmetric", "floor"), (1, 1, scale, scale))
    assert "its scales are" in step


@pytest.mark.parametrize(
    ("inputs", "x", "more", "reason"),
    [
        ("x, , , s", "float[n, 2, 5, 6] x, int64[4] s", "", "a weight is not constant"),
        ("x, , s", "float[n, 2, 5, 6] x, float[4] s", "", "a weight is not constant"),
        ("x, , s", "float[n, 2, 5, 6] x, float[2] s", ", axes = [2, 3]", "a weight is not constant"),
    ],
)
def test_sizes_that_are_computed(encoded, inputs, x, more, reason):
    _, step = encoded(attributes("nearest", "asymmetric", "floor", more), (), inputs, x)
    assert step == reason


def test_scales_of_named_axes(encoded):
    more = ", axes = [2, 3]"
    _, step = encoded(attributes("nearest", "asymmetric", "floor", more), (2, 2))
    assert step == "it does not resize planes by a scale for each axis"
