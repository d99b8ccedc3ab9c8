"""How far Winograd's algorithm is from double precision.

Its rounding errors are spread over a tile of 4 x 4 outputs: an output beside a large one has its error.
So they are measured against max (|x| * |w|), the largest sum of absolute values in a layer. The largest of
all builds and of layers with 16 to 256 channels, by kernel and inputs; and against max |y|, with that of
direct convolution beside it:

                            max (|x| * |w|)       max |y|
    inputs                  3x3       5x5         3x3       5x5       direct
    normal                  2.1e-6    1.4e-6      9.8e-6    6.4e-6    1.7e-6
    uniform in [0, 1)       1.0e-6    0.7e-6      4.8e-6    4.2e-6    1.7e-6
    normal, cut at 0        2.0e-6    1.7e-6      1.2e-5    6.1e-6    1.4e-6
    100 + normal            0.1e-6    0.1e-6      0.9e-6    0.7e-6    2.1e-6
    normal x 10^U(-4, 4)    4.3e-6    3.1e-6      1.4e-5    8.3e-6    1.5e-6
    one in 200 of 1e6       9.8e-6    6.4e-6      1.5e-5    9.5e-6    1.8e-6
"""

import numpy as np
import pytest
import torch
from regions import Region, run, session
from torch.nn.functional import conv2d

BOUND = 2e-5
INPUTS = {
    "normal": lambda random, x: x,
    "uniform": lambda random, x: random.random(x.shape),
    "cut at 0": lambda random, x: np.maximum(x, 0),
    "100 + normal": lambda random, x: 100 + x,
    "large range": lambda random, x: x * 10 ** random.uniform(-4, 4, x.shape),
    "few large": lambda random, x: np.where(random.random(x.shape) < 0.005, 1e6, x),
}


@pytest.mark.parametrize("inputs", INPUTS)
@pytest.mark.parametrize(("channels", "outputs", "plane"), [(16, 16, 14), (20, 20, 24), (64, 64, 14)])
@pytest.mark.parametrize("kernel", [3, 5])
def test_the_stated_bound(build, kernel, channels, outputs, plane, inputs):
    error, used = measure(build, kernel, channels, outputs, plane, inputs)
    assert used
    assert error < BOUND


def measure(build, kernel, channels, outputs, plane, inputs, batch=2, exact=False):
    """The largest error against max (|x| * |w|), and whether the answer is another than the direct one."""
    random = np.random.default_rng(kernel * channels)
    weight = random.standard_normal((outputs, channels, kernel, kernel)) / np.sqrt(channels * kernel**2)
    region = Region((channels, plane, plane))
    region.output(region.conv(0, weight, pads=(1, 1, 1, 1)))
    x = INPUTS[inputs](random, random.standard_normal((batch, channels, plane, plane))).astype(np.float32)
    w = torch.from_numpy(region.weights[0]).double()
    scale = conv2d(torch.from_numpy(x).double().abs(), w.abs(), padding=1).max().item()
    direct, got = (run(session(region.model(), build, exact=flag), [x])[0] for flag in (True, exact))
    return np.abs(got - region.eager(x).outputs[0]).max() / scale, (got != direct).any()
