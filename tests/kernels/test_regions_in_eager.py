"""Every instruction, alone and in random graphs, against PyTorch in double precision."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from random_regions import BATCHES, THREADS, chains, examples, graphs, layers
from regions import EXACT, Region, assert_close, run, session

from nncompile.passes.region_program import Kind


@examples(150)
@given(region=layers(), batch=st.sampled_from(BATCHES), threads=st.sampled_from(THREADS))
def test_a_layer(build, region, batch, threads):
    inputs = region.random_inputs(batch)
    (got,) = run(session(region.model(), build, threads=threads, exact=True), inputs)
    np.testing.assert_allclose(got, region.eager(*inputs).outputs[0], **EXACT)


@examples(150)
@given(region=graphs(), batch=st.sampled_from(BATCHES), threads=st.sampled_from(THREADS), exact=st.booleans())
def test_a_graph(build, region, batch, threads, exact):
    inputs = region.random_inputs(batch)
    got = run(session(region.model(), build, threads=threads, exact=exact), inputs)
    assert_close(got, region.eager(*inputs), exact=exact)


@examples(60)
@given(region=chains(), batch=st.sampled_from(BATCHES), threads=st.sampled_from(THREADS), exact=st.booleans())
def test_a_chain(build, region, batch, threads, exact):
    inputs = region.random_inputs(batch)
    got = run(session(region.model(), build, threads=threads, exact=exact), inputs)
    assert_close(got, region.eager(*inputs), exact=exact)


@pytest.mark.parametrize("batch", [1, 8, 16, 33])
def test_an_input_that_is_returned(build, batch):
    """Also where samples run in lanes, so that no input is laid out with channels in them."""
    region = Region((2, 9, 11))
    y = region.conv(0, np.ones((5, 2, 3, 3)), pads=(1, 1, 1, 1))
    region.output(0).output(y).output(0)
    (x,) = region.random_inputs(batch)
    first, result, second = run(session(region.model(), build, exact=True), [x])
    np.testing.assert_array_equal(first, x)
    np.testing.assert_array_equal(second, x)
    np.testing.assert_allclose(result, region.eager(x).outputs[1], **EXACT)


@pytest.mark.parametrize("batch", [1, 8, 16, 33])
def test_two_columns_by_another_name(build, batch):
    """A flattened pixel is the same floats under another number, also for what reads it in lanes."""
    region = Region((1, 12, 12))
    weight = np.arange(54).reshape(6, 1, 3, 3) / 54
    first, second = (region.flatten(region.global_average(region.conv(0, sign * weight))) for sign in (1, -1))
    region.output(region.activation(region.add(first, second), Kind.SIGMOID)).output(second)
    inputs = region.random_inputs(batch)
    got = run(session(region.model(), build, exact=True), inputs)
    assert_close(got, region.eager(*inputs), exact=True)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("stride", [(1, 1), (2, 3)], ids=str)
@pytest.mark.parametrize("dilations", [(2, 1), (5, 9), (6, 7), (24, 36)], ids=str)
def test_dilations_as_large_as_the_plane(build, dilations, stride, groups):
    """Most taps lie in the padding, and some results read nothing else."""
    random = np.random.default_rng(dilations)
    region = Region((6, 7, 9))
    for kernel in ((3, 3), (1, 2), (2, 5)):
        weight, bias = random.standard_normal((10, 6 // groups, *kernel)), random.standard_normal(10)
        reach = [(size - 1) * step for size, step in zip(kernel, dilations, strict=True)]
        pads = (reach[0] // 2 + 1, reach[1], reach[0], reach[1] // 2 + 2)
        y = region.conv(0, weight, bias, stride, pads, groups, dilations)
        region.output(region.activation(y, Kind.SIGMOID))
    for batch in (1, 3):
        inputs = region.random_inputs(batch)
        got = run(session(region.model(), build, exact=True), inputs)
        assert_close(got, region.eager(*inputs))


@pytest.mark.parametrize("stride", [(1, 1), (2, 2), (1, 2)], ids=str)
@pytest.mark.parametrize("channels", [1, 3, 5, 16, 17, 40])
def test_depthwise_of_3x3(build, channels, stride):
    """Its results come two rows of four at a time: every remainder of both, with a residual and a border."""
    random = np.random.default_rng(channels)
    weight, bias = random.standard_normal((channels, 1, 3, 3)), random.standard_normal(channels)
    for height in (1, 2, 3, 4):
        for width in (1, 2, 4, 7, 9):
            region = Region((channels, height, width))
            y = region.conv(0, weight, bias, stride, (1, 1, 1, 1), groups=channels)
            other = region.max_pool(0, (1, 1), stride)
            y = region.activation(region.add(y, other), Kind.SIGMOID)
            y = region.conv(y, weight, None, (1, 1), (1, 1, 1, 1), groups=channels)
            region.output(y)
            inputs = region.random_inputs(2)
            got = run(session(region.model(), build, exact=True), inputs)
            assert_close(got, region.eager(*inputs))
