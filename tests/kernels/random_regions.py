"""Random regions: layers alone, and graphs of them with branches and several outputs."""

from __future__ import annotations

import math
import os

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from regions import LAST, Region

from nncompile.passes.region_program import Kind, Resizing

BATCHES = (1, 2, 3, 7, 8, 15, 16, 17, 33, 65, 0)
THREADS = (1, 2, 8)
LARGEST = 200_000  # multiplications of one sample, and elements of one batch


def examples(count: int) -> settings:
    """`count` examples, the same each time; with KERNEL_FUZZ=n, n times as many and others each time."""
    more = int(os.environ.get("KERNEL_FUZZ", "0"))
    return settings(
        max_examples=count * max(more, 1),
        deadline=None,
        derandomize=not more,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


@st.composite
def activations(draw, kinds=tuple(Kind)):
    """A kind and its constants."""
    kind = draw(st.sampled_from(kinds))
    number = st.floats(-2, 2, width=32)
    match kind:
        case Kind.CLIP:
            return kind, *sorted((draw(number), draw(number)))
        case Kind.LEAKY_RELU:
            return kind, draw(number)
        case Kind.HARD_SIGMOID | Kind.STAR_RELU:
            return kind, draw(number), draw(number)
    return (kind,)


@st.composite
def layers(draw):
    """One convolution with anything around it: what stands before, a residual, an activation."""
    shape = draw(shapes())
    drawing = _Drawing(draw, Region(shape))
    x = drawing.convolution(0) if draw(st.booleans()) else 0
    y = draw(st.sampled_from((drawing.grouped, drawing.convolution, drawing.transposed)))(x)
    if not drawing.region.instructions:
        y = drawing.region.global_average(0)
    if draw(st.booleans()):
        y = drawing.sum_with_another(y)
    if draw(st.booleans()):
        y = drawing.region.activation(y, *draw(activations()))
    return drawing.region.output(y)


@st.composite
def graphs(draw):
    """Up to 8 layers of any kind, each of any value before it; one to three outputs, some of them inputs."""
    inputs = [draw(shapes()) for _ in range(draw(st.integers(1, 2)))]
    if draw(st.integers(0, 4)) == 0:
        inputs.append((draw(st.integers(1, 40)),))
    last = [i for i, shape in enumerate(inputs) if len(shape) == 3 and not draw(st.integers(0, 3))]
    sequences = [i for i in last if inputs[i][2] == 1]
    drawing = _Drawing(draw, Region(*inputs, last=last, sequences=sequences))
    region = drawing.region
    steps = (
        drawing.convolution, drawing.convolution, drawing.depthwise, drawing.pool, drawing.sum_with_another,
        drawing.product, drawing.linear, drawing.activation, drawing.joined, drawing.global_average,
        drawing.grouped, drawing.selected, drawing.flatten, drawing.tail,
        drawing.resized, drawing.transposed, drawing.normalized, drawing.reduced, drawing.quotient,
        drawing.spread,
    )  # fmt: skip
    for _ in range(draw(st.integers(1, 8))):
        last = len(region.shapes) - 1
        draw(st.sampled_from(steps))(last if draw(st.integers(0, 2)) else draw(st.integers(0, last)))
    if not region.instructions:
        region.activation(0, Kind.RELU)
    values = st.integers(0, len(region.shapes) - 1)
    for value in (len(region.shapes) - 1, *draw(st.lists(values, max_size=2))):
        ranks = (2, 4, LAST) if region.shapes[value][1:] == (1, 1) else (4, 4, LAST)
        region.output(value, draw(st.sampled_from(ranks)))
    return region


@st.composite
def chains(draw):
    """Convolutions of few channels, activations and pools behind them: what runs with samples in lanes."""
    side = st.integers(9, 21)
    drawing = _Drawing(draw, Region((draw(st.integers(1, 4)), draw(side), draw(side))))
    region, x = drawing.region, 0
    for _ in range(draw(st.integers(1, 2))):
        kernel = draw(st.sampled_from((3, 5)))
        y = drawing.plain_convolution(x, draw(st.integers(1, 12)), kernel)
        if draw(st.booleans()):
            other = drawing.plain_convolution(x, region.shapes[y][0], kernel)
            if region.shapes[other] == region.shapes[y]:
                y = draw(st.sampled_from((region.add, region.subtract)))(y, other)
        if draw(st.booleans()):
            y = region.activation(y, *draw(activations()))
        x = draw(st.sampled_from((drawing.pool, drawing.pool, drawing.resized, drawing.enlarged)))(y)
    return region.output(x)


def shapes():
    """Of an input: mostly few channels and a plane of odd size."""
    channels = st.one_of(st.integers(1, 9), st.integers(1, 40))
    return st.tuples(channels, st.integers(1, 19), st.integers(1, 19))


class _Drawing:
    """Adds drawn layers to a region. A method returns `x` where its layer does not fit there."""

    def __init__(self, draw, region: Region) -> None:
        self.draw = draw
        self.region = region
        self.random = np.random.default_rng(draw(st.integers(0, 2**32)))

    def convolution(self, x):
        channels = self.draw(st.one_of(st.integers(1, 9), st.integers(1, 40)))
        return self._convolution(x, channels, self.region.shapes[x][0], 1)

    def depthwise(self, x):
        channels = self.region.shapes[x][0]
        return self._convolution(x, channels, 1, channels)

    def grouped(self, x):
        """As many groups as divide the channels, of any number of outputs each."""
        channels = self.region.shapes[x][0]
        groups = self.draw(st.sampled_from([n for n in range(1, channels + 1) if channels % n == 0]))
        outputs = groups * self.draw(st.integers(1, max(1, 40 // groups)))
        return self._convolution(x, outputs, channels // groups, groups)

    def selected(self, x):
        """A run of channels, or any in any order."""
        channels = self.region.shapes[x][0]
        first = self.draw(st.integers(0, channels - 1))
        run = list(range(first, self.draw(st.integers(first + 1, channels))))
        any_of_them = st.lists(st.integers(0, channels - 1), min_size=1, max_size=40)
        return self.region.select(x, self.draw(st.one_of(st.just(run), any_of_them)))

    def plain_convolution(self, x, outputs, size):
        """Square, dense and of stride 1, with a plane as large as its input's or one column larger."""
        inputs, half = self.region.shapes[x][0], size // 2
        pads = (half, half, half, half + self.draw(st.integers(0, 1)))
        weight = self._normal(outputs, inputs, size, size) / math.sqrt(inputs * size**2)
        return self.region.conv(x, weight, self._bias(outputs), (1, 1), pads)

    def _convolution(self, x, outputs, inputs, groups):
        square = self.draw(st.booleans())
        kernel = self._pair(1, 7, square)
        stride = (1, 1) if self.draw(st.booleans()) else self._pair(1, 3, square)
        pads = self._pads((3, 3))
        dilations = (1, 1) if self.draw(st.integers(0, 2)) else self._pair(1, 3, False)
        reach = tuple((k - 1) * step + 1 for k, step in zip(kernel, dilations, strict=True))
        plane = self._plane(x, reach, stride, pads)
        if plane is None or outputs * inputs * math.prod(kernel) * math.prod(plane) > LARGEST:
            return x
        weight = self._normal(outputs, inputs, *kernel) / math.sqrt(inputs * math.prod(kernel))
        return self.region.conv(x, weight, self._bias(outputs), stride, pads, groups, dilations)

    def pool(self, x):
        kernel = self._pair(1, 4, self.draw(st.booleans()))
        stride = self._pair(1, 3, self.draw(st.booleans()))
        pads = self._pads((kernel[0] - 1, kernel[1] - 1))
        if self._plane(x, kernel, stride, pads) is None:
            return x
        ceil = self.draw(st.booleans())
        if self.draw(st.booleans()):
            return self.region.max_pool(x, kernel, stride, pads, ceil)
        return self.region.average_pool(x, kernel, stride, pads, ceil, self.draw(st.booleans()))

    def global_average(self, x):
        return self.region.global_average(x)

    def resized(self, x):
        """By whole factors, or to any size."""
        plane = [
            self.draw(st.one_of(st.just(size), st.just(2 * size), st.just(3 * size), st.integers(1, 40)))
            for size in self.region.shapes[x][1:]
        ]
        if self.region.shapes[x][0] * math.prod(plane) > LARGEST // 10:
            return x
        return self.region.resize(x, plane, self.draw(st.sampled_from(Resizing)))

    def transposed(self, x):
        """Of any groups; often with a kernel as large as its stride."""
        channels = self.region.shapes[x][0]
        groups = self.draw(st.sampled_from([n for n in range(1, channels + 1) if channels % n == 0]))
        return self._transposed(x, self.draw(st.integers(1, max(1, 40 // groups))), groups)

    def enlarged(self, x):
        """What samples in lanes have of it."""
        return self._transposed(x, self.draw(st.integers(1, 12)), 1)

    def _transposed(self, x, outputs, groups):
        channels, *sizes = self.region.shapes[x]
        kernel = self._pair(1, 5, self.draw(st.booleans()))
        stride = kernel if self.draw(st.booleans()) else self._pair(1, 4, self.draw(st.booleans()))
        dilations = (1, 1) if self.draw(st.integers(0, 2)) else self._pair(1, 3, False)
        top, left, bottom, right = (self.draw(st.integers(-2, 3)) for _ in range(4))
        pads = max(top, 0), max(left, 0)
        axes = zip(sizes, stride, kernel, dilations, pads, (bottom, right), strict=True)
        plane = [(n - 1) * s + (k - 1) * d + 1 - before - behind for n, s, k, d, before, behind in axes]
        work = channels * outputs * math.prod(kernel) * math.prod(sizes)
        if min(plane) < 1 or max(work, 10 * outputs * groups * math.prod(plane)) > LARGEST:
            return x
        weight = self._normal(channels, outputs, *kernel) / math.sqrt(channels // groups * math.prod(kernel))
        bias = self._bias(outputs * groups)
        return self.region.conv_transpose(x, weight, bias, stride, pads, plane, groups, dilations)

    def flatten(self, x):
        return self.region.flatten(x)

    def activation(self, x):
        return self.region.activation(x, *self.draw(activations()))

    def sum_with_another(self, x):
        """Or difference. Of the same shape: another layer of the same input, or any value there is."""
        alike = [v for v, shape in enumerate(self.region.shapes) if shape == self.region.shapes[x]]
        other = self.draw(st.sampled_from(alike))
        if self.draw(st.booleans()) and other != x:
            channels = self.region.shapes[x][0]
            other = self.region.conv(other, self._normal(channels, channels, 1, 1) / math.sqrt(channels))
        combine = self.draw(st.sampled_from((self.region.add, self.region.subtract)))
        return combine(*self.draw(st.permutations((x, other))))

    def product(self, x):
        shape = self.region.shapes[x]
        gates = (shape, (shape[0], 1, 1), (1, *shape[1:]))
        fitting = [v for v, other in enumerate(self.region.shapes) if other in gates]
        return self.region.multiply(x, self.draw(st.sampled_from(fitting)))

    def joined(self, x):
        plane = self.region.shapes[x][1:]
        fitting = [v for v, shape in enumerate(self.region.shapes) if shape[1:] == plane and shape[0] <= 64]
        others = self.draw(st.lists(st.sampled_from(fitting), max_size=2)) if fitting else []
        return self.region.concat(*self.draw(st.permutations((x, *others))))

    def linear(self, x):
        if self.region.shapes[x][1:] != (1, 1) and self.draw(st.booleans()):
            x = self.region.flatten(x)
        (inputs, *plane), outputs = self.region.shapes[x], self.draw(st.integers(1, 40))
        if inputs * outputs * math.prod(plane) > LARGEST:
            return x
        transposed = self.draw(st.booleans())
        weight = self._normal(outputs, inputs) / math.sqrt(inputs)
        return self.region.linear(
            x, weight if transposed else weight.T, self._bias(outputs), transposed=transposed
        )

    def reduced(self, x):
        """Multiplied by what it was reduced to, or that alone."""
        y = self.draw(st.sampled_from((self.region.plane_norm, self.region.channel_mean)))(x)
        return y if self.draw(st.booleans()) else self.region.multiply(x, y)

    def spread(self, x):
        """A number for each channel by one for each pixel."""
        return self.region.multiply(self.region.global_average(x), self.region.channel_mean(x))

    def quotient(self, x):
        """By something that is not near 0: of the same shape, or one number for each pixel."""
        y = self.region.channel_mean(x) if self.draw(st.booleans()) else x
        return self.region.divide(x, self.region.activation(y, Kind.CLIP, 0.5, 2.0))

    def normalized(self, x):
        """By an epsilon large enough that it does not blow up rounding errors where channels are alike."""
        channels = self.region.shapes[x][0]
        return self.region.layer_norm(x, self._normal(channels), self._bias(channels), 0.1)

    def tail(self, x):
        if self.region.shapes[x][1:] != (1, 1):
            x = self.region.flatten(x)
        return self.region.softmax(x, logarithm=self.draw(st.booleans()))

    def _plane(self, x, kernel, stride, pads):
        """The plane that results; None where there is none."""
        sizes = self.region.shapes[x][1:]
        ends = [n + a + b - k for n, a, b, k in zip(sizes, pads[:2], pads[2:], kernel, strict=True)]
        return None if min(ends) < 0 else [end // s + 1 for end, s in zip(ends, stride, strict=True)]

    def _pads(self, most):
        first = self._pair(0, min(3, most[0]), False)[0], self._pair(0, min(3, most[1]), False)[0]
        if self.draw(st.booleans()):
            return (*first, *first)
        return (
            *first,
            self.draw(st.integers(0, min(3, most[0]))),
            self.draw(st.integers(0, min(3, most[1]))),
        )

    def _pair(self, low, high, square):
        first = self.draw(st.integers(low, high))
        return (first, first) if square else (first, self.draw(st.integers(low, high)))

    def _bias(self, channels):
        return self._normal(channels) if self.draw(st.booleans()) else None

    def _normal(self, *shape):
        return self.random.standard_normal(shape)
