"""Networks on the GPU that is not there, and their answers on the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import helper

from nncompile_runtime.predictor import Predictor

from .fake_gpu import FakeGpu
from .graphs import Specs, build, conv_net, manifest, predictor, spec

CUDA = {"provider": "cuda"}


def on_cuda(nodes: list[Any], inputs: Specs, outputs: Specs, *, plan: Any = None, **about: Any) -> Predictor:
    """Nodes as a model on the GPU; `plan` are fields beside the provider, `about` the manifest's."""
    model, made = build(nodes, inputs, outputs), manifest(inputs, outputs, **about)
    return predictor(model, made, device="cuda", plan={**CUDA, **(plan or {})})


def net(**plan: Any) -> Predictor:
    """The convolutional network under a plan."""
    model, inputs, outputs = conv_net()
    return predictor(model, manifest(inputs, outputs), device="cuda", plan={**CUDA, **plan})


def replaying(**plan: Any) -> Predictor:
    """It, in CUDA graphs."""
    return net(cuda_graph=True, **plan)


def captures(gpu: FakeGpu) -> int:
    """How many sessions capture."""
    return sum(options.get("enable_cuda_graph") == "1" for options in gpu.created)


def replays(gpu: FakeGpu) -> int:
    """How many runs were on the memory of the first one, which captured."""
    addresses = [run["x"] for run in gpu.runs]
    return addresses.count(addresses[0])


def reference(x: np.ndarray) -> np.ndarray:
    """Its answer on the CPU."""
    answer: np.ndarray = predictor(conv_net()[0]).predict(x)
    return answer


def adding() -> Predictor:
    """`y = a + b`, both float32[batch, 3]."""
    inputs = [spec("a", "batch", 3), spec("b", "batch", 3)]
    return on_cuda([helper.make_node("Add", ["a", "b"], ["y"])], inputs, [spec("y", "batch", 3)])


def nonzero() -> Predictor:
    """Where `x` is not 0: how many there are, only the run tells."""
    outputs = [spec("y", "rank", "hits", dtype="int64")]
    return on_cuda([helper.make_node("NonZero", ["x"], ["y"])], [spec("x", "n")], outputs, batch=None)
