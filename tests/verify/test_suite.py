"""One graph against eager PyTorch: what passes, what fails, what is recorded."""

from typing import ClassVar

import numpy as np
import pytest
import torch
from row_wise import IN, OUT, Of, graph
from torch import nn

from nncompile.verify import skip, verify_file
from nncompile.verify.cases import BATCHES
from nncompile.verify.compare import EAGER_MULTIPLE, TOLERANCES
from nncompile.verify.suite import Failure, Suite
from nncompile_runtime import VerificationError, container
from nncompile_runtime.manifest import Manifest, Verification
from nncompile_runtime.session import Session

LINEAR = "g (float[n, 4] x) => (float[n, 3] y) { y = Gemm<transB = 1>(x, w, b) }"


@pytest.fixture
def linear():
    return nn.Linear(4, 3).eval()


@pytest.fixture
def suite(linear, signature):
    return Suite(linear, signature(IN, {"y": "float32 n 3"}), (torch.randn(5, 4),))


def test_what_is_recorded(suite, linear, onnx_bytes):
    found = suite.compare(onnx_bytes(LINEAR, {"w": linear.weight, "b": linear.bias}))
    assert isinstance(found, Verification)
    assert (found.status, found.reference, found.cases) == ("verified", "float64", 6)
    assert (found.batches, found.eager_multiple) == (BATCHES, EAGER_MULTIPLE)
    assert (found.rtol, found.atol) == TOLERANCES["float32"]
    assert found.rows_independent
    (output,) = found.outputs
    assert output.name == "y"
    assert output.top1_agreement == 1
    assert 0 < output.max_abs < 1e-3
    assert 0 < output.eager_max_abs < 1e-3
    assert 0 < output.max_rel < 1e-6


class Seen(nn.Linear):
    """Notes dtype and rows of each call; copies share the list."""

    seen: ClassVar[list] = []

    def forward(self, x):
        self.seen.append((x.dtype, len(x)))
        return super().forward(x)


def test_eager_runs_each_case_once_and_the_first_once_more_against_random_numbers(signature, monkeypatch):
    monkeypatch.setattr(Seen, "seen", [])
    Suite(Seen(4, 3).eval(), signature(IN, {"y": "float32 n 3"}), (torch.randn(5, 4),))
    batches = [5, 1, 2, 3, 1, 8]
    assert [rows for dtype, rows in Seen.seen if dtype is torch.float64] == batches
    assert [rows for dtype, rows in Seen.seen if dtype is torch.float32] == [*batches, 5]


def test_the_graph_runs_each_case_once_and_the_largest_once_more_in_two_pieces(
    suite, linear, onnx_bytes, monkeypatch
):
    rows = []
    run = Session.run
    monkeypatch.setattr(Session, "run", lambda self, feed: (rows.append(len(feed["x"])), run(self, feed))[1])
    assert suite.compare(onnx_bytes(LINEAR, {"w": linear.weight, "b": linear.bias})).rows_independent
    assert rows == [5, 1, 2, 3, 1, 8, 1, 7]


def test_the_session_is_that_of_the_graph_compared_last(suite, linear, onnx_bytes):
    model = onnx_bytes(LINEAR, {"w": linear.weight, "b": linear.bias})
    suite.compare(model)
    first = suite.session
    assert first.inputs[0].name == "x"
    suite.compare(model)
    assert suite.session is not first
    suite.compare(model.replace(b"Gemm", b"Gimm"))
    assert suite.session is None


def test_a_wrong_weight(suite, linear, onnx_bytes):
    wrong = linear.weight.detach().clone()
    wrong[0, 0] *= 1.01
    found = suite.compare(onnx_bytes(LINEAR, {"w": wrong, "b": linear.bias}))
    assert isinstance(found, Failure)
    assert found.case == 0
    assert found.what.startswith("On the example input, output 'y' differs from eager PyTorch by ")
    assert "eager's own float error is " in found.what


def test_only_one_case(suite, onnx_bytes, linear):
    wrong_beyond_100 = (
        "g (float[n, 4] x) => (float[n, 3] y) { c = Clip(x, low, high) y = Gemm<transB = 1>(c, w, b) }"
    )
    weights = {"w": linear.weight, "b": linear.bias, "low": torch.tensor(-50.0), "high": torch.tensor(50.0)}
    model = onnx_bytes(wrong_beyond_100, weights)
    whole = suite.compare(model)
    assert whole.case == 3
    assert "large range, batch 3" in whole.what
    assert suite.compare(model, only=3) == whole
    passed = suite.compare(model, only=2)
    assert isinstance(passed, Verification)
    assert passed.cases == 1


@pytest.mark.parametrize("rows", [1, 2, 3, 8])
def test_a_graph_that_is_wrong_for_one_batch(compare, rows):
    nodes = f"""s = Shape<end = 1>(x) r = Constant<value_ints = [{rows}]>() k = Equal(s, r)
        f = Constant<value_float = 1.5>() o = Constant<value_float = 1.0>()
        w = Where(k, f, o) y = Mul(x, w)"""
    found = compare(lambda x: x * 1, nodes)
    assert isinstance(found, Failure)
    assert f"batch {rows} " in found.what


def test_a_graph_that_fails_for_one_batch(compare):
    nodes = "t = Constant<value_ints = [2, -1]>() r = Reshape(x, t) s = Shape(x) y = Reshape(r, s)"
    found = compare(lambda x: x + 0, "z = Constant<value_float = 0.0>() y = Add(x, z)")
    assert isinstance(found, Verification)
    found = compare(lambda x: x + 0, nodes.replace("[2, -1]", "[5, 4]"))
    assert isinstance(found, Failure)
    assert found.case == 1
    assert found.what.startswith("example, batch 1: ONNX Runtime could not run this input")


def test_a_graph_that_onnx_runtime_refuses(suite, onnx_bytes, linear):
    model = onnx_bytes(LINEAR, {"w": linear.weight, "b": linear.bias}).replace(b"Gemm", b"Gimm")
    found = suite.compare(model)
    assert isinstance(found, Failure)
    assert found.case == 0
    assert "refuses" in found.what


def shifted(by):
    return f"s = Constant<value_float = {by}>() a = Add(x, s) y = Sub(a, s)"


def test_an_ill_conditioned_network_passes_within_eagers_own_error(compare):
    """(x + 1e4) - 1e4 is off by 5e-4 in float32: no tolerance for float32 would let that pass."""
    found = compare(lambda x: (x + 1e4) - 1e4, shifted(2e4))
    assert isinstance(found, Verification)
    assert found.outputs[0].eager_max_abs > 40 * TOLERANCES["float32"][1]
    assert found.outputs[0].max_abs > found.outputs[0].eager_max_abs
    assert isinstance(compare(lambda x: (x + 1e4) - 1e4, shifted(4e5)), Failure)
    assert isinstance(compare(lambda x: x * 1, shifted(1e4)), Failure)  # well-conditioned: no excuse


def test_eager_is_right_by_luck(signature, onnx_bytes):
    """((x + 1) - 1.5) * 1000 is exact at 0.5 in float32, and off by 6e-5 at the next number but one."""
    example = torch.tensor([[0.5, 0.5, 0.5, 0.5 + 2.0**-7]] * 5)

    def found(function, off_by):
        weights = {"o": [1.0], "c": [1.5], "f": [1000.0], "s": [off_by]}
        model = graph("p = Add(x, o) d = Sub(p, c) m = Mul(d, f) y = Add(m, s)")
        suite = Suite(Of(function), signature(IN, OUT), (example,))
        floats = {name: np.array(value, "f4") for name, value in weights.items()}
        return suite.compare(onnx_bytes(model, floats), only=0)

    def lucky(x):
        return ((x + 1) - 1.5) * 1000

    assert isinstance(found(lucky, 2e-4), Verification)
    assert isinstance(found(lucky, 2e-3), Failure)  # eager is nowhere as wrong
    assert isinstance(found(lambda x: (x - 0.5) * 1000, 2e-4), Failure)  # and here it is right everywhere


def test_invented_inputs_on_which_eager_itself_is_wrong_tell_nothing(signature, onnx_bytes):
    """sin(1e4 x) at x = 100: float32 holds 1e6 to 0.06. The example's values stand in."""
    suite = Suite(Of(lambda x: (x * 1e4).sin()), signature(IN, OUT), (torch.randn(5, 4),))
    assert [case.name for case in suite._cases] == [
        "example",
        "example, batch 1",
        "normal, batch 2",
        "large range, batch 3 of the example",
        "constant, batch 1",
        "normal, batch 8",
    ]
    sine = "f = Constant<value_float = 1e4>() p = Mul(x, f) y = Sin(p)"
    assert isinstance(suite.compare(onnx_bytes(graph(sine))), Verification)
    assert isinstance(suite.compare(onnx_bytes(graph(sine.replace("1e4", "10001.0")))), Failure)


@pytest.mark.parametrize(
    "draw",
    [
        lambda x: torch.nn.functional.dropout(x),
        lambda x: x + torch.rand(4),
        lambda x: x + torch.randn_like(x) * 1e-3,
        lambda x: torch.bernoulli(x.sigmoid()),
        lambda x: x[:, torch.randperm(4)],
    ],
)
def test_random_numbers(compare, draw):
    with pytest.raises(VerificationError, match="answers differently each time") as caught:
        compare(draw, "y = Identity(x)")
    assert "random" in str(caught.value)
    assert "training=self.training" in caught.value.remedy


def test_state_between_calls(compare):
    calls = []
    with pytest.raises(
        VerificationError, match=r"answers differently each time.* or keeps state between calls"
    ):
        compare(lambda x: x + len(calls) + (calls.append(1) or 0), "y = Identity(x)")


class InFloat32(nn.Module):
    """A table that is neither parameter nor buffer: `.double()` does not reach it."""

    def __init__(self, size):
        super().__init__()
        self.table = torch.randn(size, size) / size**0.5

    def forward(self, x):
        return x @ self.table


def test_a_module_that_cannot_run_in_float64(compare):
    module = InFloat32(4)
    found = compare(module, "y = MatMul(x, w)", w=module.table)
    assert (found.status, found.reference) == ("verified", "float32")
    assert isinstance(compare(module, "y = MatMul(x, w)", w=module.table * 1.01), Failure)


class CastsInside(InFloat32):
    def forward(self, x):
        return x.float() @ self.table


@pytest.mark.parametrize("kind", [InFloat32, CastsInside])
def test_a_large_network_that_computes_in_float32_alone(kind, signature, onnx_bytes):
    """Elements that cancel are as far off as the others, and eager shows no error of its own."""
    module, size = kind(1024), 1024
    sizes = {"x": f"float32 n {size}"}, {"y": f"float32 n {size}"}
    suite = Suite(module, signature(*sizes), (torch.randn(2, size),))
    halves = f"""g (float[n, {size}] x) => (float[n, {size}] y) {{
        a, b = Split<axis = 1, num_outputs = 2>(x) p = MatMul(a, v) q = MatMul(b, w) y = Add(p, q)
    }}"""
    weights = {"v": module.table[:512].contiguous(), "w": module.table[512:].contiguous()}
    assert isinstance(suite.compare(onnx_bytes(halves, weights)), Verification)


def test_an_output_that_is_never_a_number(signature, onnx_bytes):
    """A NaN in each row, or everywhere but on the example, still leaves numbers to compare."""
    first = torch.tensor([0.0, 1.0, 1.0, 1.0])
    for function in (lambda x: x / first.expand_as(x) * 0 + x, lambda x: x.clamp(-3, 3).log()):
        Suite(Of(function), signature(IN, OUT), (torch.rand(5, 4),))
    with pytest.raises(VerificationError, match="output 'y' is NaN in every element") as raised:
        Suite(Of(lambda x: x * torch.nan), signature(IN, OUT), (torch.rand(5, 4),))
    assert "5 other inputs" in str(raised.value)
    assert "Give an example with typical values" in raised.value.remedy


def test_batch_norm_without_running_statistics(signature, onnx_bytes):
    module = nn.BatchNorm1d(4, track_running_stats=False, affine=False).eval()
    text = """g (float[n, 4, 2] x) => (float[n, 4, 2] y) {
        m = ReduceMean(x, a) d = Sub(x, m) q = Mul(d, d) v = ReduceMean(q, a)
        w = Add(v, eps) s = Sqrt(w) y = Div(d, s) }"""
    weights = {"a": torch.tensor([0, 2]), "eps": torch.tensor(module.eps)}
    sizes = {"x": "float32 n 4 2"}, {"y": "float32 n 4 2"}
    suite = Suite(module, signature(*sizes), (torch.randn(5, 4, 2),))
    found = suite.compare(onnx_bytes(text, weights))
    assert found.status == "verified"
    assert not found.rows_independent


def test_a_fixed_batch(signature, onnx_bytes):
    fixed = signature({"x": "float32 3 4"}, {"y": "float32 3 4"}, batch=None)
    text = graph("y = Relu(x)").replace("[n,", "[3,")
    found = Suite(nn.ReLU(), fixed, (torch.randn(3, 4),)).compare(onnx_bytes(text))
    assert (found.batches, found.rows_independent, found.cases) == ((), False, 5)


def test_several_outputs(signature, onnx_bytes):
    module = Of(lambda x, i: (x.argmax(1), x + i, i > 2))
    text = """g (float[n, 4] x, int64[n, 1] i) => (int64[n] top, float[n, 4] sum, bool[n, 1] big) {
        top = ArgMax<axis = 1, keepdims = 0>(x) f = Cast<to = 1>(i) sum = Add(x, f) big = Greater(i, two) }"""
    sizes = {"x": "float32 n 4", "i": "int64 n 1"}
    outputs = {"top": "int64 n", "sum": "float32 n 4", "big": "bool n 1"}
    suite = Suite(module, signature(sizes, outputs), (torch.randn(3, 4), torch.tensor([[1], [2], [9]])))
    found = suite.compare(onnx_bytes(text, {"two": torch.tensor(2)}))
    assert [output.name for output in found.outputs] == ["top", "sum", "big"]
    assert found.outputs[0].top1_agreement is None
    assert found.outputs[1].top1_agreement == 1
    wrong = suite.compare(onnx_bytes(text, {"two": torch.tensor(1)}))
    assert "output 'big'" in wrong.what


def test_values_that_are_not_finite_are_recorded_as_finite_errors(compare):
    found = compare(lambda x: x.log(), "y = Log(x)")
    assert isinstance(found, Verification)
    assert 0 <= found.outputs[0].max_abs < 1e-4


def test_a_module_that_writes_into_its_input(compare):
    found = compare(lambda x: x.add_(1), "o = Constant<value_float = 1.0>() y = Add(x, o)")
    assert isinstance(found, Verification)


def test_a_module_that_fails_on_a_case(signature):
    def picky(x):
        if len(x) == 1:
            raise ValueError("more than one row, please")
        return x

    with pytest.raises(
        VerificationError, match="'example, batch 1': ValueError: more than one row"
    ) as caught:
        Suite(Of(picky), signature(IN, OUT), (torch.randn(5, 4),))
    assert "dynamic_batch=False" in caught.value.remedy


def test_a_saved_file(suite, linear, signature, onnx_bytes):
    described = signature(IN, {"y": "float32 n 3"})
    manifest = Manifest(
        producer={}, model_name="Linear", signature=described, verification=Verification(status="skipped")
    )
    plain = onnx_bytes(LINEAR, {"w": linear.weight, "b": linear.bias})
    file = container.parse(container.append_manifest(plain, manifest), "linear.onnx")
    example = (torch.randn(2, 4),)
    assert verify_file(file, linear, example).status == "verified"
    with pytest.raises(VerificationError, match=r"linear\.onnx does not answer as the module does"):
        verify_file(file, nn.Linear(4, 3).eval(), example)
    with pytest.raises(VerificationError, match="has no manifest"):
        verify_file(container.parse(plain, "plain.onnx"), linear, example)


def test_skipping_is_recorded():
    assert skip(None).verification == Verification(status="skipped")
