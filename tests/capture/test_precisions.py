"""Modules of other floating-point dtypes, and those that change dtype on the way."""

import ml_dtypes
import numpy as np
import pytest
import torch
from convolutional import convolutions, rows
from torch import nn

import nncompile
from nncompile_runtime import InputError, VerificationError

# A few roundings of each dtype, relative to values of about 1.
TOLERANCES = {torch.float16: 5e-3, torch.bfloat16: 3e-2, torch.float64: 1e-12}


def perceptron():
    return nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.LayerNorm(16), nn.Linear(16, 5), nn.Softmax(-1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (convolutions, (3, 3, 8, 8)),
        (perceptron, (3, 8)),
        (lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), (3, 5, 8)),
    ],
    ids=["convolutions", "perceptron", "attention"],
)
def test_modules_of_half_precision(works_end_to_end, make, shape, dtype):
    tolerance = TOLERANCES[dtype]
    model = works_end_to_end(
        make().to(dtype).eval(), (rows(*shape, dtype=dtype),), rtol=tolerance, atol=tolerance
    )
    name = str(dtype).removeprefix("torch.")
    assert {spec.dtype for spec in (*model.inputs, *model.outputs)} == {name}


def test_a_float64_perceptron(works_end_to_end):
    tolerance = TOLERANCES[torch.float64]
    x = rows(3, 8, dtype=torch.float64)
    works_end_to_end(perceptron().double().eval(), (x,), rtol=tolerance, atol=tolerance)


def test_an_operator_without_a_float64_kernel():
    with pytest.raises(VerificationError, match=r"cannot run the module in its dtype.*Conv") as caught:
        nncompile.compile(nn.Conv2d(3, 2, 3).double(), rows(2, 3, 8, 8, dtype=torch.float64))
    assert "module.float()" in caught.value.remedy


class Casts(nn.Module):
    """float32 outside, another dtype inside."""

    def __init__(self, dtype):
        super().__init__()
        self.dtype = dtype
        self.inner = nn.Linear(8, 5).to(dtype)

    def forward(self, x):
        return self.inner(x.to(self.dtype)).float() + 1


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_modules_that_cast_on_the_way(works_end_to_end, dtype):
    tolerance = max(TOLERANCES[dtype], 1e-6)
    model = works_end_to_end(Casts(dtype), (rows(3, 8),), rtol=tolerance, atol=tolerance)
    assert {spec.dtype for spec in (*model.inputs, *model.outputs)} == {"float32"}
    assert model.manifest.verification.reference == "float64"


@pytest.fixture(scope="module")
def narrow():
    """A bfloat16 module, compiled, with its bfloat16 input."""
    torch.manual_seed(0)
    module = nn.Linear(8, 5).to(torch.bfloat16)
    x = rows(3, 8, dtype=torch.bfloat16)
    return nncompile.compile(module, x), module, x


def test_bfloat16_is_computed_in_float32(narrow):
    model, module, x = narrow
    assert model.session.inputs[0].type == "tensor(float)"
    with torch.no_grad():
        exact = module.double()(x.double())
    module.to(torch.bfloat16)
    np.testing.assert_allclose(model.predict(x.float().numpy()), exact.numpy(), rtol=1e-5, atol=1e-6)


def test_numpy_gets_bfloat16_as_float32(narrow):
    model, _, x = narrow
    plain = model.predict(x.float().numpy())
    assert plain.dtype == np.float32
    packaged = model.predict(x.float().numpy().astype(ml_dtypes.bfloat16))
    np.testing.assert_array_equal(packaged, plain)


def test_torch_gets_bfloat16_as_eager_gives_it(narrow):
    model, _, x = narrow
    for given in (x, x.float()):
        answer = model.predict(given)
        assert answer.dtype is torch.bfloat16
        torch.testing.assert_close(
            answer.float().numpy(), model.predict(x.float().numpy()), rtol=8e-3, atol=1e-3
        )
    assert [len(part) for part in model.predict_batches(x, batch_size=2)] == [2, 1]


@pytest.mark.parametrize("given", [np.zeros((3, 8)), torch.zeros(3, 8, dtype=torch.float64)])
def test_values_that_float32_does_not_hold_are_refused(narrow, given):
    with pytest.raises(InputError, match="bfloat16") as caught:
        narrow[0].predict(given)
    assert ".to(torch.bfloat16)" in caught.value.remedy or "numpy.float32" in caught.value.remedy


def test_bfloat16_is_not_narrowed_to_float16():
    model = nncompile.compile(nn.Linear(8, 5).half(), rows(3, 8, dtype=torch.float16))
    with pytest.raises(InputError, match="bfloat16"):
        model.predict(rows(3, 8, dtype=torch.bfloat16))
    with pytest.raises(InputError, match="bfloat16"):
        model.predict(np.zeros((3, 8), ml_dtypes.bfloat16))


class Constants(nn.Module):
    """bfloat16 weights, constants, casts and outputs, in a branch too."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, dtype=torch.bfloat16))

    def forward(self, x):
        y = x.to(torch.bfloat16) * self.weight + torch.tensor([0.5, 1, 2, 3], dtype=torch.bfloat16)
        z = torch.cond(x.sum() > 0, lambda y: y * 2, lambda y: y + self.weight, (y,))
        return {"y": y, "z": z.float(), "zeros": torch.zeros_like(y)}


def test_bfloat16_inside_and_in_branches(works_end_to_end):
    tolerance = TOLERANCES[torch.bfloat16]
    model = works_end_to_end(Constants(), (rows(3, 4),), rtol=tolerance, atol=tolerance)
    assert [spec.dtype for spec in model.outputs] == ["bfloat16", "float32", "bfloat16"]
