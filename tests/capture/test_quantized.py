"""Modules quantised with torch.ao, and parametrised weights: what stands in for them computes the same."""

import copy

import pytest
import torch
from torch import nn
from torch.ao import quantization
from torch.ao.quantization import quantize_fx
from torch.nn.utils import parametrizations, parametrize

import nncompile
from nncompile_runtime import CaptureError

pytestmark = pytest.mark.filterwarnings(
    "ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning"
)

STEP = 1 / 64  # of outputs of about 1: two steps of 7 bits, as in nncompile.verify.compare


def images(batch=3):
    return torch.randn(batch, 4, 9, 10, generator=torch.Generator().manual_seed(3))


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(4, 6, 3),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 3),
    )


def reference(convert=quantize_fx.convert_to_reference_fx, qconfig="x86"):
    mapping = quantization.get_default_qconfig_mapping(qconfig)
    observed = quantize_fx.prepare_fx(network().eval(), mapping, (images(),))
    observed(images())
    return convert(observed)


def quantization_aware(*, frozen=True):
    mapping = quantization.get_default_qat_qconfig_mapping("x86")
    module = quantize_fx.prepare_qat_fx(network().train(), mapping, (images(),))
    module(images())
    return module.eval().apply(quantization.disable_observer) if frozen else module.eval()


def eager_quantization_aware():
    torch.manual_seed(0)
    module = nn.Sequential(
        quantization.QuantStub(), nn.Conv2d(4, 6, 3), nn.ReLU(), quantization.DeQuantStub()
    )
    module.train().qconfig = quantization.QConfig(
        activation=quantization.FakeQuantize.with_args(observer=quantization.MovingAverageMinMaxObserver),
        weight=quantization.default_weight_fake_quant,
    )
    quantization.prepare_qat(module, inplace=True)
    module(images())
    return module.eval().apply(quantization.disable_observer)


@pytest.mark.parametrize(
    "make",
    [
        reference,
        lambda: reference(qconfig="qnnpack"),
        lambda: reference(quantize_fx._convert_to_reference_decomposed_fx),
        quantization_aware,
        eager_quantization_aware,
    ],
    ids=["reference", "symmetric weights", "decomposed", "quantisation-aware", "quantisation-aware, eager"],
)
def test_quantize_and_dequantize(works_end_to_end, make):
    model = works_end_to_end(make(), (images(),), rtol=0, atol=STEP)
    operators = model._file.facts.operators
    assert operators["QuantizeLinear"] == operators["DequantizeLinear"] >= 2
    assert "float64" not in {spec.dtype for spec in model.outputs}


def test_fake_quantisation_that_is_off_does_nothing(works_end_to_end):
    module = eager_quantization_aware().apply(quantization.disable_fake_quant)
    model = works_end_to_end(module, (images(),))
    assert "QuantizeLinear" not in model._file.facts.operators


def linears(per_channel=False, **options):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(40, 30), nn.ReLU(), nn.Linear(30, 5, bias=False)).eval()
    qconfig = (
        quantization.per_channel_dynamic_qconfig if per_channel else quantization.default_dynamic_qconfig
    )
    spec = {nn.Linear: qconfig} if not options else {nn.Linear}
    return quantization.quantize_dynamic(module, spec, **options)


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("shape", [(3, 40), (3, 2, 40)])
def test_a_dynamically_quantised_linear(works_end_to_end, per_channel, shape):
    model = works_end_to_end(linears(per_channel), (torch.randn(shape) * 3,))
    assert model._file.facts.operators["MatMulInteger"] == 2
    assert not model.manifest.verification.rows_independent  # one scale for the whole batch


@pytest.mark.parametrize(
    "x",
    [
        torch.zeros(2, 40),
        torch.full((2, 40), 3.0),
        torch.full((2, 40), -3.0),
        torch.randn(2, 40) * 1e-8,
        torch.randn(2, 40) * 1e-42,
        torch.randn(2, 40) * 1e4,
        torch.randn(2, 40).abs() + 5,
    ],
)
def test_the_scale_is_chosen_as_pytorch_chooses_it(x):
    module = linears()[0]
    model = nncompile.compile(module, torch.randn(2, 40))
    torch.testing.assert_close(
        model.predict(x), module(x), rtol=1e-6, atol=1e-6 * float(x.abs().max() + 1e-6)
    )


def test_a_dynamic_linear_of_float16_weights(works_end_to_end):
    model = works_end_to_end(linears(dtype=torch.float16), (torch.randn(3, 40),))
    assert "MatMulInteger" not in model._file.facts.operators


def static_int8():
    return reference(quantize_fx.convert_fx)


def dynamic_lstm():
    return quantization.quantize_dynamic(nn.Sequential(nn.LSTM(4, 6)), {nn.LSTM})


@pytest.mark.parametrize(
    ("make", "example", "problem", "remedy"),
    [
        (static_int8, images(), "packed for PyTorch's own", "convert_to_reference_fx"),
        (dynamic_lstm, torch.randn(5, 3, 4), "packed for PyTorch's own", "convert_to_reference_fx"),
        (lambda: quantization_aware(frozen=False), images(), "still observes", "disable_observer"),
        (lambda: reference(lambda observed: observed), images(), "still observes", "convert_to_reference_fx"),
    ],
    ids=["static int8", "dynamic LSTM", "observing", "not converted"],
)
def test_what_is_refused(make, example, problem, remedy):
    with pytest.raises(CaptureError, match=problem) as caught:
        nncompile.compile(make(), example)
    assert remedy in caught.value.remedy


class Symmetric(nn.Module):
    def forward(self, weight):
        return weight.triu() + weight.triu(1).transpose(-1, -2)


def symmetric():
    layer = nn.Linear(4, 4)
    parametrize.register_parametrization(layer, "weight", Symmetric())
    return layer


PARAMETRISED = {
    "weight_norm": lambda: parametrizations.weight_norm(nn.Conv2d(4, 5, 3)),
    "weight_norm, whole": lambda: parametrizations.weight_norm(nn.Conv2d(4, 5, 3), dim=None),
    "spectral_norm": lambda: parametrizations.spectral_norm(nn.Conv2d(4, 5, 3)),
    "orthogonal, exponential": lambda: parametrizations.orthogonal(nn.Linear(10, 10)),
    "orthogonal, Cayley": lambda: parametrizations.orthogonal(nn.Linear(10, 10), orthogonal_map="cayley"),
    "orthogonal, Householder": lambda: parametrizations.orthogonal(
        nn.Linear(10, 10), orthogonal_map="householder"
    ),
    "a user's": lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), symmetric()),
    "weight_norm, old": lambda: nn.utils.weight_norm(nn.Conv2d(4, 5, 3)),
    "spectral_norm, old": lambda: nn.utils.spectral_norm(nn.Conv2d(4, 5, 3)),
}


@pytest.mark.parametrize("make", PARAMETRISED.values(), ids=PARAMETRISED)
def test_parametrised_weights(works_end_to_end, make):
    torch.manual_seed(0)
    module = make()
    before = copy.deepcopy(module.state_dict())
    works_end_to_end(module, (images(),))
    assert list(module.state_dict()) == list(before)
    assert all(torch.equal(a, b) for a, b in zip(module.state_dict().values(), before.values(), strict=True))
