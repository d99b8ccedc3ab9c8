"""How far the native kernels' convolutions are from double precision, with Winograd's algorithm and without.

Winograd's rounding errors are spread over a tile of 4 x 4 outputs: an output beside a large one has its
error. So it is a share of the largest output, and of max (|x| * |w|), the largest sum of absolute values.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn.functional import conv2d

from models._variants import Variant, compiled
from nncompile.bench.figures import markdown_table
from nncompile.capture import capture
from nncompile.options import CompileOptions

Array = npt.NDArray[np.float64]
Random = np.random.Generator

# From a normal x: what the layers read.
INPUTS: Mapping[str, Callable[[Array, Random], Array]] = {
    "normal": lambda x, _: x,
    "uniform in [0, 1)": lambda x, random: random.random(x.shape),
    "normal, cut at 0": lambda x, _: np.maximum(x, 0),
    "100 + normal": lambda x, _: 100 + x,
    "normal times 10^U(-4, 4)": lambda x, random: x * 10 ** random.uniform(-4, 4, x.shape),
    "one in 200 is 1e6": lambda x, random: np.where(random.random(x.shape) < 0.005, 1e6, x),
}
KERNELS = (3, 5)
LAYERS = ((16, 14), (20, 24), (64, 14), (128, 14))  # channels, and the side of their plane
PLANS: Mapping[str, Mapping[str, bool]] = {"Winograd": {}, "as defined": {"exact": True}}
BATCH = 2


@dataclass(frozen=True)
class Error:
    """The largest error of convolutions of one kernel size on one kind of inputs.

    Attributes:
        inputs: A key of `INPUTS`.
        kernel: Size of the kernel.
        plan: A key of `PLANS`.
        of_output: As a share of max |y| of the layer.
        of_sum: As a share of max (|x| * |w|).
    """

    inputs: str
    kernel: int
    plan: str
    of_output: float
    of_sum: float


def measure() -> list[Error]:
    """The largest error over `LAYERS` for each kind of inputs, kernel size and plan."""
    worst: dict[tuple[str, int, str], tuple[float, float]] = {}
    for kernel in KERNELS:
        for channels, side in LAYERS:
            for inputs, plan, *shares in _of_layer(kernel, channels, side):
                known = worst.get((inputs, kernel, plan), (0.0, 0.0))
                worst[inputs, kernel, plan] = (max(known[0], shares[0]), max(known[1], shares[1]))
    return [Error(*key, *shares) for key, shares in worst.items()]


def _of_layer(kernel: int, channels: int, side: int) -> Iterator[tuple[str, str, float, float]]:
    layer = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, bias=False).eval()
    random = np.random.default_rng(kernel * channels)
    weight = random.standard_normal((channels, channels, kernel, kernel)) / np.sqrt(channels * kernel**2)
    layer.weight.data = torch.from_numpy(weight).float()
    shape = (BATCH, channels, side, side)
    captured = capture(layer, torch.zeros(shape), None, CompileOptions())
    data, _ = compiled(captured)
    (spec,) = captured.signature.inputs
    variants = {name: Variant(name, data, captured.signature, plan) for name, plan in PLANS.items()}
    exact_weight = layer.weight.data.double()
    for name, make in INPUTS.items():
        x = make(random.standard_normal(shape), random).astype(np.float32)
        wide = torch.from_numpy(x).double()
        y = conv2d(wide, exact_weight, padding=kernel // 2)
        largest_sum = conv2d(wide.abs(), exact_weight.abs(), padding=kernel // 2).max().item()
        for plan, variant in variants.items():
            (got,) = variant.run({spec.name: x})
            error = float(np.abs(got - y.numpy()).max())
            yield name, plan, error / y.abs().max().item(), error / largest_sum


def table(found: Sequence[Error]) -> str:
    """Kinds of inputs down, plans and kernel sizes across; each share of max |y|, and of max (|x| * |w|)."""
    columns = ["inputs", *(f"{plan}, {k}x{k}" for plan in PLANS for k in KERNELS)]
    rows = []
    for inputs in INPUTS:
        by_column = {(e.plan, e.kernel): e for e in found if e.inputs == inputs}
        cells = [by_column[plan, kernel] for plan in PLANS for kernel in KERNELS]
        rows.append([inputs, *(f"{cell.of_output:.1e} / {cell.of_sum:.1e}" for cell in cells)])
    return markdown_table(columns, rows, [False] + [True] * (len(columns) - 1))
