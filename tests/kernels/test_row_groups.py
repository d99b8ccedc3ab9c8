"""Steps whose planes would leave a cache, which run row by row.

Small planes, with a cache said to be small, are the stress program's (kernels/tests/stress.cpp).
"""

import math

import numpy as np
import pytest
from regions import LAST, Region, assert_close, run, session

from nncompile.passes.region_program import Kind, Resizing

PLANE = (151, 133)  # 64 channels are 5 MB


def normal(*shape):
    return np.random.default_rng(shape[0]).standard_normal(shape) / math.sqrt(math.prod(shape[1:]))


def inverted_residuals():
    """Two blocks of MobileNetV2: wide planes between narrow ones, one of which is read twice."""
    region = Region((9, *PLANE))
    wide = region.activation(region.conv(0, normal(66, 9, 1, 1), normal(66, 1)[:, 0]), Kind.CLIP, 0.0, 6.0)
    deep = region.conv(wide, normal(66, 1, 3, 3), pads=(1,) * 4, groups=66)
    block = region.add(region.conv(deep, normal(9, 66, 1, 1)), 0)
    wide = region.activation(region.conv(block, normal(70, 9, 1, 1)), Kind.RELU)
    deep = region.conv(wide, normal(70, 1, 3, 3), stride=(2, 2), pads=(1,) * 4, groups=70)
    return region.output(region.conv(deep, normal(11, 70, 1, 1)))


def stem():
    """A large kernel, a stride and a pool with padding, as ResNet begins."""
    region = Region((3, 2 * PLANE[0], 2 * PLANE[1]))
    y = region.conv(0, normal(64, 3, 7, 7), normal(64, 1)[:, 0], (2, 2), (3,) * 4)
    y = region.activation(y, Kind.RELU)
    return region.output(region.max_pool(y, (3, 3), (2, 2), (1,) * 4))


def tiles():
    """Winograd's tiles of four rows, after one another and behind a pool."""
    region = Region((5, 2 * PLANE[0], 2 * PLANE[1]))
    y = region.conv(0, normal(24, 5, 3, 3), pads=(1,) * 4)
    y = region.conv(y, normal(24, 24, 3, 3), normal(24, 1)[:, 0], pads=(1,) * 4)
    y = region.average_pool(y, (2, 2), (2, 2))
    return region.output(region.conv(y, normal(20, 24, 5, 5), pads=(2, 2, 0, 1)))


def borders():
    """More padding than kernel: some rows read nothing but border."""
    region = Region((12, *PLANE))
    y = region.conv(0, normal(66, 12, 1, 1))
    y = region.conv(y, normal(66, 1, 2, 2), pads=(20, 3, 30, 4), groups=66)
    return region.output(region.conv(y, normal(4, 66, 1, 1)))


def branches():
    """Branches that lag behind one another, joined twice."""
    region = Region((16, *PLANE))
    x = region.conv(0, normal(40, 16, 1, 1))
    far = region.conv(x, normal(40, 1, 5, 5), pads=(2,) * 4, groups=40)
    far = region.max_pool(far, (5, 5), (1, 1), (2,) * 4)
    joined = region.concat(x, region.conv(far, normal(24, 40, 1, 1)))
    return region.output(region.conv(joined, normal(8, 64, 1, 1)))


def outputs():
    """What lies between is asked for too, so it must be whole."""
    region = Region((9, *PLANE))
    wide = region.conv(0, normal(66, 9, 1, 1))
    deep = region.conv(wide, normal(66, 1, 3, 3), pads=(1,) * 4, groups=66)
    return region.output(wide).output(region.conv(deep, normal(9, 66, 1, 1)))


def shuffled():
    """Half of the channels through groups and dilated windows, joined with the others in another order."""
    region = Region((12, *PLANE))
    x = region.conv(0, normal(64, 12, 1, 1))
    y = region.conv(region.select(x, range(32)), normal(48, 8, 3, 3), pads=(1,) * 4, groups=4)
    y = region.activation(
        region.conv(y, normal(32, 48, 3, 2), pads=(4, 1, 4, 2), dilations=(4, 3)), Kind.GELU
    )
    y = region.conv(y, normal(32, 1, 3, 3), pads=(2,) * 4, groups=32, dilations=(2, 2))
    joined = region.concat(y, region.select(x, range(63, 31, -1)))
    y = region.select(joined, [i % 2 * 32 + i // 2 for i in range(64)])
    return region.output(region.conv(y, normal(8, 64, 1, 1)))


def enlarged():
    """A decoder: planes made larger by each way, beside and minus others of their size."""
    region = Region((12, 50, 44), (20, *PLANE))
    small = region.conv(0, normal(64, 12, 1, 1))
    y = region.resize(small, (75, 67), Resizing.HALF_PIXELS)
    y = region.resize(region.conv(y, normal(44, 64, 3, 3), pads=(1,) * 4), (150, 134), Resizing.NEAREST)
    y = region.resize(y, PLANE, Resizing.CORNERS)
    y = region.concat(y, 1)
    y = region.subtract(region.conv(y, normal(64, 1, 3, 3), pads=(1,) * 4, groups=64), y)
    return region.output(region.conv(y, normal(5, 64, 1, 1)))


def decoded():
    """A decoder of transposed convolutions: side by side, overlapping, with gaps, depthwise and in groups."""
    region = Region((12, 20, 18), (20, 80, 72))
    y = region.conv(0, normal(64, 12, 1, 1))
    y = region.conv_transpose(y, normal(64, 48, 2, 2), normal(48, 1)[:, 0], (2, 2))
    y = region.conv_transpose(y, normal(48, 24, 4, 4), None, (2, 2), (1, 1), (80, 72))
    y = region.activation(region.concat(y, 1), Kind.SILU)
    y = region.conv_transpose(y, normal(44, 1, 3, 3), None, (2, 2), (1, 1), (160, 144), groups=44)
    y = region.conv_transpose(y, normal(44, 8, 2, 3), None, (1, 1), (2, 0), groups=4, dilations=(1, 2))
    return region.output(region.conv(y, normal(5, 32, 3, 3), pads=(1,) * 4))


def pixel_by_pixel():
    """A block of ConvNeXt, whose linear layers and norm take pixels one by one, between channels last."""
    region = Region((24, *PLANE), last=[0])
    y = region.conv(0, normal(24, 1, 7, 7), normal(24, 1)[:, 0], pads=(3,) * 4, groups=24)
    y = region.layer_norm(y, normal(24, 1)[:, 0], normal(24, 1)[:, 0])
    y = region.activation(region.linear(y, normal(96, 24), normal(96, 1)[:, 0]), Kind.GELU)
    mean = region.channel_mean(y)
    y = region.divide(region.multiply(y, mean), region.activation(mean, Kind.CLIP, 0.5, 2.0))
    y = region.add(region.linear(y, normal(24, 96).T, transposed=False), 0)
    return region.output(y, LAST)


REGIONS = {
    made.__name__: made()
    for made in (
        inverted_residuals,
        stem,
        tiles,
        borders,
        branches,
        outputs,
        shuffled,
        enlarged,
        decoded,
        pixel_by_pixel,
    )
}


@pytest.mark.parametrize("exact", [True, False], ids=["exact", "any"])
@pytest.mark.parametrize("name", REGIONS)
def test_like_eager_and_the_same_bits(build, name, exact):
    region = REGIONS[name]
    inputs = region.random_inputs(2)
    want = region.eager(*inputs)
    first = None
    for threads in (1, 2, 5):
        running = session(region.model(), build, threads=threads, exact=exact)
        for batch in (2, 1):
            pieces = [run(running, [x[i : i + batch] for x in inputs]) for i in range(0, 2, batch)]
            got = [np.concatenate(rows) for rows in zip(*pieces, strict=True)]
            assert_close(got, want, exact=exact)
            first = first or got
            for have, before in zip(got, first, strict=True):
                np.testing.assert_array_equal(
                    have.view(np.int32), before.view(np.int32), f"{threads} {batch}"
                )
