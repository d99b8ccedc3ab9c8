"""What Triton's ONNX Runtime backend makes of a configuration, as far as it can be had without Triton.

The parser is protobuf's with Triton's own schema; checks and session options follow
https://github.com/triton-inference-server/onnxruntime_backend/blob/main/src/onnxruntime.cc.
"""

from __future__ import annotations

import importlib.util
import os
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import onnxruntime as ort
import pytest

LEVELS = {
    0: ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
    -1: ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    1: ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    2: ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
}
TYPES = {"float": "FP32", "double": "FP64", "float16": "FP16"}


@cache
def schema() -> Any:
    """model_config.proto as tritonclient ships it; its gRPC client, which would import grpc, stays out."""
    try:
        path = metadata.distribution("tritonclient").locate_file("tritonclient/grpc/model_config_pb2.py")
    except metadata.PackageNotFoundError:
        stop = pytest.fail if os.environ.get("CI") else pytest.skip
        stop("no tritonclient is installed (requirements-no-deps.txt)")
    found = importlib.util.spec_from_file_location("triton_model_config", str(path))
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def parse(text: str) -> Any:
    """A `ModelConfig`; ParseError where a field is unknown, or given twice."""
    from google.protobuf import text_format

    return text_format.Parse(text, schema().ModelConfig())


def config_of(version: Path) -> Any:
    return parse((version.parent / "config.pbtxt").read_text())


def serve(version: Path) -> ort.InferenceSession:
    """The session that the backend opens on a CPU; asserts what it checks before it serves."""
    config = config_of(version)
    assert config.backend == "onnxruntime"
    options = ort.SessionOptions()
    options.graph_optimization_level = LEVELS[config.optimization.graph.level]
    options.intra_op_num_threads = int(config.parameters["intra_op_thread_count"].string_value or 0)
    for path in config.model_operations.op_library_filename:
        options.register_custom_ops_library(path)
    session = ort.InferenceSession(version / "model.onnx", options, providers=["CPUExecutionProvider"])
    check(config, config.input, session.get_inputs())
    check(config, config.output, session.get_outputs())
    return session


def check(config: Any, said: Any, ports: Any) -> None:
    """Names, data types and dimensions, as `ValidateInputs` and `CompareDimsSupported` compare them."""
    assert sorted(one.name for one in said) == sorted(port.name for port in ports)
    named = {port.name: port for port in ports}
    for one in said:
        port = named[one.name]
        element = port.type.removeprefix("tensor(").removesuffix(")")
        data_type = schema().DataType.Name(one.data_type)
        assert data_type == "TYPE_" + TYPES.get(element, element.upper())
        assert list(one.dims)
        assert all(size == -1 or size >= 1 for size in one.dims)
        assert not (one.HasField("reshape") and not one.reshape.shape and config.max_batch_size == 0)
        dims = list(one.reshape.shape if one.HasField("reshape") else one.dims)
        actual = [size if isinstance(size, int) else -1 for size in port.shape]
        if config.max_batch_size:
            assert actual == [-1, *dims]
        else:
            assert actual == dims or (actual == [] and set(dims) == {1})


def tree(folder: Path) -> dict[str, bytes | None]:
    """What lies in a folder, by path; None for a folder."""
    return {
        str(path.relative_to(folder)): None if path.is_dir() else path.read_bytes()
        for path in folder.rglob("*")
    }
