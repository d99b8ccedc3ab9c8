"""Encoders with padding: PyTorch's fast path has answers of its own."""

import pytest
import torch
from torch import nn

import nncompile
from nncompile.verify.fast_path import switched_off
from nncompile_runtime import VerificationError


class Mean(nn.Module):
    """Reads all positions, padded ones too, unless they are masked."""

    def __init__(self, *, masked):
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1)
        self.masked = masked

    def forward(self, x, padding):
        y = self.encoder(x, src_key_padding_mask=padding)
        if self.masked:
            y = y.masked_fill(padding.unsqueeze(2), 0.0)
        return y.mean(dim=1)


@pytest.fixture
def inputs():
    torch.manual_seed(0)
    return torch.randn(2, 5, 8), torch.arange(5).expand(2, 5) >= torch.tensor([[3], [5]])


def test_two_answers_are_refused_and_explained(inputs):
    module = Mean(masked=False).eval()
    with pytest.raises(VerificationError, match="PyTorch has two answers") as error:
        nncompile.compile(module, inputs)
    assert "set_fastpath_enabled(False)" in str(error.value)


def test_without_the_fast_path_there_is_one(inputs):
    torch.manual_seed(1)
    module = Mean(masked=False).eval()
    with switched_off():
        want = module(*inputs).detach()
        model = nncompile.compile(module, inputs)
    torch.testing.assert_close(model.predict(*inputs), want, rtol=1e-4, atol=1e-5)


def test_padding_that_nothing_reads(inputs):
    module = Mean(masked=True).eval()
    model = nncompile.compile(module, inputs)
    with torch.no_grad():
        torch.testing.assert_close(model.predict(*inputs), module(*inputs), rtol=1e-4, atol=1e-5)


def test_the_switch_is_put_back():
    assert torch.backends.mha.get_fastpath_enabled()
    with switched_off() as before:
        assert before
        assert not torch.backends.mha.get_fastpath_enabled()
    assert torch.backends.mha.get_fastpath_enabled()
