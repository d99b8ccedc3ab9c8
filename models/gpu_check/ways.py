"""Networks under plans that are no defaults: small ones, a convolution that nothing is fused into, ResNet-18.

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
    """Each small network and a plain convolution under CUDA graphs; on a GPU more precisions and plans too.

    On the CPU, where there are no CUDA graphs, batches are cut into pieces.
    """
    special = _special(context)
    for name in context.small:
        yield small(context, special, name)
    yield Way("a plain Conv", "float32", special, partial(plain_conv, context), _images)
    if context.on_gpu:
        for pieces in ({"micro_batch": 4}, {"micro_batch": 4, "cuda_graph": True}):
            yield small(context, pieces)
    yield from reduced(context)
    yield from large(context)


def small(context: Context, plan: dict[str, Any] | None = None, name: str = "") -> Way:
    """A small network in float32, the first one if none is named, with CUDA graphs if no plan is given.

    Raises:
        NotRunError: None of them was chosen.
    """
    name = name or context.small[0]
    load, inputs = partial(context.load, name, "float32"), partial(context.inputs, name)
    return Way(name, "float32", _special(context) if plan is None else plan, load, inputs)


def reduced(context: Context) -> Iterator[Way]:
    """On a GPU, the first small network under CUDA graphs in TF32 and bfloat16."""
    for precision in ("tf32", "bfloat16"):
        if context.on_gpu and precision in context.precisions:
            name = context.small[0]
            load, inputs = partial(context.load, name, precision), partial(context.inputs, name)
            yield Way(f"{name}, {precision}", precision, {"cuda_graph": True}, load, inputs)


def large(context: Context) -> Iterator[Way]:
    """On a GPU, ResNet-18 in float16 channels last, as it is and from CUDA graphs."""
    if context.on_gpu and LARGE in context.networks and LARGE_PRECISION in context.precisions:
        load, inputs = partial(context.load, LARGE, LARGE_PRECISION), partial(context.inputs, LARGE)
        for plan in LARGE_PLANS:
            yield Way(f"{LARGE}, {LARGE_PRECISION}", LARGE_PRECISION, plan, load, inputs, _FEW)


def _special(context: Context) -> dict[str, Any]:
    return {"cuda_graph": True} if context.on_gpu else {"micro_batch": 4}


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
