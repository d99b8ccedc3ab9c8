"""Small models in ONNX's text format: made, looked into, fed and run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx.reference import ReferenceEvaluator

ROWS = 3  # size of every symbolic dimension

Weights = Mapping[str, Any]
Feeds = Mapping[str, np.ndarray]


def parse(text: str, weights: Weights | None = None, opset: int = 20) -> onnx.ModelProto:
    """A valid model from ONNX's text format, with `weights` as initializers and shapes inferred."""
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": {opset}]>\n{text}')
    for name, value in (weights or {}).items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(value), name))
    onnx.checker.check_model(model, full_check=True)
    return onnx.shape_inference.infer_shapes(model)


def graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
                yield from graphs(inner)


def arrays(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def random_inputs(model: onnx.ModelProto, given: Feeds) -> dict[str, np.ndarray]:
    """Seeded normal values (small integers) for each input that needs one."""
    random = np.random.default_rng(20240501)
    feeds = dict(given)
    optional = {tensor.name for tensor in model.graph.initializer}
    for value in model.graph.input:
        if value.name in feeds or value.name in optional:
            continue
        tensor = value.type.tensor_type
        shape = [d.dim_value if d.HasField("dim_value") else ROWS for d in tensor.shape.dim]
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        scale = 1 if dtype.kind == "f" else 3
        feeds[value.name] = np.asarray(random.standard_normal(shape) * scale).astype(dtype)
    return feeds


def in_onnxruntime(model: onnx.ModelProto, feeds: Feeds) -> list[np.ndarray]:
    """Every node as it stands: with ONNX Runtime's own optimisers off."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    return session.run(None, dict(feeds))


def in_reference(model: onnx.ModelProto, feeds: Feeds) -> list[np.ndarray]:
    """ONNX's own interpreter, for what ONNX Runtime's CPU provider lacks, and as a second opinion."""
    return ReferenceEvaluator(model).run(None, dict(feeds))
