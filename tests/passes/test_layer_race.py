"""layer_race: the verdict on given ratios, and what is measured: on the CPU, which every machine has."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from nncompile.passes.layer_race import Setting, compare, judge
from nncompile_runtime.bootstrap import Estimate
from nncompile_runtime.devices import NVIDIA_DRIVER

ONE, MANY = Setting(1, captured=False), Setting(64, captured=False)
REPLAYED = Setting(1, captured=True)


def exactly(ratio):
    return Estimate(ratio, ratio, ratio)


def verdict(*ratios):
    return judge("B is", dict(zip((ONE, MANY, REPLAYED), ratios, strict=False)), "A on cuda:0")


@pytest.mark.parametrize(
    ("ratios", "faster"),
    [
        ([exactly(1.1), exactly(1.2)], True),
        ([exactly(0.9), exactly(0.8)], False),
        ([exactly(1.0), exactly(1.0)], False),
        # the mean's interval reaches down to 1
        ([Estimate(1.2, 0.8, 1.3), Estimate(1.2, 1.25, 1.3)], False),
        ([Estimate(1.2, 0.85, 1.3), Estimate(1.2, 1.25, 1.3)], True),
        # slower at one batch, beyond the noise; within it
        ([exactly(2.0), Estimate(0.95, 0.9, 0.99)], False),
        ([exactly(2.0), Estimate(0.99, 0.9, 1.0)], True),
        ([exactly(2.0), exactly(2.0), exactly(0.9)], False),
    ],
)
def test_the_verdict(ratios, faster):
    assert verdict(*ratios).faster is faster


def test_what_is_said_of_it():
    said = verdict(Estimate(1.0, 0.9, 1.1), Estimate(4.0, 3.6, 4.4), exactly(2.0)).said
    assert said == (
        "B is 2.00 times as fast as A on cuda:0 (1.86 to 2.13): "
        "1.00 at batch 1, 4.00 at batch 64, 2.00 at batch 1 as a CUDA graph"
    )


def chain(length, factor=1.0):
    """`y = x v` after some products of a matrix that takes far longer, and which the factor changes."""
    steps = "".join(f"t{i + 1} = MatMul(t{i}, w) " for i in range(length))
    text = f"g (float[n, 64] x) => (float[n, 4] y) {{ t0 = Identity(x) {steps} y = MatMul(t{length}, v) }}"
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 20]>\n{text}')
    random = np.random.default_rng(0)
    last = random.standard_normal((64, 4), np.float32) * np.float32(factor)
    for name, value in {"w": np.eye(64, dtype=np.float32), "v": last}.items():
        model.graph.initializer.append(numpy_helper.from_array(value, name))
    return model.SerializeToString()


def raced(base, other, precision="float32", device="cpu"):
    return compare(lambda: {"base": base, "other": other}, (64, 4), precision, device)


def test_of_two_graphs_the_one_that_is_300_times_as_long_is_slower():
    found = raced(chain(300), chain(1))
    assert found.faster
    assert found.said.startswith("other is ")
    assert " times as fast as base on cpu (" in found.said
    assert [part.split(" at ")[1] for part in found.said.split(": ")[1].split(", ")] == [
        "batch 1",
        "batch 64",
    ]
    assert not raced(chain(1), chain(300)).faster


def test_a_graph_that_answers_otherwise_is_not_taken_however_fast():
    found = raced(chain(300), chain(1, factor=1.001))
    assert not found.faster
    assert found.said.startswith(
        "nothing was measured: other answers otherwise than base on cpu at batch 1: output 0 differs by"
    )


def test_answers_are_held_to_the_precision():
    assert raced(chain(300), chain(1, factor=1.001), precision="tf32").faster
    assert not raced(chain(300), chain(1, factor=1.1), precision="tf32").faster


def test_a_graph_that_cannot_be_opened():
    found = raced(chain(1), chain(1).replace(b"MatMul", b"MatNul"))
    assert not found.faster
    assert found.said.startswith("nothing was measured: ONNX Runtime")
    assert "refuses other" in found.said


@pytest.mark.skipif(NVIDIA_DRIVER.exists(), reason="there is a GPU")
def test_without_a_gpu_it_says_what_is_missing_and_makes_no_graph():
    def graphs():
        raise AssertionError

    found = compare(graphs, (64, 4), "float32", "cuda:0")
    assert not found.faster
    assert found.said.startswith("nothing was measured: cuda:0 cannot be had: ")
    assert not found.said.endswith(".")
