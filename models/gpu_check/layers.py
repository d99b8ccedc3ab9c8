"""What a layer and its activation are fastest as on ONNX Runtime's CUDA provider: figures, not verdicts.

Its optimiser fuses no activation there. A linear layer may be Gemm and Relu, or what the pass
fuse-linear-relu makes of them: a convolution of 1 x 1, whose kernel takes bias and Relu along
(`com.microsoft.FusedConv`). Each is a graph of its own, replayed as a CUDA graph on tensors that lie on the
GPU, all interleaved.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
import torch

from models.gpu_check.context import Context, arrays
from models.gpu_check.table import Finding, NotRunError
from nncompile.bench.engines.on_gpu import wait
from nncompile_runtime import Predictor, container
from nncompile_runtime.answers import difference
from nncompile_runtime.race import Entrant, race

if TYPE_CHECKING:
    import onnx

_BATCHES = (1, 64, 256)
_LINEAR = ((400, 120), (512, 512), (2048, 1024))  # inputs and outputs: of LeNet5, of MLP, a large one
_PLANES = ((6, 16, 14), (64, 64, 56))  # channels in and out, height and width: of LeNet5, of ResNet-18
_KERNEL = 3
_SECONDS = 0.3


def layers(context: Context) -> Iterator[Finding]:
    """Each way of each layer answers as the first, and takes so long."""
    for batch in _BATCHES if context.on_gpu else _BATCHES[:1]:
        for inputs, outputs in _LINEAR:
            yield from _compared(
                context, f"Linear({inputs}, {outputs})", (batch, inputs), _linear(inputs, outputs)
            )
        for inputs, outputs, side in _PLANES:
            shape, weight = (batch, inputs, side, side), (outputs, inputs, _KERNEL, _KERNEL)
            yield from _compared(context, f"Conv2d({inputs}, {outputs})", shape, _convolution(shape, weight))


def _compared(
    context: Context, layer: str, shape: tuple[int, ...], ways: Mapping[str, onnx.ModelProto]
) -> Iterator[Finding]:
    what = f"{layer} and Relu on {'x'.join(map(str, shape))}"
    x = context.tensor(np.random.default_rng(0).standard_normal(shape, dtype=np.float32))
    entrants: dict[str, Entrant] = {}
    expected: list[np.ndarray] = []
    for way, model in ways.items():
        predictor = _loaded(context, model)
        answer = arrays(predictor, predictor(x))
        expected = expected or answer
        wrong = difference(expected, answer)
        yield Finding.of(f"{what}: {way}", wrong is None, wrong or "answers as the first way does")
        entrants[way] = Entrant(partial(_call, predictor, x))
    rounds = race(entrants, list(entrants), min(_SECONDS, context.seconds)).rounds
    times = sorted((1e6 * float(np.median(seconds)), way) for way, seconds in rounds.items())
    yield Finding(what, "told", ", ".join(f"{way} {time:,.1f} µs" for time, way in times))


def _call(predictor: Predictor, x: torch.Tensor) -> None:
    predictor(x)
    wait(x.device)


def _loaded(context: Context, model: onnx.ModelProto) -> Predictor:
    provider, _, number = context.device.partition(":")
    plan = {"provider": provider, "device_id": int(number or 0), "cuda_graph": context.on_gpu}
    return Predictor(
        container.parse(model.SerializeToString(), "layer.onnx"), device=context.device, plan=plan
    )


def _linear(inputs: int, outputs: int) -> dict[str, onnx.ModelProto]:
    """Ways to compute `max(0, x w' + b)`, as the pass has them: behind it is a Neg, which reads it.

    Raises:
        NotRunError: onnx, onnx_ir or onnxscript is not installed.
    """
    try:
        import onnx_ir as ir

        from nncompile.passes.fuse_linear_relu import Linear, graphs
    except ImportError as error:
        raise NotRunError(str(error)) from error
    layer = Linear(inputs, outputs, transposed=True)
    return {name: ir.to_proto(model) for name, model in graphs(layer).items()}


def _convolution(shape: tuple[int, ...], weight: tuple[int, ...]) -> dict[str, onnx.ModelProto]:
    """Ways to compute a convolution with bias and Relu, its plane as large as the image."""
    node = _helper().make_node
    port = shape, (shape[0], weight[0], *shape[2:])
    values, pads = _seeded(w=weight, b=weight[:1]), [_KERNEL // 2] * 4
    fused = node("FusedConv", ["x", "w", "b"], ["y"], domain="com.microsoft", activation="Relu", pads=pads)
    return {
        "Conv, Relu": _model(
            [node("Conv", ["x", "w", "b"], ["t"], pads=pads), node("Relu", ["t"], ["y"])], *port, values
        ),
        "FusedConv": _model([fused], *port, values),
    }


def _seeded(**shapes: tuple[int, ...]) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(1)
    return {name: generator.standard_normal(shape, np.float32) for name, shape in shapes.items()}


def _model(
    nodes: list[onnx.NodeProto], x: tuple[int, ...], y: tuple[int, ...], values: Mapping[str, np.ndarray]
) -> onnx.ModelProto:
    from onnx import TensorProto, numpy_helper

    helper = _helper()
    ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", x), ("y", y))]
    weights = [numpy_helper.from_array(value, name) for name, value in values.items()]
    graph = helper.make_graph(nodes, "layer", ports[:1], ports[1:], weights)
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def _helper() -> ModuleType:
    """`onnx.helper`.

    Raises:
        NotRunError: onnx is not installed.
    """
    try:
        from onnx import helper
    except ImportError as error:
        raise NotRunError(str(error)) from error
    return helper
