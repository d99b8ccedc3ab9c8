"""Networks as `ragged` runs them: the small ones, a convolution that nothing is fused into, and ResNet-18.

The convolutions of the small networks become `FusedConv`, which has no kernel for channels that are last. A
plain `Conv` searches for its algorithm and takes its workspace by itself, which is what each CUDA graph has a
session of its own for; one before a SiLU stays plain, and so do those of ResNet-18 in float16.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from models.gpu_check.context import Context
from models.gpu_check.table import NotRunError
from nncompile_runtime import Predictor, container

LARGE, LARGE_PRECISION = "resnet18", "float16"
# With CUDA graphs too, which hold on to whatever layout ONNX Runtime gave the weights.
LARGE_PLANS: tuple[dict[str, Any], ...] = (
    {"channels_last": True},
    {"channels_last": True, "cuda_graph": True},
)
_BATCHES = (1, 2, 3, 5, 8, 13, 16, 17, 31, 64, 3, 1)
_FEW = (1, 2, 3, 5, 3, 1)
_SEED = 20240502
_CHANNELS, _SIDE = 8, 16


@dataclass(frozen=True)
class Way:
    """A network, and the plan whose answers are looked at.

    Attributes:
        name: Of the network, and its precision where that is not float32.
        precision: What it computes in.
        plan: Fields of the plan besides the provider.
        load: Opens it with such fields.
        inputs: A batch of inputs by size and seed.
        batches: Sizes that are asked for, one after the other.
    """

    name: str
    precision: str
    plan: dict[str, Any]
    load: Callable[[dict[str, Any]], Predictor]
    inputs: Callable[[int, int], np.ndarray]
    batches: tuple[int, ...] = _BATCHES


def ways(context: Context) -> Iterator[Way]:
    """Each small network and a plain convolution under CUDA graphs; on a GPU ResNet-18 in float16 too.

    On the CPU, where there are no CUDA graphs, batches are cut into pieces.
    """
    special: dict[str, Any] = {"cuda_graph": True} if context.on_gpu else {"micro_batch": 4}
    for name in context.small:
        load, inputs = partial(context.load, name, "float32"), partial(context.inputs, name)
        yield Way(name, "float32", special, load, inputs)
    yield Way("a plain Conv", "float32", special, partial(plain_conv, context), _images)
    if context.on_gpu and LARGE in context.networks and LARGE_PRECISION in context.precisions:
        load, inputs = partial(context.load, LARGE, LARGE_PRECISION), partial(context.inputs, LARGE)
        for plan in LARGE_PLANS:
            yield Way(f"{LARGE}, {LARGE_PRECISION}", LARGE_PRECISION, plan, load, inputs, _FEW)


def plain_conv(context: Context, plan: dict[str, Any]) -> Predictor:
    """`silu(conv(silu(conv(x))))`, images of 8 channels and 16 x 16 in and out, float32.

    Raises:
        NotRunError: onnx is not installed, which builds it.
    """
    try:
        from onnx import numpy_helper, parser
    except ImportError as error:
        raise NotRunError(str(error)) from error
    images = f"float[n, {_CHANNELS}, {_SIDE}, {_SIDE}]"
    model = parser.parse_model(
        f'<ir_version: 10, opset_import: ["": 20]> plain ({images} x) => ({images} y) {{'
        "a = Conv<pads = [1, 1, 1, 1]>(x, w) s = Sigmoid(a) b = Mul(a, s)"
        "c = Conv<pads = [1, 1, 1, 1]>(b, v) t = Sigmoid(c) y = Mul(c, t) }"
    )
    random = np.random.default_rng(_SEED)
    for name in ("w", "v"):
        weight = random.standard_normal((_CHANNELS, _CHANNELS, 3, 3), dtype=np.float32) / 8
        model.graph.initializer.append(numpy_helper.from_array(weight, name))
    provider, _, number = context.device.partition(":")
    fields = {"provider": provider, "device_id": int(number or 0), **plan}
    file = container.parse(model.SerializeToString(), "plain-conv.onnx")
    return Predictor(file, device=context.device, plan=fields)


def _images(batch: int, seed: int) -> np.ndarray:
    shape = (batch, _CHANNELS, _SIDE, _SIDE)
    return np.random.default_rng((_SEED, seed)).standard_normal(shape, dtype=np.float32)
