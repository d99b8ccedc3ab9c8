"""NaN and infinity come out where they come out of eager PyTorch, and nowhere else."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from random_regions import THREADS, chains, examples, graphs
from regions import Region, assert_close, run, session

from nncompile.passes.region_program import Kind, Opcode, Resizing

SPECIAL = (np.nan, np.inf, -np.inf)


def interpolates(region):
    """PyTorch multiplies what has a weight of 0, too, and which weights are 0 depends on its roundings."""
    return any(op == Opcode.RESIZE and fields[-1] != Resizing.NEAREST for op, fields in region.instructions)


def everywhere(shape, special, channel):
    """As many samples as a plane has pixels, each with another one of them special."""
    channels, height, width = shape
    x = np.random.default_rng(1).standard_normal((height * width, *shape), dtype=np.float32)
    pixels = np.arange(height * width)
    x[pixels, channel % channels, pixels // width, pixels % width] = special
    return x


def convolution(kernel, channels=(16, 16), depthwise=False, pad=1):
    region = Region((channels[0], 9, 11))
    random = np.random.default_rng(kernel)
    weight = (
        random.standard_normal((channels[1], 1 if depthwise else channels[0], kernel, kernel)) / kernel**2
    )
    groups = channels[0] if depthwise else 1
    return region, region.conv(0, weight, random.standard_normal(channels[1]), pads=(pad,) * 4, groups=groups)


def winograd(kernel):
    """Channels enough that it runs in tiles of both dimensions."""
    region, y = convolution(kernel, (32, 40), pad=kernel // 2)
    return region.output(region.activation(y, Kind.RELU))


def small(kernel):
    """What runs with samples in lanes where a CPU has lanes enough."""
    region, y = convolution(kernel, (2, 5))
    return region.output(region.max_pool(region.activation(y, Kind.RELU), (2, 2), (2, 2)))


def rows(kernel):
    """What runs along the rows, with samples in lanes or without, where a CPU has lanes enough."""
    region, y = convolution(kernel, (3, 6), pad=kernel // 2)
    return region.output(region.activation(y, Kind.SILU))


def pooled(kernel):
    """The last column of the convolution is in a tile with others, and in no window of the pool."""
    region = Region((3, 9, 15 + kernel))
    random = np.random.default_rng(kernel)
    y = region.conv(0, random.standard_normal((6, 3, kernel, kernel)) / kernel**2)
    assert region.shapes[y][2] == 16
    return region.output(region.max_pool(y, (2, 3), (2, 3)))


def depthwise():
    region, y = convolution(3, (5, 5), depthwise=True)
    return region.output(region.activation(y, Kind.SILU))


def pools():
    region, y = convolution(1, (3, 6), pad=0)
    region.output(region.max_pool(y, (3, 3), (2, 2), (1, 1, 1, 1), ceil=True))
    region.output(region.average_pool(y, (3, 2), (2, 1), (1, 0, 1, 0)))
    return region.output(region.global_average(y))


def tail(logarithm):
    region, y = convolution(3, (2, 6))
    y = region.flatten(region.max_pool(y, (3, 3), (3, 3)))
    weight = np.random.default_rng(2).standard_normal((7, region.shapes[y][0]))
    return region.output(region.softmax(region.linear(y, weight), logarithm=logarithm))


def normalized(channels):
    """Its linear layer reads nothing of other pixels."""
    region, y = convolution(1, (3, channels), pad=0)
    y = region.layer_norm(y, np.arange(channels) - 1.0, np.ones(channels))
    return region.output(region.linear(y, np.ones((4, channels))))


def responses():
    """Global response normalisation: a plane with a special pixel makes others NaN, or 0."""
    region, y = convolution(1, (3, 5), pad=0)
    norm = region.plane_norm(y)
    gate = region.divide(norm, region.channel_mean(norm))
    return region.output(region.multiply(y, gate)).output(region.multiply(y, region.channel_mean(y)))


def activation(kind, *constants):
    region, y = convolution(1, (3, 5), pad=0)
    return region.output(region.activation(y, kind, *constants))


REGIONS = {
    "winograd 3x3": winograd(3),
    "winograd 5x5": winograd(5),
    "small 3x3": small(3),
    "small 5x5": small(5),
    "rows 3x3": rows(3),
    "rows 5x5": rows(5),
    "pooled 3x3": pooled(3),
    "pooled 5x5": pooled(5),
    "depthwise": depthwise(),
    "pools": pools(),
    "softmax": tail(False),
    "log-softmax": tail(True),
    "layer norm": normalized(21),
    "layer norm of few": normalized(3),
    "responses": responses(),
    "relu": activation(Kind.RELU),
    "clip": activation(Kind.CLIP, -1, 1),
    "leaky-relu": activation(Kind.LEAKY_RELU, 0.1),
    "silu": activation(Kind.SILU),
    "hard-swish": activation(Kind.HARD_SWISH),
    "sigmoid": activation(Kind.SIGMOID),
    "tanh": activation(Kind.TANH),
    "gelu": activation(Kind.GELU),
    "hard-sigmoid": activation(Kind.HARD_SIGMOID, 0.2, 0.5),
    "star-relu": activation(Kind.STAR_RELU, 0.5, -0.25),
}


@pytest.mark.parametrize("exact", [True, False], ids=["exact", "any"])
@pytest.mark.parametrize("special", SPECIAL)
@pytest.mark.parametrize("name", REGIONS)
def test_one_special_pixel_at_each_place(build, name, special, exact):
    region = REGIONS[name]
    x = everywhere(region.shapes[0], special, channel=1)
    running = session(region.model(), build, exact=exact)
    want = region.eager(x)
    assert not np.isnan(special) or any(np.isnan(array).any() for array in want.outputs)
    together = run(running, [x])
    alone = [np.concatenate(rows) for rows in zip(*(run(running, [row[None]]) for row in x), strict=True)]
    assert_close(together, want, exact=exact)
    for have, its in zip(together, alone, strict=True):
        np.testing.assert_array_equal(have, its)


@examples(60)
@given(
    region=graphs(),
    batch=st.sampled_from((1, 9, 17)),
    threads=st.sampled_from(THREADS),
    special=st.sampled_from(SPECIAL),
    place=st.integers(0, 2**32),
    exact=st.booleans(),
)
def test_one_special_number_in_a_graph(build, region, batch, threads, special, place, exact):
    assume(not interpolates(region))
    inputs = region.random_inputs(batch)
    inputs[0].reshape(-1)[place % inputs[0].size] = special
    running = session(region.model(), build, threads=threads, exact=exact)
    assert_close(run(running, inputs), region.eager(*inputs), exact=exact)


@examples(25)
@given(
    region=chains(),
    special=st.sampled_from(SPECIAL),
    place=st.integers(0, 2**32),
    exact=st.booleans(),
)
def test_one_special_number_in_a_chain(build, region, special, place, exact):
    """Of one sample among finite ones in lanes; alone it has the same bits."""
    assume(not interpolates(region))
    inputs = region.random_inputs(17)
    one = inputs[0][place % 17]
    one.reshape(-1)[place // 17 % one.size] = special
    running = session(region.model(), build, exact=exact)
    (got,) = run(running, inputs)
    assert_close([got], region.eager(*inputs), exact=exact)
    alone = np.concatenate([run(running, [inputs[0][i : i + 1]])[0] for i in range(17)])
    np.testing.assert_array_equal(got, alone)


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("region_of", [winograd, rows])
def test_what_overflows_inside_a_winograd_tile(build, region_of, kernel):
    """Sums of numbers near the largest float are not finite in a tile where the convolution itself is."""
    region = region_of(kernel)
    weight = region.weights[0]
    weight[:] = 0
    weight[:, 0, kernel // 2, kernel // 2] = 0.5
    x = np.zeros((17, *region.shapes[0]), np.float32)
    x[1:, 0] = 3e38
    (got,) = run(session(region.model(), build), [x])
    np.testing.assert_allclose(got, region.eager(x).outputs[0], rtol=1e-4)
