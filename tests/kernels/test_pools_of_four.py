"""A max pool of 2 x 2 has a loop of its own where no window meets an edge or another window.

Weights and inputs are small whole numbers, so every sum is exact and every answer PyTorch's to the bit.
"""

import numpy as np
import pytest
from regions import Region, run, session

from nncompile.passes.region_program import Kind

EVEN, WIDE, TALL = (8, 12), (8, 13), (9, 12)  # planes
POOLS = {
    "fours": (EVEN, (2, 2), (2, 2), (0, 0, 0, 0), False),
    "a column left out": (WIDE, (2, 2), (2, 2), (0, 0, 0, 0), False),
    "a row left out": (TALL, (2, 2), (2, 2), (0, 0, 0, 0), False),
    "a column cut": (WIDE, (2, 2), (2, 2), (0, 0, 0, 0), True),
    "a row cut": (TALL, (2, 2), (2, 2), (0, 0, 0, 0), True),
    "padded above": (EVEN, (2, 2), (2, 2), (1, 0, 0, 0), False),
    "padded above and below": (EVEN, (2, 2), (2, 2), (1, 0, 1, 0), False),
    "padded on the left": (EVEN, (2, 2), (2, 2), (0, 1, 0, 0), False),
    "padded on both sides": (EVEN, (2, 2), (2, 2), (0, 1, 0, 1), False),
    "rows overlap": (EVEN, (2, 2), (1, 2), (0, 0, 0, 0), False),
    "columns overlap": (EVEN, (2, 2), (2, 1), (0, 0, 0, 0), False),
    "rows apart": (EVEN, (2, 2), (3, 2), (0, 0, 0, 0), False),
    "columns apart": (EVEN, (2, 2), (2, 3), (0, 0, 0, 0), False),
    "taller": (EVEN, (3, 2), (2, 2), (0, 0, 0, 0), False),
    "wider": (EVEN, (2, 3), (2, 2), (0, 0, 0, 0), False),
}


def whole(random, *shape):
    return random.integers(-4, 5, shape).astype(np.float32)


def assert_pools(build, add, plane, *how):
    """Behind a convolution, behind a curved activation, and alone; few samples and many."""
    random = np.random.default_rng(0)
    region = Region((3, *plane))
    y = region.conv(0, whole(random, 7, 3, 3, 3), whole(random, 7), pads=(1, 1, 1, 1))
    region.output(add(region, y, *how))
    leaky = region.activation(region.conv(0, whole(random, 5, 3, 1, 1)), Kind.LEAKY_RELU, 0.5)
    region.output(region.activation(add(region, leaky, *how), Kind.RELU)).output(add(region, 0, *how))
    x = whole(random, 64, 3, *plane)
    running = session(region.model(), build, exact=True)
    for rows in (1, 64):
        want = region.eager(x[:rows]).outputs
        for have, expected in zip(run(running, [x[:rows]]), want, strict=True):
            np.testing.assert_array_equal(have, expected.astype(np.float32))


@pytest.mark.parametrize("pool", POOLS.values(), ids=POOLS.keys())
def test_the_largest(build, pool):
    assert_pools(build, Region.max_pool, *pool)


def test_the_average_of_four_is_not_their_largest(build):
    assert_pools(build, Region.average_pool, *POOLS["fours"])
