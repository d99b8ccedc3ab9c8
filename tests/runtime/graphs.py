"""Small ONNX models, manifests and predictors, built without PyTorch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from nncompile_runtime import container
from nncompile_runtime.manifest import Argument, Manifest, Signature, TensorSpec, Verification
from nncompile_runtime.predictor import Predictor
from nncompile_runtime.structure import SequenceOf, TensorLeaf

Specs = Sequence[TensorSpec]


def spec(name: str, *shape: int | str, dtype: str = "float32") -> TensorSpec:
    return TensorSpec(name=name, dtype=dtype, shape=shape)


def build(
    nodes: Sequence[onnx.NodeProto],
    inputs: Specs,
    outputs: Specs,
    weights: Mapping[str, Any] | None = None,
    *,
    opset: int = 20,
    functions: Sequence[onnx.FunctionProto] = (),
    domains: Sequence[str] = (),
) -> onnx.ModelProto:
    """A model whose graph inputs and outputs are as the specs say; the size "?" stays unnamed."""

    def port(s: TensorSpec) -> onnx.ValueInfoProto:
        shape = [None if size == "?" else size for size in s.shape]
        element = helper.np_dtype_to_tensor_dtype(np.dtype(s.dtype))
        return helper.make_tensor_value_info(s.name, element, shape)

    graph = helper.make_graph(
        nodes,
        "graph",
        [port(s) for s in inputs],
        [port(s) for s in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in (weights or {}).items()],
    )
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(graph, opset_imports=opsets, functions=functions, ir_version=10)


def manifest(
    inputs: Specs,
    outputs: Specs,
    *,
    arguments: Sequence[Argument] | None = None,
    result: Any = None,
    batch: str | None = "batch",
    rows_independent: bool = True,
    **fields: Any,
) -> Manifest:
    """A manifest with one plain argument per input, unless told otherwise."""
    leaves = tuple(TensorLeaf(index=i) for i in range(len(outputs)))
    plain = (Argument(name=s.name, structure=TensorLeaf(index=i)) for i, s in enumerate(inputs))
    return Manifest(
        producer={"nncompile": "0"},
        model_name="Net",
        signature=Signature(
            arguments=tuple(arguments or plain),
            inputs=tuple(inputs),
            outputs=tuple(outputs),
            result=result or (leaves[0] if len(leaves) == 1 else SequenceOf(kind="tuple", items=leaves)),
            batch=batch,
        ),
        verification=Verification(status="verified", rows_independent=rows_independent),
        **fields,
    )


def predictor(
    model: onnx.ModelProto, about: Manifest | None = None, *, device: str = "cpu", plan: Any = None
) -> Predictor:
    """Load a model from memory, as an artifact where it has a manifest."""
    data = model.SerializeToString()
    if about is not None:
        data = container.append_manifest(data, about)
    return Predictor(container.parse(data, "test.onnx"), device=device, plan=plan)


def compiled(
    nodes: Sequence[onnx.NodeProto], inputs: Specs, outputs: Specs, *, plan: Any = None, **about: Any
) -> Predictor:
    """A predictor with a manifest, about which the other options say more."""
    return predictor(build(nodes, inputs, outputs), manifest(inputs, outputs, **about), plan=plan)


def doubling(*shape: int | str, dtype: str = "float32", **options: Any) -> Predictor:
    """`y = x + x`: exact for every value, and shapeless, so any specification suits it."""
    shape = shape or ("batch", 4)
    node = helper.make_node("Add", ["x", "x"], ["y"])
    return compiled([node], [spec("x", *shape, dtype=dtype)], [spec("y", *shape, dtype=dtype)], **options)


def adding(**options: Any) -> Predictor:
    """`y = a + b`, both float32[batch, 3]."""
    inputs = [spec("a", "batch", 3), spec("b", "batch", 3)]
    return compiled([helper.make_node("Add", ["a", "b"], ["y"])], inputs, [spec("y", "batch", 3)], **options)


def conv_net() -> tuple[onnx.ModelProto, Specs, Specs]:
    """Convolution, ReLU, pooling and a linear layer on float32[batch, 1, 8, 8], seeded weights."""
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], kernel_shape=[3, 3]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("MaxPool", ["r"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "v"], ["y"]),
    ]
    weights = {
        "w": rng.standard_normal((4, 1, 3, 3), np.float32),
        "b": rng.standard_normal(4, np.float32),
        "v": rng.standard_normal((36, 5), np.float32),
    }
    inputs, outputs = [spec("x", "batch", 1, 8, 8)], [spec("y", "batch", 5)]
    return build(nodes, inputs, outputs, weights), inputs, outputs


def floats(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)
