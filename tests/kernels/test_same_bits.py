"""A sample's answer does not depend on what it came with: batch, place in it, threads.

That holds for every bit, with samples in lanes or channels in them, with `exact` and without: a layer's
algorithm is the same in both layouts.
"""

import numpy as np
import pytest
from hypothesis import given
from random_regions import chains, examples, graphs, layers
from regions import Region, run, session
from same_bits import assert_same_bits

from nncompile.passes.region_program import Kind

ACTIVATIONS = {
    Kind.RELU: (),
    Kind.CLIP: (-0.25, 0.5),
    Kind.LEAKY_RELU: (0.1,),
    Kind.SILU: (),
    Kind.HARD_SWISH: (),
    Kind.SIGMOID: (),
    Kind.TANH: (),
    Kind.HARD_SIGMOID: (0.2, 0.5),
}


@pytest.mark.parametrize("exact", [True, False], ids=["exact", "any"])
@examples(10)
@given(region=layers())
def test_a_layer(build, exact, region):
    assert_same_bits(region, build, exact)


@pytest.mark.parametrize("exact", [True, False], ids=["exact", "any"])
@examples(15)
@given(region=graphs())
def test_a_graph(build, exact, region):
    assert_same_bits(region, build, exact)


@pytest.mark.parametrize("exact", [True, False], ids=["exact", "any"])
@examples(12)
@given(region=chains())
def test_a_chain(build, exact, region):
    assert_same_bits(region, build, exact)


@pytest.mark.parametrize("average", [False, True], ids=["max", "average"])
def test_a_pool_and_its_activation(build, average):
    """What the compiler fuses into one multiplication and addition is the same behind every loop."""
    random = np.random.default_rng(0)
    region = Region((1, 24, 24))
    x = region.conv(0, random.standard_normal((3, 1, 3, 3)) / 3)
    add = region.average_pool if average else region.max_pool
    for kind, constants in ACTIVATIONS.items():
        region.output(region.activation(add(x, (2, 3), (2, 2), (1, 1, 0, 0)), kind, *constants))
    assert_same_bits(region, build)


def winograd(kernel, channels):
    """Few channels run along the rows where samples go into lanes, many in tiles of both dimensions."""
    inputs, outputs = channels
    random = np.random.default_rng(0)
    region = Region((inputs, 14, 13))
    weight = random.standard_normal((outputs, inputs, kernel, kernel))
    y = region.conv(0, weight, random.standard_normal(outputs), pads=(1, 2, 0, 1))
    other = region.conv(0, random.standard_normal((outputs, inputs, kernel, kernel)), pads=(1, 2, 0, 1))
    return region.output(region.activation(region.add(y, other), Kind.RELU))


CHANNELS = [(16, 24), (6, 16), (2, 7), (1, 6), (4, 3)]


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("channels", CHANNELS)
def test_winograd_whatever_the_batch(build, kernel, channels):
    assert_same_bits(winograd(kernel, channels), build, exact=False)


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("channels", CHANNELS[:2])
def test_exact_is_another_algorithm(build, kernel, channels):
    """For one sample and for enough of them that they go into lanes."""
    if build == "portable" and channels == CHANNELS[1]:
        pytest.skip("samples are in lanes, and rows on their own, where there are lanes enough")
    region = winograd(kernel, channels)
    inputs = region.random_inputs(16)
    exact, fast = (session(region.model(), build, exact=exact) for exact in (True, False))
    assert (run(exact, inputs)[0] != run(fast, inputs)[0]).any()
    one = [x[:1] for x in inputs]
    assert (run(exact, one)[0] != run(fast, one)[0]).any()


def test_a_huge_batch(build):
    region = Region((1, 4, 4))
    region.output(region.conv(0, np.ones((3, 1, 3, 3))))
    (x,) = region.random_inputs(20_001)
    running = session(region.model(), build, threads=2, exact=True)
    pieces = [run(running, [x[i : i + 1000]])[0] for i in range(0, len(x), 1000)]
    np.testing.assert_array_equal(run(running, [x])[0], np.concatenate(pieces))
