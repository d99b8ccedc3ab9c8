"""What cannot be captured: each error says what and where, in the user's own code, and what to do."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import nncompile
from nncompile_runtime import CaptureError


def located(module):
    """`file:line ('the line')` of the line marked `# here` in the module's source."""
    lines = Path(__file__).read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"class {type(module).__name__}("))
    at = next(i for i in range(start, len(lines)) if lines[i].endswith("# here"))
    return f"{__file__}:{at + 1} ({lines[at].strip()!r})"


def error(captured, module, example, kwargs=None, **options):
    with pytest.raises(CaptureError) as caught:
        captured(module, example, kwargs, **options)
    assert caught.value.remedy
    return caught.value


@pytest.mark.parametrize(
    ("module", "got", "remedy"),
    [
        (nn.Linear, "got the class Linear", "Create an instance"),
        (lambda x: x, "got function", "Pass an instance"),
        ("models/lenet.py:LeNet5", "got str", "Pass an instance"),
        (None, "got NoneType", "Pass an instance"),
    ],
)
def test_not_a_module(captured, module, got, remedy):
    found = error(captured, module, torch.zeros(2, 3))
    assert found.problem == f"compile() takes a torch.nn.Module, {got}."
    assert found.remedy.startswith(remedy)
    with pytest.raises(CaptureError, match=got):
        nncompile.compile(module, torch.zeros(2, 3))


class Misfit(nn.Module):
    def forward(self, x, y):
        return x @ y  # here


def test_an_example_that_does_not_fit(captured):
    found = error(captured, Misfit(), (torch.zeros(2, 3), torch.zeros(2, 3)))
    assert "fails on the example input in eager PyTorch" in found.problem
    assert located(Misfit()) in found.problem
    assert "(2x3 and 2x3)" in found.problem
    assert "shapes and dtypes" in found.remedy


def test_an_example_that_does_not_fit_a_layer_of_pytorch(captured):
    found = error(captured, nn.Sequential(nn.Linear(5, 2)), torch.zeros(2, 3))
    assert "(2x3 and 5x2)" in found.problem
    assert __file__ not in found.problem


@pytest.mark.parametrize(
    ("example", "kwargs", "problem"),
    [
        (torch.zeros(2, 3), None, "missing 1 required positional argument: 'y'"),
        ((torch.zeros(2, 3),) * 3, None, "takes 3 positional arguments but 4 were given"),
        ((torch.zeros(2, 3),) * 2, {"z": torch.zeros(2)}, "unexpected keyword argument 'z'"),
        ((), None, "missing 2 required positional arguments"),
    ],
)
def test_arguments_that_forward_does_not_take(captured, example, kwargs, problem):
    assert problem in error(captured, Misfit(), example, kwargs).problem


class BranchOnData(nn.Module):
    def forward(self, x):
        if x.sum() > 0:  # here
            return x
        return -x


class Item(nn.Module):
    def forward(self, x):
        scale = x.max().item()
        return x if scale > 1 else x / scale  # here


@pytest.mark.parametrize("module", [BranchOnData(), Item()])
def test_a_decision_by_data(captured, module):
    found = error(captured, nn.Sequential(module), torch.randn(2, 3))
    assert found.problem.startswith("forward decides by a tensor's value at ")
    assert located(module) in found.problem
    assert "torch.where" in found.remedy
    assert "torch.cond" in found.remedy


class Numpy(nn.Module):
    def forward(self, x):
        return torch.from_numpy(np.tanh(x.numpy()))  # here


def test_numpy_in_forward(captured):
    assert located(Numpy()) in error(captured, Numpy(), torch.randn(2, 3)).problem


class NoTranslation(nn.Module):
    def forward(self, x):
        return torch.special.airy_ai(x)


def test_an_operator_that_onnx_lacks(captured):
    found = error(captured, NoTranslation(), torch.randn(2, 3))
    assert found.problem == "The operator aten.special_airy_ai has no ONNX translation."


class Opaque:
    """No tensor, number, string, tuple, list or dict."""


class TakesAnything(nn.Module):
    def forward(self, x, other):
        return x + 1


@pytest.mark.parametrize("other", [Opaque(), {1, 2}, torch.float16])
def test_an_input_that_cannot_be_described(captured, other):
    error(captured, TakesAnything(), (torch.randn(2, 3), other))


@pytest.mark.parametrize(
    "x",
    [
        torch.zeros(2, 3, dtype=torch.complex64),
        torch.zeros(2, 3).to_sparse(),
        torch.zeros(2, 3, dtype=torch.float8_e4m3fn),
    ],
)
def test_a_tensor_that_the_runtime_cannot_be_given(captured, x):
    found = error(captured, TakesAnything(), (x, 3))
    assert str(x.dtype).removeprefix("torch.") in found.problem


def test_weights_without_values(captured):
    assert "without values" in error(captured, nn.Linear(3, 2, device="meta"), torch.zeros(2, 3)).problem


def test_keyword_inputs_that_are_no_dict(captured):
    assert "of type list" in error(captured, Misfit(), torch.zeros(2, 3), [torch.zeros(2)]).problem


class CountsCalls(nn.Module):
    def __init__(self, update):
        super().__init__()
        self.update = update
        self.register_buffer("calls", torch.zeros(2))
        self.register_buffer("fixed", torch.tensor([float("nan"), 1]))

    def forward(self, x):
        self.update(self, x)
        return x * self.fixed.nan_to_num().sum()


def add(module, x):
    module.calls += 1


def rebind(module, x):
    module.calls = module.calls + 1


def grow(module, x):
    module.calls = torch.cat([module.calls, x.sum(0)])


def add_and_fail(module, x):
    module.calls += 1
    raise ValueError("later")


@pytest.mark.parametrize("update", [add, rebind, grow, add_and_fail])
def test_a_buffer_that_forward_changes(captured, update):
    inner = CountsCalls(update)
    buffer = inner.calls
    found = error(captured, nn.Sequential(inner), torch.randn(2, 3))
    if update is add_and_fail:
        assert "ValueError: later" in found.problem
    else:
        assert "changes the module's buffer '0.calls'" in found.problem
        assert "return the new one as an output" in found.remedy
    assert inner.calls is buffer
    assert torch.equal(buffer, torch.zeros(2))


@pytest.mark.parametrize(
    ("module", "args", "kwargs", "remedy"),
    [
        (nn.Bilinear(2, 3, 4), {"input1": torch.zeros(2, 2)}, None, "example_kwargs, not as one dict"),
        (nn.Bilinear(2, 3, 4), torch.zeros(2, 2), None, "forward takes (input1, input2)"),
        (nn.Bilinear(2, 3, 4), (), {"input1": torch.zeros(2, 2), "x": 1}, "forward takes (input1, input2)"),
        (nn.Embedding(5, 2), torch.zeros(2, 2), None, "1x128:int64"),
        (nn.Linear(3, 2).half(), torch.zeros(2, 3), None, "are float16: give an example of float16"),
        (
            nn.Linear(3, 2).double(),
            torch.zeros(2, 3),
            None,
            "weights are float64: give an example of float64",
        ),
        (nn.Linear(3, 2), torch.zeros(2, 4), None, "shapes and dtypes that forward takes"),
        (nn.Linear(3, 2), torch.zeros(2, 3, dtype=torch.int64), None, "shapes and dtypes that forward takes"),
        (nn.Embedding(5, 2), torch.full((2, 2), 7), None, "shapes and dtypes that forward takes"),
    ],
)
def test_the_remedy_fits_the_example(captured, module, args, kwargs, remedy):
    assert remedy in error(captured, module, args, kwargs).remedy


def test_torchscript(captured):
    found = error(captured, torch.jit.script(nn.Linear(3, 2)), torch.zeros(2, 3))
    assert "TorchScript" in found.problem
    assert "nn.Module that it was made from" in found.remedy
