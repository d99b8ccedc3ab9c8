"""A sample's answer does not depend on what it came with: batch, place in it, threads.

With `exact` that holds for every bit, with samples in lanes or channels in them. Without, Winograd's
algorithm runs where channels are in the lanes only, so that the layouts may differ by its error.
"""

import numpy as np
import pytest
from hypothesis import given
from random_regions import examples, graphs, layers
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


@examples(10)
@given(region=layers())
def test_a_layer(build, region):
    assert_same_bits(region, build)


@examples(15)
@given(region=graphs())
def test_a_graph(build, region):
    assert_same_bits(region, build)


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


def winograd(kernel):
    random = np.random.default_rng(0)
    region = Region((16, 14, 13))
    weight = random.standard_normal((24, 16, kernel, kernel))
    return region.output(region.conv(0, weight, pads=(1, 2, 0, 1)))


@pytest.mark.parametrize("kernel", [3, 5])
def test_winograd_whatever_the_batch(build, kernel):
    """Where there are channels enough to fill the lanes, no sample goes into one."""
    assert_same_bits(winograd(kernel), build, exact=False)


@pytest.mark.parametrize("kernel", [3, 5])
def test_exact_is_another_algorithm(build, kernel):
    region = winograd(kernel)
    inputs = region.random_inputs(1)
    exact, fast = (run(session(region.model(), build, exact=exact), inputs)[0] for exact in (True, False))
    assert (exact != fast).any()


def test_a_huge_batch(build):
    region = Region((1, 4, 4))
    region.output(region.conv(0, np.ones((3, 1, 3, 3))))
    (x,) = region.random_inputs(20_001)
    running = session(region.model(), build, threads=2, exact=True)
    pieces = [run(running, [x[i : i + 1000]])[0] for i in range(0, len(x), 1000)]
    np.testing.assert_array_equal(run(running, [x])[0], np.concatenate(pieces))
