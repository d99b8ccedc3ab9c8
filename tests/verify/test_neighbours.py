"""Eager's own error next to the inputs of a case."""

import torch

import nncompile
from nncompile.verify.eager import Eager, widened
from nncompile.verify.neighbours import NEIGHBOURS, own_errors, undecided
from nncompile.verify.suite import Failure, Suite


class Recorded(torch.nn.Module):
    """Keeps what it is given; its answer is off by 2^-12 in float32 wherever x is not 0.5."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, x, index):
        self.seen.append((x, index))
        wrong = (x != 0.5) & (x.dtype == torch.float32)
        return x + wrong * 2.0**-12, index


def test_what_is_moved_and_how_far(signature):
    module = Recorded()
    called = signature({"x": "float32 n 4", "i": "int64 n"}, {"y": "float32 n 4", "j": "int64 n"})
    eager, inputs = Eager(module, called), (torch.randn(3, 4), torch.arange(3))
    inputs[0][0] = 0.0
    errors = own_errors(eager, eager, inputs)
    assert errors == [2.0**-12, 0.0]
    narrow = [x for x, _ in module.seen if x.dtype == torch.float32]
    assert len(narrow) == NEIGHBOURS
    assert not torch.equal(narrow[0], narrow[1])
    for x, index in module.seen:
        assert torch.equal(index, inputs[1])
        torch.testing.assert_close(x.float(), inputs[0], rtol=2.4e-7, atol=0)
    for x, wide in zip(narrow, [x for x, _ in module.seen if x.dtype == torch.float64], strict=True):
        assert torch.equal(widened([x])[0], wide)


def test_a_module_that_takes_no_neighbour(signature):
    def strict(x):
        if (x > 1).any():
            raise ValueError("no probability")
        return x

    module = torch.nn.Module()
    module.forward = strict
    called = signature({"x": "float32 n 4"}, {"y": "float32 n 4"})
    eager = Eager(module, called)
    assert own_errors(eager, eager, (torch.ones(16, 4),)) == []
    assert own_errors(eager, eager, (torch.full((16, 4), 0.5),)) == [0.0]


class Best(torch.nn.Module):
    def forward(self, x):
        values, places = (x * x).topk(2, 1)
        return places, values


def test_equal_values_are_in_no_order(signature):
    eager = Eager(Best(), signature({"x": "float32 n 4"}, {"places": "int64 n 2", "values": "float32 n 2"}))
    for x, alike in ((torch.full((2, 4), 0.5), True), (torch.arange(8.0).reshape(2, 4), False)):
        assert undecided(eager, [x], eager([x])) is alike
    values = Eager(lambda x: x.sort(1).values, signature({"x": "float32 n 4"}, {"y": "float32 n 4"}))
    assert not undecided(values, [torch.full((2, 4), 0.5)], values([torch.full((2, 4), 0.5)]))


def test_places_of_the_largest_are_compiled():
    """On the constant input all are alike, and PyTorch has another order than ONNX Runtime."""
    x = torch.randn(3, 40)
    model = nncompile.compile(Best(), x[:2])
    for got, want in zip(model.predict(x), Best()(x), strict=True):
        assert torch.equal(got, want)


def test_places_of_other_elements_are_wrong(signature, onnx_bytes):
    called = signature({"x": "float32 n 4"}, {"places": "int64 n 2", "values": "float32 n 2"})
    for sign, right in (("Identity", True), ("Neg", False)):
        graph = onnx_bytes(
            "g (float[n, 4] x) => (int64[n, 2] places, float[n, 2] values)\n"
            f"<int64[1] k = {{2}}> {{ s = Mul(x, x)\n t = {sign}(s)\n _, places = TopK(t, k)\n"
            " values, _p = TopK(s, k) }"
        )
        outcome = Suite(Best(), called, (torch.randn(3, 4),)).compare(graph)
        assert isinstance(outcome, Failure) is not right
