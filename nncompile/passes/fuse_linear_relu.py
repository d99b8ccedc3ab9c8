"""Linear layer and Relu as one kernel of ONNX Runtime's CUDA provider, where that is measured to be faster.

Pattern: `Relu(Gemm(x, w, b))` with constant float32 weights, as a linear layer has them.

Algebra: a row of x is an image of one position whose channels are the columns, and a convolution of 1 x 1
computes there, by its definition, `sum over k of x(n, k) w(k, m) + b(m)`: what Gemm does. Nothing is rounded
anew, the weight is only laid out as (outputs, inputs, 1, 1). `com.microsoft.FusedConv` takes bias and Relu
along. Unsqueeze and Flatten keep a batch of any size, 0 included.

Why: for CUDA, ONNX Runtime fuses no activation into Gemm. It launches three kernels, one for the bias,
where FusedConv is one call of cuDNN. MatMul, Add, Relu is no third way: of the first two ONNX Runtime makes
a Gemm when a session starts. Which is faster depends on shape, precision and GPU, so each layer is measured
(layer_race.py) on the first GPU of the machine that compiles; without one it stays as it is. It is measured
with a reader behind it, as in a network: there Unsqueeze and Flatten move nothing, but to make an output of
the graph is a copy.

Left alone is what would rule out a plan: FusedConv has no NHWC kernel, so a file that holds one cannot be
run with `channels_last`, which tuning tries for convolutions in TF32 (cuda_candidates.py). A graph that
could have it gets no FusedConv for a linear layer.

As in fuse_conv_relu.py, cuDNN is told not to propagate NaN through its Relu.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from nncompile.options import CompileOptions
from nncompile.passes.contract import Outcome, Pass
from nncompile.passes.layer_race import Verdict, compare
from nncompile.passes.rewriting import Match, Rule, apply_rules
from nncompile.passes.values import constant, float_attribute, given_input, int_attribute, weights
from nncompile_runtime.manifest import Precision

_DEVICE = "cuda:0"
_BASE, _FUSED = "Gemm, Relu", "FusedConv"
_SEED = 20240501


@dataclass(frozen=True)
class Linear:
    """What decides how fast a float32 layer `max(0, x w + b)` is.

    Attributes:
        inputs: Columns of x.
        outputs: Columns of the result.
        transposed: Whether the weight is kept as (outputs, inputs), Gemm's `transB`.
    """

    inputs: int
    outputs: int
    transposed: bool


Measure = Callable[[Linear], Verdict]


class FuseLinearRelu(Rule):
    """`Relu(Gemm(x, w, b))` to `Flatten(FusedConv(Unsqueeze(x), w, b))`."""

    def __init__(self, measure: Measure) -> None:
        """Rewrite the layers of which `measure` says that they are faster then."""
        super().__init__()
        self._measure = measure

    def pattern(self, op: Any, x: ir.Value) -> Any:
        return op.Relu(op.Gemm(x, _allow_other_inputs=True, _outputs=["y"]), _outputs=["z"])

    def refusal(self, match: Match) -> str | None:
        gemm = match.node("y")
        fault = _fault(gemm)
        if match["z"].is_graph_output():
            fault = fault or "its result is an output of the graph, which would be a copy"
        if fault is not None:
            return fault
        verdict = self._measure(_linear(gemm))
        return None if verdict.faster else verdict.said

    def gain(self, match: Match) -> str:
        """The figures."""
        return self._measure(_linear(match.node("y"))).said

    def replacement(self, op: Any, match: Match) -> Any:
        gemm, x = match.node("y"), match["x"]
        layer, weight = _linear(gemm), gemm.inputs[1]
        matrix = weights(weight) if layer.transposed else weights(weight).T
        kernel = ir.tensor(np.ascontiguousarray(matrix)[:, :, None, None])
        plane = op.initializer(ir.tensor(np.array([2, 3])), name="plane")
        image = op.Unsqueeze(x, plane)
        fused = op.FusedConv(
            image,
            op.initializer(kernel, name=f"{weight.name}_kernel"),  # type: ignore[union-attr]
            gemm.inputs[2],
            activation="Relu",
            _domain="com.microsoft",
            _version=1,
        )
        for value, channels in ((image, layer.inputs), (fused, layer.outputs)):
            rows = x.shape[0] if x.shape is not None else None
            value.type, value.shape = x.type, ir.Shape([rows, channels, 1, 1])
        return op.Flatten(fused, axis=1)


def _fault(gemm: ir.Node) -> str | None:
    """Why a Gemm is no linear layer that FusedConv computes; None where it is."""
    weight, bias = constant(gemm.inputs[1]), constant(given_input(gemm, 2))
    if weight is None:
        return "the weight is not constant"
    if weight.dtype != np.float32:
        return f"the CUDA kernel is for float32, not {weight.dtype}"
    if bias is None:
        return "it has no bias that is constant"
    if float_attribute(gemm, "alpha", 1.0) != 1 or float_attribute(gemm, "beta", 1.0) != 1:
        return "alpha or beta is not 1"
    if int_attribute(gemm, "transA", 0):
        return "the input is transposed"
    outputs = weight.shape[0 if int_attribute(gemm, "transB", 0) else 1]
    if bias.shape != (outputs,):
        return f"the bias has the shape {list(bias.shape)}, not [{outputs}]"
    return None if weight.size else "the weight is empty"


def _linear(gemm: ir.Node) -> Linear:
    shape, transposed = weights(gemm.inputs[1]).shape, bool(int_attribute(gemm, "transB", 0))
    outputs, inputs = shape if transposed else shape[::-1]
    return Linear(inputs, outputs, transposed)


def _fuse(measure: Measure) -> Callable[[ir.Model], Outcome]:
    """The pass, given what decides."""
    rewrite = apply_rules(partial(FuseLinearRelu, measure))

    def run(model: ir.Model) -> Outcome:
        outcome = rewrite(model)
        if outcome.changes:
            RemoveUnusedNodesPass()(model)  # the weights as they were laid out before
        return outcome

    return run


def graphs(layer: Linear) -> dict[str, ir.Model]:
    """A layer with a reader as a graph from x, float32 (n, inputs), to y, (n, outputs): as Gemm, and fused.

    The weights are normal numbers of one seed.
    """
    models = {name: _graph(layer) for name in (_BASE, _FUSED)}
    _fuse(lambda _: Verdict(True, ""))(models[_FUSED])
    return models


def _graph(layer: Linear) -> ir.Model:
    random = np.random.default_rng(_SEED)
    shape = (layer.outputs, layer.inputs) if layer.transposed else (layer.inputs, layer.outputs)
    w, b = (
        ir.val(name, const_value=ir.tensor(random.standard_normal(size, dtype=np.float32)))
        for name, size in (("w", shape), ("b", layer.outputs))
    )
    x = ir.val("x", ir.DataType.FLOAT, ("n", layer.inputs))
    gemm = ir.node("Gemm", [x, w, b], {"transB": int(layer.transposed)})
    relu = ir.node("Relu", gemm.outputs)
    reader = ir.node("Neg", relu.outputs, outputs=[ir.val("y", ir.DataType.FLOAT, ("n", layer.outputs))])
    nodes, opsets = [gemm, relu, reader], {"": 20}
    return ir.Model(
        ir.Graph([x], reader.outputs, nodes=nodes, initializers=[w, b], opset_imports=opsets, name="layer"),
        ir_version=10,
    )


def _serialized(layer: Linear) -> dict[str, bytes]:
    return {name: ir.to_proto(model).SerializeToString() for name, model in graphs(layer).items()}


@lru_cache(maxsize=256)
def measured(layer: Linear, precision: Precision, device: str) -> Verdict:
    """Whether a layer is faster fused; measured once in a process.

    Args:
        layer: What is measured.
        precision: What a session is to compute in.
        device: `cpu`, `cuda:0`, ...
    """
    return compare(partial(_serialized, layer), (layer.inputs, layer.outputs), precision, device)


def _for_channels_last(_: Linear) -> Verdict:
    return Verdict(False, "a FusedConv would rule out channels_last for the convolutions, which tuning tries")


def _fit(options: CompileOptions) -> Callable[[ir.Model], Outcome]:
    def run(model: ir.Model) -> Outcome:
        operators = {node.op_type for node in model.graph.all_nodes()}
        spared = options.precision == "tf32" and "Conv" in operators and "FusedConv" not in operators
        return _fuse(_for_channels_last if spared else measure)(model)

    def measure(layer: Linear) -> Verdict:
        return measured(layer, options.precision, _DEVICE)

    return run


FUSE_LINEAR_RELU = Pass(
    "fuse-linear-relu",
    "a linear layer and its Relu as one kernel of ONNX Runtime on CUDA, where that is measured to be faster",
    _fit(CompileOptions(target="cuda")),
    targets=("cuda",),
    fit=_fit,
)
