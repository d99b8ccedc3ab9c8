"""Layers with so much work that threads share them where a call has few samples."""

import numpy as np
import pytest
from regions import Region, assert_close, run, session

from nncompile.passes.region_program import Kind, Resizing


def normal(*shape):
    return np.random.default_rng(len(shape)).standard_normal(shape) / np.sqrt(np.prod(shape[1:]))


def convolution(outputs, kernel, stride=(1, 1), then=None):
    """With a residual, and the activation that writes what is not 0 where nothing should be written."""
    region = Region((32, 99, 101))
    pads = (kernel // 2,) * 4
    y = region.conv(0, normal(outputs, 32, kernel, kernel), normal(outputs, 1)[:, 0], stride, pads)
    y = region.add(y, region.conv(0, normal(outputs, 32, 1, 1), stride=stride))
    y = region.activation(y, Kind.SIGMOID)
    return region.output(then(region, y) if then else y)


def rows():
    """Few enough channels for samples in lanes, whose algorithm then is that of one sample too."""
    region = Region((4, 31, 30))
    y = region.conv(0, normal(14, 4, 5, 5), normal(14, 1)[:, 0], pads=(2, 2, 2, 2))
    return region.output(region.activation(y, Kind.SIGMOID))


def depthwise():
    region = Region((40, 83, 85))
    return region.output(region.conv(0, normal(40, 1, 3, 3), pads=(1, 1, 1, 1), groups=40))


def pool(average):
    region = Region((64, 111, 113))
    add = region.average_pool if average else region.max_pool
    return region.output(add(0, (3, 3), (2, 2), (1, 1, 1, 1)))


def linear():
    region = Region((1300,))
    y = region.activation(region.linear(0, normal(700, 1300), normal(700, 1)[:, 0]), Kind.SIGMOID)
    return region.output(region.linear(y, normal(1300, 700)))


def gate():
    region = Region((40, 200, 201))
    return region.output(region.multiply(0, region.global_average(0)))


def dilated(groups):
    """One whose weights are less than its planes, and one whose are more; with what is subtracted."""
    region = Region((96, 24, 23))
    weight = normal(64, 96 // groups, 3, 3)
    y = region.conv(0, weight, normal(64, 1)[:, 0], pads=(9,) * 4, groups=groups, dilations=(9, 9))
    y = region.subtract(region.activation(y, Kind.SIGMOID), region.conv(0, normal(64, 96, 1, 1)))
    return region.output(y)


def enlarged(how):
    region = Region((17, 50, 49))
    return region.output(region.resize(region.activation(0, Kind.TANH), (151, 98), how))


def transposed(weight, bias, stride, pads=(0, 0), groups=1):
    """Between what gives it a border and what leaves one around it."""
    channels, outputs = len(weight), weight.shape[1] * groups
    region = Region((channels, 29, 31))
    x = region.activation(0, Kind.TANH)
    region.output(region.conv(x, normal(3, channels, 3, 3), pads=(1,) * 4))
    y = region.activation(region.conv_transpose(x, weight, bias, stride, pads, groups=groups), Kind.SIGMOID)
    return region.output(region.conv(y, normal(3, outputs, 3, 3), pads=(1,) * 4))


REGIONS = {
    **{f"{c} channels": convolution(c, 3) for c in (1, 2, 3, 5, 17, 40)},
    "stride": convolution(1, 5, (2, 3)),
    "7x7": convolution(3, 7),
    "5x5": convolution(24, 5),
    "a padded reader": convolution(1, 3, then=lambda r, y: r.conv(y, normal(5, 1, 5, 5), pads=(2, 2, 2, 2))),
    "rows": rows(),
    "depthwise": depthwise(),
    "max pool": pool(average=False),
    "average pool": pool(average=True),
    "linear": linear(),
    "gate": gate(),
    "dilated": dilated(1),
    "dilated groups": dilated(8),
    "transposed": transposed(normal(48, 20, 4, 4), normal(20, 1)[:, 0], (2, 2), (1, 1)),
    "transposed side by side": transposed(normal(48, 20, 2, 2), normal(20, 1)[:, 0], (2, 2)),
    "transposed, more weights": transposed(normal(96, 96, 5, 5), None, (2, 1)),
    "transposed groups": transposed(normal(48, 10, 3, 3), None, (2, 2), groups=4),
    "transposed depthwise": transposed(normal(48, 1, 7, 7), normal(48, 1)[:, 0], (3, 2), (1, 2), 48),
    **{how.name.lower(): enlarged(how) for how in Resizing},
}


@pytest.mark.parametrize("exact", [True, False], ids=["exact", "any"])
@pytest.mark.parametrize("name", REGIONS)
def test_as_many_threads_as_there_are(build, name, exact):
    region = REGIONS[name]
    inputs = region.random_inputs(2)
    want = region.eager(*inputs)
    alone = run(session(region.model(), build, threads=1, exact=exact), inputs)
    assert_close(alone, want, exact=exact)
    for threads in (3, 8):
        running = session(region.model(), build, threads=threads, exact=exact)
        for _ in range(3):
            for got, first in zip(run(running, inputs), alone, strict=True):
                np.testing.assert_array_equal(got, first)
