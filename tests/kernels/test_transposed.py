"""Transposed convolutions: every kernel, stride and crop, alone and between other layers."""

import numpy as np
import pytest
from regions import Region, assert_close, kernels, run, session
from same_bits import assert_same_bits

from nncompile.passes.region_program import Kind, Resizing

SESSION = 2 * 10**6  # its number, apart from those that others count
SHAPES = {  # channels in and out, kernel, stride, pads, what is cut off behind (or added), dilations, groups
    "u-net": ((20, 12), (2, 2), (2, 2), (0, 0), (0, 0), (1, 1), 1),
    "dcgan": ((9, 24), (4, 4), (2, 2), (1, 1), (1, 1), (1, 1), 1),
    "dcgan's last": ((33, 3), (4, 4), (2, 2), (1, 1), (1, 1), (1, 1), 1),
    "autoencoder": ((16, 1), (3, 3), (2, 2), (1, 1), (0, 0), (1, 1), 1),
    "bilinear": ((5, 5), (8, 8), (4, 4), (2, 2), (2, 2), (1, 1), 5),
    "head": ((7, 6), (16, 16), (8, 8), (4, 4), (4, 4), (1, 1), 1),
    "no stride": ((6, 10), (3, 5), (1, 1), (1, 0), (0, 2), (1, 1), 1),
    "crop of one part": ((8, 4), (3, 3), (3, 3), (1, 2), (2, 0), (1, 1), 1),
    "gaps": ((4, 5), (2, 1), (5, 3), (0, 1), (-4, -2), (1, 1), 1),
    "dilated": ((6, 8), (3, 2), (2, 3), (2, 1), (0, -1), (3, 2), 1),
    "dilated as the stride": ((6, 8), (3, 3), (2, 4), (1, 0), (1, 0), (2, 2), 2),
    "groups": ((12, 20), (4, 4), (2, 2), (1, 1), (1, 1), (1, 1), 4),
    "groups of vectors": ((8, 64), (2, 2), (2, 2), (0, 0), (0, 0), (1, 1), 2),
    "depthwise": ((9, 9), (3, 3), (2, 2), (1, 1), (0, 0), (1, 1), 9),
    "far behind": ((3, 4), (2, 2), (2, 2), (0, 0), (-5, -7), (1, 1), 1),
    "far before": ((3, 4), (5, 5), (1, 1), (6, 5), (0, 0), (1, 1), 1),
    "vectors of each column": ((6, 21), (3, 4), (1, 2), (1, 1), (1, 1), (1, 1), 1),
    "cut behind": ((40, 70), (2, 2), (2, 2), (0, 0), (1, 1), (1, 1), 1),
    "wide": ((40, 70), (3, 3), (2, 2), (1, 1), (0, 0), (1, 1), 1),
}


def result(name, sizes):
    """The plane that results of one of `sizes`."""
    _, kernel, stride, pads, off, dilations, _ = SHAPES[name]
    axes = zip(sizes, kernel, stride, pads, off, dilations, strict=True)
    return [(size - 1) * s + (k - 1) * d + 1 - before - behind for size, k, s, before, behind, d in axes]


def transposed(region, x, name, bias=True):
    (_, outputs), kernel, stride, pads, _, dilations, groups = SHAPES[name]
    channels, *sizes = region.shapes[x]
    random = np.random.default_rng(len(name))
    weight = random.standard_normal((channels, outputs // groups, *kernel))
    weight *= (channels // groups * np.prod(kernel) / np.prod(stride)) ** -0.5
    biases = random.standard_normal(outputs) if bias else None
    return region.conv_transpose(x, weight, biases, stride, pads, result(name, sizes), groups, dilations)


def normal(*shape):
    return np.random.default_rng(shape).standard_normal(shape) / np.sqrt(np.prod(shape[1:]))


@pytest.mark.parametrize("name", SHAPES)
def test_alone(build, name):
    for plane in ((1, 1), (2, 2), (4, 4), (5, 9), (7, 2)):
        if min(result(name, plane)) < 1:
            continue
        region = Region((SHAPES[name][0][0], *plane))
        region.output(transposed(region, 0, name, bias=plane != (5, 9)))
        for batch in (1, 3, 17):
            inputs = region.random_inputs(batch)
            got = run(session(region.model(), build, exact=True), inputs)
            assert_close(got, region.eager(*inputs))


@pytest.mark.parametrize("name", SHAPES)
def test_with_a_residual_an_activation_and_borders(build, name):
    """A border around what it reads and one around what it writes: no number may end up in either."""
    region = Region((5, 6, 7))
    inputs, outputs = SHAPES[name][0]
    x = region.conv(0, normal(inputs, 5, 3, 3), normal(inputs, 1)[:, 0], pads=(1,) * 4)
    region.conv(x, normal(2, inputs, 5, 5), pads=(2,) * 4)
    region.output(len(region.shapes) - 1)
    y = transposed(region, x, name)
    other = region.resize(0, region.shapes[y][1:], Resizing.NEAREST)
    y = region.add(y, region.conv(other, normal(outputs, 5, 1, 1)))
    y = region.activation(y, Kind.SIGMOID)
    region.output(region.conv(y, normal(4, outputs, 3, 3), pads=(1, 2, 1, 2)))
    region.output(region.activation(transposed(region, x, name, bias=False), Kind.LEAKY_RELU, -0.5))
    for batch in (1, 19):
        given = region.random_inputs(batch)
        for threads in (1, 3):
            got = run(session(region.model(), build, threads=threads, exact=True), given)
            assert_close(got, region.eager(*given))


@pytest.mark.parametrize("name", SHAPES)
def test_same_bits(build, name):
    """Of a sample in lanes (where its network fits them) and alone, whatever the batch and the threads."""
    region = Region((3, 6, 5))
    inputs, outputs = SHAPES[name][0]
    x = region.conv(0, normal(inputs, 3, 3, 3), normal(inputs, 1)[:, 0], pads=(1,) * 4)
    y = region.activation(transposed(region, x, name), Kind.TANH)
    region.output(region.conv(y, normal(2, outputs, 1, 1)))
    assert_same_bits(region, build)


@pytest.mark.parametrize("special", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", SHAPES)
def test_one_special_pixel_at_each_place(build, name, special):
    """It comes out where the kernel spreads it, and nowhere else."""
    region = Region((SHAPES[name][0][0], 3, 4))
    region.output(region.activation(transposed(region, 0, name), Kind.RELU))
    x = np.random.default_rng(1).standard_normal((12, *region.shapes[0]), dtype=np.float32)
    pixels = np.arange(12)
    x[pixels, 1, pixels // 4, pixels % 4] = special
    running = session(region.model(), build)
    together = run(running, [x])
    assert_close(together, region.eager(x))
    for i in pixels:
        np.testing.assert_array_equal(run(running, [x[i : i + 1]])[0], together[0][i : i + 1])


def test_samples_in_lanes(build):
    """A network of few channels, large enough to pay: that lanes were chosen, and are right."""
    region = Region((1, 12, 12))
    y = region.activation(region.conv(0, normal(6, 1, 3, 3), pads=(1,) * 4), Kind.RELU)
    y = region.conv_transpose(y, normal(6, 5, 2, 2), normal(5, 1)[:, 0], (2, 2))
    y = region.activation(y, Kind.SILU)
    y = region.conv_transpose(y, normal(5, 3, 3, 3), None, (2, 2), (1, 1), (48, 48))
    region.output(y)
    inputs = region.random_inputs(16)
    got = run(session(region.model(), build, options={"session": str(SESSION)}), inputs)
    assert_close(got, region.eager(*inputs), exact=False)
    lanes = [line for line in kernels.report(SESSION, build) if line.startswith("lanes")]
    assert bool(lanes) == (build != "portable")
