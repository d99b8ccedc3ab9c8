"""A suite on a GPU runs a graph as a predictor without plans would: float16 with its channels last."""

import pytest
import torch
from torch import nn

from nncompile.verify.suite import Suite
from nncompile_runtime.devices import Device
from nncompile_runtime.manifest import Verification
from tests.runtime.fake_gpu import gpu

__all__ = ["gpu"]
CONV = "g (float[n, 2, 5, 5] x) => (float[n, 3, 3, 3] y) { y = Conv(x, w, b) }"


@pytest.mark.parametrize(("precision", "last"), [("float16", "1"), ("float32", "0")])
def test_the_layout_is_the_default_plans(gpu, signature, onnx_bytes, precision, last):
    conv = nn.Conv2d(2, 3, 3).eval()
    how = signature({"x": "float32 n 2 5 5"}, {"y": "float32 n 3 3 3"})
    suite = Suite(conv, how, (torch.randn(5, 2, 5, 5),), precision=precision, device=Device("cuda"))
    found = suite.compare(onnx_bytes(CONV, {"w": conv.weight, "b": conv.bias}))
    assert isinstance(found, Verification)
    assert {options["prefer_nhwc"] for options in gpu.created} == {last}
