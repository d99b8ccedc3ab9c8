"""Modules of float64 with Python's numbers answer to the last digits, and those of float32 are as before."""

import onnx_ir as ir
import pytest
import torch
from several import Of
from torch import nn
from torch.nn import functional

import nncompile
from nncompile.capture import constants
from nncompile.capture.exporter import TRANSLATIONS, _translations

DOUBLE = torch.float64
EXACT = {"rtol": 1e-12, "atol": 1e-13}


def replaced(x):
    y = x.clone()
    y[:, 1] = 0.1
    return y


FAMILIES = {
    "arithmetic": [
        lambda x: x + 0.1,
        lambda x: 0.1 - x,
        lambda x: x * 0.3 - x / 0.7,
        lambda x: 0.1 / x,
        lambda x: torch.add(x, x * x, alpha=0.1),
        lambda x: torch.sub(x, x * x, alpha=0.1),
        lambda x: torch.rsub(x, 0.7, alpha=0.3),
        lambda x: x.abs() ** 0.3,
        lambda x: 0.3**x,
        lambda x: x % 0.3,
        lambda x: torch.remainder(0.7, x),
        lambda x: torch.fmod(x, 0.3),
        lambda x: x // 0.3,
        lambda x: (x.float() * 0.1).double() * 0.1,
        lambda x: x.long() * 0.1,
    ],
    "choices": [
        lambda x: x.clamp(-0.1, 0.3),
        lambda x: x.clamp(min=0.1).clamp_max(0.3),
        lambda x: torch.where(x > 0.1, x, 0.1),
        lambda x: x.masked_fill(x > 0, 0.1),
        lambda x: x.round(decimals=1) > 0.1,
        lambda x: functional.hardtanh(x, -0.1, 0.3),
        lambda x: functional.threshold(x, 0.1, 0.3),
        lambda x: functional.hardshrink(x, 0.1),
        lambda x: functional.softshrink(x, 0.1),
        lambda x: torch.nan_to_num(x / x.sign().relu(), 0.1, 0.3, -0.7),
        lambda x: functional.pad(x, (1, 1), value=0.1),
        lambda x: x.index_fill(1, torch.tensor([1, 2]), 0.1),
        lambda x: x.scatter(1, torch.zeros(x.shape[0], 1, dtype=torch.int64), 0.1),
        replaced,
    ],
    "constants": [
        lambda x: x + torch.full((6,), 0.1, dtype=x.dtype),
        lambda x: x + torch.full_like(x, 0.1),
        lambda x: x + x.new_full((6,), 0.1),
        lambda x: x + x.clone().fill_(0.1),
        lambda x: x + torch.tensor([0.1, 0.3, 0.7, 0.9, 0.11, 0.13], dtype=x.dtype),
        lambda x: x + torch.arange(0, 0.6, 0.1, dtype=x.dtype),
        lambda x: x + torch.linspace(0, 0.7, 6, dtype=x.dtype),
        lambda x: x + torch.logspace(0, 0.7, 6, dtype=x.dtype),
    ],
    "activations": [
        lambda x: functional.leaky_relu(x, 0.1),
        lambda x: functional.prelu(x, torch.tensor([0.1], dtype=x.dtype)),
        lambda x: functional.elu(x, 0.3),
        lambda x: functional.celu(x, 0.3),
        functional.selu,
        lambda x: functional.softplus(x, 0.3, 0.7),
        functional.hardsigmoid,
        functional.hardswish,
        functional.mish,
        lambda x: functional.gelu(x, approximate="tanh"),
    ],
    "functions": [
        lambda x: x.abs().log10(),
        lambda x: x.abs().log2(),
        torch.deg2rad,
        torch.rad2deg,
        torch.sinc,
        lambda x: torch.logit(x.sigmoid(), eps=0.1),
        lambda x: torch.addcmul(x, x, x, value=0.1),
        lambda x: torch.addcdiv(x, x, x * x + 1, value=0.1),
        lambda x: torch.lerp(x, x * x, 0.7),
        lambda x: torch.lerp(x, x * x, torch.full_like(x, 0.7)),
        lambda x: torch.xlogy(x, 0.3),
        lambda x: torch.float_power(x.abs(), 0.3),
    ],
    "norms": [
        lambda x: functional.layer_norm(x * 1e-5, (6,), eps=1e-3),
        lambda x: functional.rms_norm(x * 1e-5, (6,), eps=1e-3),
        lambda x: functional.group_norm(x.reshape(-1, 6, 1) * 1e-5, 2, eps=1e-3),
        lambda x: functional.instance_norm(x.reshape(-1, 2, 3) * 1e-5, eps=1e-3),
        lambda x: functional.batch_norm(x, torch.zeros_like(x[0]), torch.ones_like(x[0]) * 1e-9, eps=1e-3),
        lambda x: functional.normalize(x, eps=5.1),
        lambda x: x.norm(p=3, dim=1),
        lambda x: torch.linalg.vector_norm(x, 0.3, dim=1),
        lambda x: functional.pairwise_distance(x, x * x, eps=0.1),
        lambda x: functional.cosine_similarity(x, x * x + 1, eps=9.3),
    ],
    "products": [
        lambda x: torch.addmm(x, x, torch.eye(6, dtype=x.dtype), beta=0.1, alpha=0.3),
        lambda x: torch.baddbmm(x[:, None], x[:, None], x[:, :, None] * x[:, None], beta=0.1, alpha=0.3),
        lambda x: torch.addmv(x[:, 0], x, torch.ones(6, dtype=x.dtype), beta=0.1, alpha=0.3),
        lambda x: functional.scaled_dot_product_attention(
            x[:, None, None], x[:, None, None], x[:, None, None]
        ),
    ],
    "attention": [
        lambda x: functional.scaled_dot_product_attention(*[x[:, None, None]] * 3, scale=0.3),
        lambda x: functional.scaled_dot_product_attention(*[x[:, :, None]] * 3, scale=0.7),
        lambda x: functional.scaled_dot_product_attention(*[x[:, :, None]] * 3, is_causal=True),
    ],
    "losses": [
        lambda x: functional.smooth_l1_loss(x, x * x, beta=0.3, reduction="none"),
        lambda x: functional.huber_loss(x, x * x, delta=0.3, reduction="none"),
        lambda x: functional.margin_ranking_loss(x, x * x, x.sign(), margin=0.1, reduction="none"),
        lambda x: functional.gaussian_nll_loss(x, x * x, x * x + 0.1, eps=1e-3, reduction="none"),
    ],
}


@pytest.mark.parametrize("family", FAMILIES)
def test_numbers_of_float64(family):
    net = Of(FAMILIES[family])
    torch.manual_seed(0)
    x = torch.randn(5, 6, dtype=DOUBLE)
    got = nncompile.compile(net, x[:3], verify=False).predict(x)
    for have, want in zip(got, net(x), strict=True):
        torch.testing.assert_close(have, want, **EXACT)


def test_they_are_verified():
    net = Of([function for family in ("arithmetic", "norms") for function in FAMILIES[family]])
    model = nncompile.compile(net, torch.randn(3, 6, dtype=DOUBLE))
    assert model.report.verification.status == "verified"


class Float32(nn.Module):
    def forward(self, x):
        y = torch.where(x > 0.1, x * 0.1 + 0.3, 0.7).clamp(-0.1, 0.3) + torch.full((6,), 0.1)
        return functional.leaky_relu(y, 0.1) + x.new_full((6,), 0.3) + torch.full((6,), 3) + 2 * x


def test_float32_is_translated_as_before(captured, monkeypatch):
    x = torch.randn(3, 6)

    def nodes():
        _translations.cache_clear()
        model = captured(Float32(), x)
        return ir.to_proto(model.graph).SerializeToString()

    ours = nodes()
    for operator in constants.TRANSLATIONS:
        monkeypatch.delitem(TRANSLATIONS, operator)
    assert nodes() == ours
    _translations.cache_clear()


class Mixed(nn.Module):
    """float32 and float64 in one graph."""

    def __init__(self):
        super().__init__()
        self.norm = nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 6), nn.LeakyReLU(0.1), nn.GroupNorm(2, 6))

    def forward(self, x):
        return self.norm(x).double() * 0.1 + 0.3, functional.leaky_relu(x, 0.1)


def test_both_in_one_graph(works_end_to_end):
    model = works_end_to_end(Mixed(), (torch.randn(3, 6),))
    assert "LayerNormalization" in {node.op_type for node in _graph(model).node}


def _graph(model):
    import onnx

    return onnx.load_from_string(model.artifact).graph
