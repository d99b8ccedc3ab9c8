"""Every instruction, alone and in random graphs, against PyTorch in double precision."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from random_regions import BATCHES, THREADS, chains, examples, graphs, layers
from regions import EXACT, LAST, SEQUENCE, Region, assert_close, run, session

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


@pytest.mark.parametrize("channels", [1, 3, 4, 7, 16, 21, 40, 67])
def test_layer_norm(build, channels):
    """Also of pixels that are far from 0, or alike in all channels, or apart by little more than epsilon."""
    random = np.random.default_rng(channels)
    parts = random.standard_normal((2, channels))
    region = Region((channels, 2, 3))
    region.output(region.layer_norm(0, parts[0], epsilon=1e-6)).output(region.layer_norm(0, *parts), LAST)
    (x,) = region.random_inputs(5)
    x[1], x[2], x[3, :, 0] = 300 + x[1], 1e-3 * x[2], 0.5
    first, last = run(session(region.model(), build), [x])
    rate = 1 / np.sqrt(x.astype(float).var(axis=1, keepdims=True) + 1e-6)
    off = 2**-23 * (
        np.abs(x).max(axis=1, keepdims=True) * rate + 8
    )  # the mean's rounding, and those behind it
    wanted, moved = region.eager(x).outputs
    np.testing.assert_array_less(np.abs(first - wanted), off * np.abs(parts[0][:, None, None]) + 1e-30)
    limit = (off * (np.abs(parts[0]) + np.abs(parts[1]))[:, None, None]).transpose(0, 2, 3, 1)
    np.testing.assert_array_less(np.abs(last - moved), limit + 1e-30)


@pytest.mark.parametrize("plane", [(1, 1), (1, 5), (13, 17)], ids=str)
@pytest.mark.parametrize("channels", [1, 3, 4, 16, 21, 40])
def test_global_response_normalization(build, channels, plane):
    """Also where a gate could be one of channels and one of pixels."""
    region = Region((channels, *plane))
    norm = region.plane_norm(0)
    gate = region.divide(norm, region.activation(region.channel_mean(norm), Kind.CLIP, 1e-6, 1e6))
    region.output(region.multiply(0, gate)).output(norm)
    region.output(region.multiply(0, region.channel_mean(0))).output(region.divide(0, 0))
    for batch in (1, 3):
        inputs = region.random_inputs(batch)
        assert_close(run(session(region.model(), build), inputs), region.eager(*inputs))


def test_channels_last_on_either_side(build):
    """What enters last and leaves first, and the other way round, with and without a layer in between."""
    for batch in (1, 3, 17):
        region = Region((5, 6, 7), (3, 6, 7), last=[0])
        y = region.linear(0, np.random.default_rng(0).standard_normal((3, 5)), np.ones(3))
        y = region.add(region.conv(1, np.ones((3, 1, 3, 3)), pads=(1,) * 4, groups=3), y)
        region.output(y, LAST).output(0).output(1, LAST).output(y)
        inputs = region.random_inputs(batch)
        assert_close(run(session(region.model(), build), inputs), region.eager(*inputs))


@pytest.mark.parametrize("channels", [3, 16, 40])
@pytest.mark.parametrize("threads", [1, 3])
def test_a_block_of_a_transformer(build, channels, threads):
    """Of sequences, which enter and leave as they are."""
    random = np.random.default_rng(channels)
    parts = [random.standard_normal((3 * channels, channels)) / math.sqrt(channels) for _ in range(2)]
    region = Region((channels, 37, 1), (channels, 37, 1), sequences=[0, 1])
    x = region.add(region.linear(0, parts[0][:channels], np.ones(channels)), 1)
    y = region.layer_norm(x, np.ones(channels), np.ones(channels), 0.1)
    y = region.activation(region.linear(y, parts[1], np.ones(3 * channels)), Kind.GELU)
    y = region.add(region.linear(y, parts[0].T), x)
    region.output(y, SEQUENCE).output(region.global_average(y)).output(x).output(y, LAST)
    for batch in (1, 2, 11):
        inputs = region.random_inputs(batch)
        got = run(session(region.model(), build, threads=threads), inputs)
        assert_close(got, region.eager(*inputs))


@pytest.mark.parametrize("channels", [3, 20, 64, 70])
def test_a_layer_of_pixels_between_borders(build, channels):
    """Rows that tiles cross, into a plane with zeros around it; every width, with a residual."""
    random = np.random.default_rng(channels)
    weight, bias = random.standard_normal((channels, 8, 1, 1)), random.standard_normal(channels)
    depthwise = random.standard_normal((channels, 1, 3, 3))
    for plane in ((1, 1), (2, 3), (3, 4), (5, 7), (4, 13), (3, 29)):
        region = Region((8, *plane), (channels, *plane))
        y = region.activation(region.conv(0, weight, bias), Kind.SILU)
        z = region.conv(y, depthwise, None, (1, 1), (1, 0, 1, 2), groups=channels)
        u = region.activation(region.add(region.conv(0, weight), 1), Kind.RELU)
        v = region.conv(u, depthwise, None, (1, 1), (1, 1, 1, 1), groups=channels)
        w = region.conv(1, depthwise, None, (1, 1), (1, 1, 1, 1), groups=channels)
        region.output(z, 4).output(v, 4).output(w, 4).output(y, 4)
        for batch in (1, 3):
            inputs = region.random_inputs(batch)
            got = run(session(region.model(), build, exact=True), inputs)
            assert_close(got, region.eager(*inputs))


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("kind", [Kind.SIGMOID, Kind.SILU], ids=str)
def test_sigmoids_keep_their_digits(build, kind, sign):
    """Up to where exp(-x) leaves float32."""
    x = sign * np.linspace(0, 87, 4001, dtype=np.float32).reshape(1, 1, 1, -1)
    region = Region(x.shape[1:])
    region.output(region.activation(0, kind), 4)
    (got,), (want,) = run(session(region.model(), build), [x]), region.eager(x).outputs
    np.testing.assert_allclose(got, want, rtol=8 * 2**-24)
    far = np.float32(sign * 1e4) * np.ones_like(x)
    (got,), (want,) = run(session(region.model(), build), [far]), region.eager(far).outputs
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("sign", [1, -1])
def test_gelu_keeps_its_digits(build, sign):
    """Also where it is the product of a number and a tiny share of a normal distribution."""
    x = sign * np.linspace(0, 13, 4001, dtype=np.float32).reshape(1, 1, 1, -1)
    region = Region(x.shape[1:])
    region.output(region.activation(0, Kind.GELU))
    (got,), exact = run(session(region.model(), build), [x]), torch.from_numpy(x).double()
    want = (exact * torch.special.erfc(-exact / math.sqrt(2)) / 2).numpy()  # F.gelu's 1 + erf loses digits
    rounded = (12 + x.astype(float) ** 2) * 2**-24  # kernels/tests/rounding.h
    np.testing.assert_array_less(np.abs(got - want), rounded * np.abs(want) + 1e-38)


@pytest.mark.parametrize("stride", [(1, 1), (2, 2), (1, 2)], ids=str)
@pytest.mark.parametrize("kernel", [(5, 5), (7, 7), (3, 5), (1, 7)], ids=str)
@pytest.mark.parametrize("channels", [3, 5, 17])
def test_wide_depthwise(build, channels, kernel, stride):
    """Its results come 4, 7 or 8 at a time, the last of a row again with those before: every width."""
    random = np.random.default_rng(channels)
    weight, bias = random.standard_normal((channels, 1, *kernel)), random.standard_normal(channels)
    pads = (kernel[0] // 2, kernel[1] // 2) * 2
    for width in (*range(1, 18), 23):
        region = Region((channels, 3, width))
        y = region.conv(0, weight, bias, stride, pads, groups=channels)
        other = region.max_pool(0, (1, 1), stride)
        region.output(region.activation(region.add(y, other), Kind.SIGMOID))
        inputs = region.random_inputs(2)
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
