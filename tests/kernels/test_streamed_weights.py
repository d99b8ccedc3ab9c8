"""Convolutions with more weights than activations, which take the samples of a chunk together."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from random_regions import THREADS, examples
from regions import Region, assert_close, run, session
from same_bits import assert_same_bits

from nncompile.passes.region_program import Kind

CHANNELS = 520  # weights of 1.08 MB in a kernel of 1x1


def normal(*shape):
    return np.random.default_rng(shape[0]).standard_normal(shape) / math.sqrt(math.prod(shape[1:]))


def convolution(inputs, outputs, kernel, plane, stride=(1, 1), dilation=1):
    """With a border to read and one to leave, a bias, a residual, and an activation that moves 0."""
    region = Region((inputs, *plane))
    pads, dilations = (dilation * (kernel // 2),) * 4, (dilation, dilation)
    weight = normal(outputs, inputs, kernel, kernel)
    y = region.conv(0, weight, normal(outputs, 1)[:, 0], stride, pads, dilations=dilations)
    y = region.add(y, region.conv(0, normal(outputs, inputs, 1, 1), stride=stride))
    y = region.activation(y, Kind.SIGMOID)
    return region.output(region.max_pool(y, (3, 3), (1, 1), (1, 1, 1, 1))).output(y)


def transposed(inputs, outputs, kernel, plane, stride, pads=(0, 0)):
    region = Region((inputs, *plane))
    weight, bias = normal(inputs, outputs, kernel, kernel), normal(outputs, 1)[:, 0]
    y = region.conv_transpose(region.activation(0, Kind.TANH), weight, bias, stride, pads)
    y = region.activation(y, Kind.SIGMOID)
    return region.output(region.max_pool(y, (3, 3), (1, 1), (1, 1, 1, 1))).output(y)


def growing():
    """What a later sample still reads lies where an earlier one's larger value would fit."""
    region = Region((100,))
    y = region.max_pool(region.linear(0, normal(CHANNELS, 100)), (1, 1), (1, 1))
    y = region.average_pool(y, (3, 3), (1, 1), (2, 2, 2, 2))
    return region.output(region.conv(y, normal(CHANNELS, CHANNELS, 1, 1)))


REGIONS = {
    "growing": growing(),
    "Winograd 3x3": convolution(95, 103, 3, (5, 7)),
    "Winograd 3x3, one tile": convolution(96, 96, 3, (1, 1)),
    "Winograd 5x5": convolution(60, 77, 5, (6, 3)),
    "3x3 with a stride": convolution(170, 171, 3, (7, 7), (2, 2)),
    "3x3, dilated": convolution(170, 171, 3, (7, 5), dilation=4),
    "transposed": transposed(140, 130, 4, (4, 3), (2, 2), (1, 1)),
    "transposed side by side": transposed(260, 261, 2, (4, 4), (2, 2)),
    "1x1": convolution(511, 529, 1, (3, 3)),
}


@pytest.mark.parametrize("exact", [True, False], ids=["exact", "any"])
@pytest.mark.parametrize("name", REGIONS)
def test_any_batch(build, name, exact):
    region = REGIONS[name]
    for threads in THREADS:
        running = session(region.model(), build, threads=threads, exact=exact)
        for batch in (0, 1, 2, 7, 8, 9, 17, 33):
            inputs = region.random_inputs(batch)
            assert_close(run(running, inputs), region.eager(*inputs), exact=exact)


@pytest.mark.parametrize("name", REGIONS)
def test_same_bits_whatever_the_batch(build, name):
    assert_same_bits(REGIONS[name], build, exact=False)


@pytest.mark.parametrize("name", REGIONS)
def test_more_threads_than_a_chunk_has_samples(build, name):
    """All of them share the samples of a chunk, and then those of the next."""
    region = REGIONS[name]
    many = session(region.model(), build, threads=2, options={"threads": "48"})
    alone = session(region.model(), build)
    for batch in (9, 33, 47):
        inputs = region.random_inputs(batch)
        for got, want in zip(run(many, inputs), run(alone, inputs), strict=True):
            np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("special", [np.nan, np.inf])
@pytest.mark.parametrize("name", REGIONS)
def test_not_finite(build, name, special):
    """One sample of a chunk, and at one of its pixels: the others are as they were."""
    region = REGIONS[name]
    (x,) = region.random_inputs(6)
    running = session(region.model(), build)
    before = run(running, [x])
    x[3].flat[1] = special
    got = run(running, [x])
    assert_close(got, region.eager(x), exact=False)
    others = [0, 1, 2, 4, 5]
    for have, want in zip(got, before, strict=True):
        np.testing.assert_array_equal(have[others], want[others])


@st.composite
def streams(draw):
    """What takes a chunk together between what goes sample by sample, with values that live through both."""
    region = Region((CHANNELS, draw(st.integers(2, 4)), draw(st.integers(2, 4))))
    for _ in range(draw(st.integers(2, 12))):
        x = draw(st.integers(max(0, len(region.shapes) - 3), len(region.shapes) - 1))
        plane = region.shapes[x][1:]
        match draw(st.integers(0, 5)):
            case 0 | 1:
                region.conv(x, normal(CHANNELS, CHANNELS, 1, 1), normal(CHANNELS, 2)[:, 1])
            case 2:
                pads = (2,) * 4 if max(plane) < 5 else (1,) * 4
                region.conv(x, normal(CHANNELS, 1, 3, 3), pads=pads, groups=CHANNELS)
            case 3 if min(plane) > 1:
                region.max_pool(x, (2, 2), (1, 1))
            case 4:
                alike = [v for v, shape in enumerate(region.shapes) if shape[1:] == plane]
                region.add(x, draw(st.sampled_from(alike)))
            case _:
                region.activation(x, Kind.LEAKY_RELU, -0.5)
    last = len(region.shapes) - 1
    if draw(st.booleans()):
        region.linear(region.global_average(last), normal(7, CHANNELS))
        region.output(len(region.shapes) - 1)
    return region.output(last).output(draw(st.integers(0, last)))


@examples(20)
@given(region=streams(), batch=st.sampled_from((1, 3, 8, 9, 40)), threads=st.sampled_from(THREADS))
def test_any_graph(build, region, batch, threads):
    inputs = region.random_inputs(batch)
    got = run(session(region.model(), build, threads=threads, exact=True), inputs)
    assert_close(got, region.eager(*inputs))
