"""Whether rows depend on one another, and outputs of tiny numbers."""

import pytest
import torch
from row_wise import IN, OUT, Of

from nncompile.verify.suite import Suite
from nncompile_runtime import VerificationError
from nncompile_runtime.manifest import Verification


def mean_over_rows(x):
    return x - x.mean(0)


SCALE = "f = Constant<value_float = 2.0>() "
ROWS = [
    (True, lambda x: x * 2, SCALE + "y = Mul(x, f)"),
    (True, lambda x: x.softmax(1), "y = Softmax<axis = 1>(x)"),
    (False, lambda x: x.softmax(0), "y = Softmax<axis = 0>(x)"),
    (False, mean_over_rows, "m = ReduceMean(x, a) y = Sub(x, m)"),
    (False, lambda x: x.cumsum(0), "y = CumSum(x, a0)"),
    (False, lambda x: x.flip(0), "y = Slice(x, minus, least, a, minus)"),
    (False, lambda x: x / x.abs().amax(), "b = Abs(x) m = ReduceMax<keepdims = 0>(b) y = Div(x, m)"),
    (False, lambda x: x.squeeze(), "y = Squeeze(x)"),  # a row by itself is no batch any more
    (False, lambda x: x + x[:1], "z = Slice(x, a, one, a) y = Add(x, z)"),
]


@pytest.mark.parametrize(("independent", "function", "nodes"), ROWS)
def test_whether_rows_depend_on_one_another(compare, independent, function, nodes):
    constants = {
        "a": torch.tensor([0]),
        "a0": torch.tensor(0),
        "one": torch.tensor([1]),
        "minus": torch.tensor([-1]),
        "least": torch.tensor([-(2**62)]),
    }
    words = nodes.replace("(", " ").replace(")", " ").replace(",", " ").split()
    found = compare(function, nodes, **{k: v for k, v in constants.items() if k in words})
    assert found.rows_independent == independent
    assert found.status == "verified"


TINY = 1e-6
SHRINK = f"f = Constant<value_float = {TINY}>() "


@pytest.mark.parametrize(("function", "nodes", "verified"), [
    (lambda x: x.sigmoid() * TINY, SHRINK + "s = Sigmoid(x) y = Mul(s, f)", True),
    (lambda x: x.sigmoid() * TINY, SHRINK + "s = Tanh(x) y = Mul(s, f)", False),
    (lambda x: x.sigmoid() * TINY, SHRINK + "s = Mul(x, f) y = Sub(s, s)", False),
    (lambda x: (x.sigmoid() - 13).sigmoid(), "t = Constant<value_float = 13.0>() "
     "s = Sigmoid(x) d = Sub(s, t) y = Sigmoid(d)", True),
    (lambda x: x.softmax(1).sum(1, keepdim=True) - 1 + 0 * x, "s = Sub(x, x) y = Identity(s)", True),
])  # fmt: skip
def test_an_output_of_tiny_numbers_is_compared_by_its_own_measure(compare, function, nodes, verified):
    """The last is 0 but for eager's own rounding."""
    assert isinstance(compare(function, nodes), Verification) == verified


@pytest.mark.parametrize(("depends", "function", "nodes"), [
    (False, lambda x: x * TINY, SHRINK + "y = Mul(x, f)"),
    (True, lambda x: x.flip(0) * TINY, SHRINK + "r = Slice(x, minus, least, a, minus) y = Mul(r, f)"),
])  # fmt: skip
def test_rows_of_tiny_numbers_depend_on_one_another_or_do_not(compare, depends, function, nodes):
    constants = {"a": [0], "minus": [-1], "least": [-(2**62)]} if depends else {}
    found = compare(function, nodes, **{name: torch.tensor(value) for name, value in constants.items()})
    assert found.rows_independent != depends


def test_random_numbers_that_are_tiny(signature):
    with pytest.raises(VerificationError, match="answers differently each time"):
        Suite(Of(lambda x: torch.rand_like(x) * TINY), signature(IN, OUT), (torch.randn(5, 4),))


@pytest.mark.parametrize("same", [True, False])
def test_rows_that_are_all_the_same_tell_nothing(signature, onnx_bytes, same):
    """Integers are drawn from the example: from a single value come equal rows."""
    example = torch.zeros(3, 2, dtype=torch.int64) if same else torch.arange(6).reshape(3, 2)
    sizes = {"i": "int64 n 2"}, {"y": "int64 n 2"}
    text = "g (int64[n, 2] i) => (int64[n, 2] y) { y = Add(i, i) }"
    found = Suite(Of(lambda i: i + i), signature(*sizes), (example,)).compare(onnx_bytes(text))
    assert found.rows_independent != same


@pytest.mark.parametrize("output", ["float32 4", "float32"])
def test_outputs_without_the_batch_have_no_rows(signature, onnx_bytes, output):
    of = (lambda x: x.new_ones(4)) if output.endswith("4") else (lambda x: x.new_ones(()))
    shape = "[4]" if output.endswith("4") else ""
    text = f"g (float[n, 4] x) => (float{shape} y) {{ y = Identity(w) }}"
    suite = Suite(Of(of), signature(IN, {"y": output}), (torch.randn(3, 4),))
    ones = torch.ones(4) if shape else torch.ones(())
    assert not suite.compare(onnx_bytes(text, {"w": ones})).rows_independent
