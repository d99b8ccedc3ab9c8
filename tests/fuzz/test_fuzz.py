"""Random networks: compiled, no pass dropped, and equal to eager with ONNX Runtime's optimisers on and off.

`make test` tries a few; `make fuzz` (FUZZ_EXAMPLES) many.
"""

import os

import numpy as np
import onnxruntime
import torch
from hypothesis import HealthCheck, given, settings
from random_networks import networks

import nncompile

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "20"))
TOLERANCE = {"rtol": 1e-3, "atol": 1e-4}


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize="FUZZ_EXAMPLES" not in os.environ,
    suppress_health_check=list(HealthCheck),
)
@given(networks())
def test_a_random_network(made):
    net, shape = made
    model = nncompile.compile(net, torch.randn(1, *shape))
    assert model.report.verification.dropped_passes == ()
    plain = _without_optimisers(model)
    for batch in (1, 5):
        x = torch.randn(batch, *shape, generator=torch.Generator().manual_seed(batch))
        with torch.no_grad():
            want = net(x).numpy()
        scale = max(1.0, float(np.abs(want).max(initial=0)))
        np.testing.assert_allclose(model(x).numpy() / scale, want / scale, **TOLERANCE)
        (got,) = plain.run(None, {plain.get_inputs()[0].name: x.numpy()})
        np.testing.assert_allclose(got / scale, want / scale, **TOLERANCE)


def _without_optimisers(model):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model._file.data, options, providers=["CPUExecutionProvider"])
