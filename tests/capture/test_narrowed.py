"""Modules compiled for a narrower precision: the copy, its border, and what is refused."""

from dataclasses import dataclass

import numpy as np
import onnx
import pytest
import torch
from convolutional import convolutions, rows
from torch import nn

import nncompile
from nncompile_runtime import CaptureError, NncompileError, VerificationError

# A few roundings of each dtype, relative to values of about 1.
TOLERANCES = {"float16": 5e-3, "bfloat16": 4e-2}
NARROW = list(TOLERANCES)


def weights_of(model):
    return onnx.load_from_string(model._file.data).graph.initializer


@pytest.mark.parametrize("precision", NARROW)
@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (convolutions, (3, 3, 8, 8)),
        (lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval(), (3, 5, 8)),
    ],
    ids=["convolutions", "attention"],
)
def test_it_is_called_as_before_and_answers_nearly_as_before(precision, make, shape, tmp_path):
    module, x = make(), rows(*shape)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    model = nncompile.compile(module, x, precision=precision)
    assert {spec.dtype for spec in (*model.inputs, *model.outputs)} == {"float32"}
    model.save(tmp_path / "model.onnx")
    loaded = nncompile.load(tmp_path / "model.onnx", device="cpu")
    for batch in (1, 3):
        with torch.no_grad():
            expected = module(x[:batch])
        for predictor in (model, loaded):
            got = predictor.predict(x[:batch].numpy())
            assert got.dtype == np.float32
            tolerance = TOLERANCES[precision]
            np.testing.assert_allclose(got, expected.numpy(), rtol=tolerance, atol=tolerance)
            assert np.abs(got - expected.numpy()).max() > 1e-6  # it did round
    after = module.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not module._forward_hooks
    assert not module._forward_pre_hooks


@pytest.mark.parametrize("precision", NARROW)
def test_the_record_says_what_was_compared(precision):
    model = nncompile.compile(convolutions(), rows(2, 3, 8, 8), precision=precision)
    record = model.manifest.verification
    assert (model.manifest.precision, record.reference) == (precision, "float64")
    assert (record.rtol, record.atol) == {"float16": (1e-2, 1e-3), "bfloat16": (8e-2, 8e-3)}[precision]
    (output,) = record.outputs
    assert output.top1_agreement is not None
    # Measured against the module before it was cast: what the weights lost counts as eager's own error.
    assert output.eager_max_abs > {"float16": 1e-4, "bfloat16": 1e-3}[precision]


def test_float16_is_what_the_graph_holds_and_bfloat16_is_not():
    """ONNX Runtime's CPU, where a compile is verified, has no bfloat16."""
    for precision, kind in (("float16", onnx.TensorProto.FLOAT16), ("bfloat16", onnx.TensorProto.FLOAT)):
        found = weights_of(nncompile.compile(convolutions(), rows(2, 3, 8, 8), precision=precision))
        assert {weight.data_type for weight in found if len(weight.dims) > 1} == {kind}


@pytest.mark.parametrize("precision", ["float32", "tf32"])
def test_the_others_leave_weights_and_answers_alone(precision):
    module, x = convolutions(), rows(2, 3, 8, 8)
    model = nncompile.compile(module, x, precision=precision)
    assert model.manifest.precision == precision
    assert model.manifest.verification.rtol == 1e-4
    with torch.no_grad():
        np.testing.assert_allclose(model.predict(x.numpy()), module(x).numpy(), rtol=1e-5, atol=1e-5)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(300, 40)
        self.head = nn.Linear(40, 300, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens):
        return self.head(self.embed(tokens))


def test_tied_weights_stay_tied_and_integers_stay_integers():
    module, tokens = Tied().eval(), torch.arange(6).reshape(2, 3)
    model = nncompile.compile(module, tokens, precision="float16")
    assert [spec.dtype for spec in model.inputs] == ["int64"]
    # One table of 300 x 40 as the embedding, and at most one more, transposed for the product.
    assert sum(len(weight.raw_data) for weight in weights_of(model)) <= 2 * 300 * 40 * 2 + 64
    narrow = nncompile.capture.precision.narrowed(module, (tokens,), {}, "float16")
    assert narrow.head.weight is narrow.embed.weight


@dataclass
class Answer:
    score: torch.Tensor
    index: torch.Tensor
    half: torch.Tensor


class Structured(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.register_buffer("step", torch.tensor([1, 2, 3]))

    def forward(self, pair, *, mask):
        y = self.linear(pair["a"] * mask + pair["b"])
        return Answer(y, y.argmax(1) + self.step[0], y.to(torch.float16))


def test_structures_keep_their_dtypes_leaf_by_leaf():
    inputs, mask = {"a": rows(2, 4), "b": rows(2, 4)}, torch.ones(2, 4, dtype=torch.bool)
    model = nncompile.compile(Structured().eval(), (inputs,), {"mask": mask}, precision="float16")
    assert [spec.dtype for spec in model.inputs] == ["float32", "float32", "bool"]
    assert [spec.dtype for spec in model.outputs] == ["float32", "int64", "float16"]


def test_a_module_of_that_precision_keeps_its_own_signature():
    model = nncompile.compile(convolutions().half(), rows(2, 3, 8, 8).half(), precision="float16")
    assert {spec.dtype for spec in (*model.inputs, *model.outputs)} == {"float16"}


class Overflowing(nn.Module):
    """Finite in float32, and in bfloat16; beyond 65504 from the second layer on."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)
        nn.init.constant_(self.second.weight, 5e4)

    def forward(self, x):
        return self.last(self.second(self.first(x).abs() + 1))


def test_an_overflow_names_the_layer():
    with pytest.raises(CaptureError, match=r"overflows in float16.*layer 'second' \(Linear\)") as caught:
        nncompile.compile(Overflowing().eval(), rows(2, 4), precision="float16", verify=False)
    assert "precision='bfloat16'" in caught.value.remedy
    model = nncompile.compile(Overflowing().eval(), rows(2, 4), precision="bfloat16")
    assert np.isfinite(model.predict(rows(2, 4).numpy())).all()


def test_a_weight_that_overflows_is_named_even_where_no_answer_shows_it():
    module = nn.Sequential(nn.Linear(4, 3), nn.Sigmoid()).eval()
    with torch.no_grad():
        module[0].bias[1] = 1e5
    with pytest.raises(CaptureError, match=r"weight '0\.bias'.*beyond the range of float16"):
        nncompile.compile(module, rows(2, 4), precision="float16")
    nncompile.compile(module, rows(2, 4), precision="bfloat16")


def test_what_is_not_finite_in_float32_either_is_no_overflow():
    class Masked(nn.Linear):
        def forward(self, x):
            return super().forward(x).masked_fill(x[:, :1] > 0, -torch.inf)

    model = nncompile.compile(Masked(4, 3).eval(), rows(4, 4), precision="float16")
    assert np.isneginf(model.predict(rows(4, 4).numpy())).any()


def test_an_overflow_on_invented_values_only_is_verified_on_the_example():
    """x 100, the range that verification invents, overflows; the example does not."""

    class Square(nn.Linear):
        def forward(self, x):
            return (super().forward(x) * 10) ** 2

    torch.manual_seed(0)
    module, x = Square(4, 3).eval(), rows(2, 4) / 4
    model = nncompile.compile(module, x, precision="float16")
    assert model.manifest.verification.outputs[0].max_abs < 1


def test_a_module_that_loses_its_meaning_is_refused():
    class Cancels(nn.Linear):
        def forward(self, x):
            y = super().forward(x)
            return (y + 3000.0) - 3000.0

    with pytest.raises(VerificationError, match=r"too far off in float16.*differs.*float64") as caught:
        nncompile.compile(Cancels(4, 3).eval(), rows(2, 4), precision="float16")
    assert "float32" in caught.value.remedy
    nncompile.compile(Cancels(4, 3).eval(), rows(2, 4))


def test_a_module_that_cannot_run_so_names_the_line():
    class Constant(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = torch.ones(4, 4)

        def forward(self, x):
            return x @ self.table

    with pytest.raises(CaptureError, match=r"does not run in float16 at .*x @ self.table") as caught:
        nncompile.compile(Constant(), rows(2, 4), precision="float16")
    assert "buffers" in caught.value.remedy


@pytest.mark.parametrize("precision", ["tf32", "bfloat16"])
def test_what_no_cpu_computes_is_not_for_the_cpu(precision):
    with pytest.raises(NncompileError, match=f"precision='{precision}' is not for target='cpu'") as caught:
        nncompile.compile(convolutions(), rows(2, 3, 8, 8), precision=precision, target="cpu")
    assert "float32" in caught.value.remedy


def test_an_unknown_precision_is_refused():
    with pytest.raises(NncompileError, match=r"precision='half' is not offered") as caught:
        nncompile.compile(convolutions(), rows(2, 3, 8, 8), precision="half")
    assert "float16, bfloat16, tf32" in caught.value.remedy
